"""What needle.yaml needs of Python; ../ is on PYTHONPATH."""

from PIL import Image

import needle


def pictures(doc):
    return [Image.open(path).convert("RGB") for path in doc["images"]]


def messages(doc):
    system = [{"type": "text", "text": doc["messages"][0]["content"]}]
    user = [{"type": "image", "url": picture} for picture in pictures(doc)] + [{"type": "text", "text": doc["question"]}]
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def score(doc, results):
    return {"needle_accuracy": float(needle.is_right(results[0], doc["solution"]))}
