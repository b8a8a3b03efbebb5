"""The tools of `cargo bench --bench image_tools` in Python: a process that stays, has its modules loaded, and takes pictures as PNG over a pipe.

A message is a line of JSON and, behind it, PNG files whose lengths in bytes it lists as `images`. A request has `operation` and `arguments`, a
reply the `seconds` that the operation took without decoding and encoding.
"""

import io
import json
import sys
import time

import cv2
import numpy
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

COLOUR, DASH, GAP, WIDTH = (0xE6, 0x19, 0x4B), 7, 3, 2


def zoom(image, box, size, resample):
    return image.crop(box).resize(size, resample)


def thumbnail(image, size):
    image.thumbnail(size, Image.LANCZOS)
    return image


def line(image, at, is_horizontal):
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    for start in range(0, image.size[0 if is_horizontal else 1], DASH + GAP):
        along, across = (start, start + DASH - 1), (at, at + WIDTH - 1)
        left_right, top_bottom = (along, across) if is_horizontal else (across, along)
        pen.rectangle((left_right[0], top_bottom[0], left_right[1], top_bottom[1]), fill=COLOUR)
    return drawn


def panels(image, shown):
    picture = numpy.array(image)
    grey = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (3, 3), 4)
    outlines, _ = cv2.findContours(cv2.Canny(grey, 100, 200), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    boxes = []
    for outline in sorted(outlines, key=len, reverse=True)[:10]:
        box = cv2.boundingRect(outline)
        if all(max(abs(a - b) for a, b in zip(box, other)) >= 10 for other in boxes):
            boxes.append(box)
    boxes.sort(key=lambda box: (box[1], box[0]))
    for number, (x, y, width, height) in enumerate(boxes, 1):
        if number != shown:
            picture[y : y + height + 1, x : x + width + 1] = 255
    return Image.fromarray(picture)


OPERATIONS = {
    "crop": lambda images, box: images[0].crop(box),
    "zoom": lambda images, box, size, resample: zoom(images[0], box, size, getattr(Image, resample)),
    "resize_all": lambda images, size: [image.resize(size, Image.BICUBIC) for image in images],
    "rotate": lambda images, angle, expand, fill: images[0].rotate(angle, expand=expand, fillcolor=(fill,) * 3),
    "mirror": lambda images: ImageOps.mirror(images[0]),
    "brightness": lambda images, factor: ImageEnhance.Brightness(images[0]).enhance(factor),
    "contrast": lambda images, factor: ImageEnhance.Contrast(images[0]).enhance(factor),
    "sharpness": lambda images, factor: ImageEnhance.Sharpness(images[0]).enhance(factor),
    "blur": lambda images, radius: images[0].filter(ImageFilter.GaussianBlur(radius)),
    "greyscale": lambda images: images[0].convert("L").convert("RGB"),
    "thumbnail": lambda images, size: thumbnail(images[0], size),
    "size": lambda images: [],
    "line": lambda images, at, is_horizontal: line(images[0], at, is_horizontal),
    "panels": lambda images, shown: panels(images[0], shown),
}


def decoded(file):
    image = Image.open(io.BytesIO(file))
    image.load()
    return image.convert("RGB")


def encoded(image):
    file = io.BytesIO()
    # The quickest of the levels that compress.
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def main():
    while request := sys.stdin.buffer.readline():
        request = json.loads(request)
        images = [decoded(sys.stdin.buffer.read(length)) for length in request["images"]]
        began = time.perf_counter()
        made = OPERATIONS[request["operation"]](images, **request["arguments"])
        seconds = time.perf_counter() - began
        files = [encoded(image) for image in (made if isinstance(made, list) else [made])]
        reply = {"seconds": seconds, "images": [len(file) for file in files]}
        sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n" + b"".join(files))
        sys.stdout.buffer.flush()


main()
