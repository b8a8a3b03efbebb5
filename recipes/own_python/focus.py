"""The reward `focus`: the share of the picture that the model did not look at in its smallest close-up, for answers that are right."""


def reward(*, images, processed_images, answer, solution, columns):
    if solution is None:
        return None
    if answer != solution or not processed_images:
        return 0.0
    # A row may say how small a close-up is small enough: {"messages": ..., "least_share": 0.01}.
    least = columns.get("least_share", 0.0)
    whole = images[0].width * images[0].height
    smallest = min(image.width * image.height for image in processed_images)
    return 1.0 - min(1.0, max(smallest / whole, least))
