"""The tool `zoom`: a part of any image of the conversation, enlarged."""
from PIL import Image

SCHEMA = {
    "description": "Enlarges a part of an image.",
    "parameters": {
        "type": "object",
        "properties": {
            "box": {
                "type": "array",
                "items": {"type": "integer"},
                "description": "Left, top, right and bottom edge of the part in pixels.",
            },
            "image": {"type": "integer", "description": "Number of the image, from 0; the last one where absent."},
        },
        "required": ["box"],
    },
}

# The shorter side of an enlarged part, in pixels.
LEAST_SIDE = 224


def call(arguments, images):
    image = images[arguments.get("image", -1)]
    left, top, right, bottom = arguments["box"]
    box = max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)
    width, height = box[2] - box[0], box[3] - box[1]
    if min(width, height) <= 0:
        # The model reads this, after `Error: ValueError: `.
        raise ValueError(f"the box {[left, top, right, bottom]} has no pixel of the image of {image.width}x{image.height}")
    factor = max(1, round(LEAST_SIDE / min(width, height)))
    part = image.crop(box).resize((width * factor, height * factor), Image.Resampling.LANCZOS)
    return [f"The part is enlarged {factor} times.", part]
