"""Writes tests/golden/image_tools/image_tools.json: what the image tools of other systems show of pictures that `noise.py` draws.

    pip install pillow==13.0.0 numpy==2.4.6
    python tools/golden/image_tools.py

A case is a row: width, height and smoothness of the picture, limits of pixels where the tool has some, the argument, and the CRC-32 of the
result's width and height (32 bits, little endian) and bytes, or null where the tool refuses.
"""

import json
import math
import pathlib
import random
import struct
import zlib

import numpy
import PIL
from PIL import Image

from noise import noise

GOLDEN = pathlib.Path(__file__).parents[2] / "tests/golden/image_tools/image_tools.json"
CASES = 100


def fingerprint(picture):
    return zlib.crc32(struct.pack("<II", *picture.size) + picture.tobytes())


def crop(picture, box):
    """Pillow's crop without black margins; nothing where no pixel is left."""
    x1, y1, x2, y2 = box
    if x2 < x1 or y2 < y1:
        return None
    width, height = picture.size
    x1, x2 = (min(max(round(x), 0), width) for x in (x1, x2))
    y1, y2 = (min(max(round(y), 0), height) for y in (y1, y2))
    return picture.crop((x1, y1, x2, y2)) if x1 < x2 and y1 < y2 else None


def cut(box, size):
    return [max(0, box[0]), max(0, box[1]), min(size[0], box[2]), min(size[1], box[3])]


def sound(box):
    width, height = box[2] - box[0], box[3] - box[1]
    return min(width, height) > 0 and max(width, height) <= 100 * min(width, height)


def verl(picture, box):
    box = cut(box, picture.size)
    if not sound(box):
        return None
    sides = [box[2] - box[0], box[3] - box[1]]
    if min(sides) < 28:
        ratio = 28 / min(sides)
        wanted = [side * ratio for side in sides]
        for axis in (0, 1):
            if wanted[axis] > picture.size[axis]:
                wanted[1 - axis] *= picture.size[axis] / wanted[axis]
                wanted[axis] = picture.size[axis]
        start = []
        for axis in (0, 1):
            at = max(0, (box[axis] + box[axis + 2]) / 2 - wanted[axis] / 2)
            start.append(picture.size[axis] - wanted[axis] if at + wanted[axis] > picture.size[axis] else at)
        box = [math.floor(at) for at in start] + [math.ceil(at + side) for at, side in zip(start, wanted)]
    whole = [math.floor(side) for side in box]
    if not sound(box) or min(whole[2] - whole[0], whole[3] - whole[1]) < 28:
        return None
    return crop(picture, box)


def deepeyes(picture, box):
    box = cut(box, picture.size)
    return crop(picture, box) if sound(box) and min(box[2] - box[0], box[3] - box[1]) > 30 else None


def shown_size(width, height, factor, least, most):
    """`smart_resize` of qwen-vl-utils, where enlarging ends at the most."""
    def shrink():
        beta = math.sqrt(width * height / most)
        return [max(factor, math.floor(side / beta / factor) * factor) for side in (width, height)]

    size = [max(factor, round(side / factor) * factor) for side in (width, height)]
    if size[0] * size[1] > most:
        return shrink()
    if size[0] * size[1] < least:
        beta = math.sqrt(least / (width * height))
        size = [math.ceil(side * beta / factor) * factor for side in (width, height)]
        return shrink() if size[0] * size[1] > most else size
    return size


def fitted(part, sides, factor, least, most):
    size = shown_size(*sides, factor, least, most)
    return part.resize(size, Image.Resampling.BICUBIC) if size[0] * size[1] <= most and max(size) <= 16384 else None


def bank(scale):
    def show(picture, box, least, most):
        if scale:
            box = [side / scale * picture.size[axis % 2] for axis, side in enumerate(box)]
        box = cut(box, picture.size)
        sides = [box[2] - box[0], box[3] - box[1]]
        if 0 < min(sides) < 32:
            ratio = 32 / min(sides)
            middle = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
            half = [math.ceil(side * ratio * 0.5) for side in sides]
            wide = [math.floor(m - h) for m, h in zip(middle, half)] + [math.ceil(m + h) for m, h in zip(middle, half)]
            wide = cut(wide, picture.size)
            if min(wide[2] - wide[0], wide[3] - wide[1]) > 32:
                box = wide
        part = crop(picture, box)
        return part and fitted(part, (box[2] - box[0], box[3] - box[1]), 32, least, most)

    return show


def normalized(picture, box, least, most):
    relative = box if all(side < 1 for side in box) else [side / picture.size[axis % 2] for axis, side in enumerate(box)]
    padded = [side + (-0.1 if axis < 2 else 0.1) for axis, side in enumerate(relative)]
    part = crop(picture, [min(max(0, side), 1) * picture.size[axis % 2] for axis, side in enumerate(padded)])
    return fitted(part, part.size, 28, least, most) if part and min(part.size) > 28 else None


def some_box(draw, scale):
    """A box within [0, scale] or a little beside it: large, small, or the wrong way round; whole numbers or not."""
    kind = draw.random()
    x1, x2 = sorted(draw.uniform(-0.1, 1.1) * scale[0] for _ in range(2))
    y1, y2 = sorted(draw.uniform(-0.1, 1.1) * scale[1] for _ in range(2))
    if kind < 0.25:
        x2, y2 = x1 + draw.uniform(0, 0.2) * scale[0], y1 + draw.uniform(0, 0.2) * scale[1]
    elif kind < 0.3:
        x1, x2 = x2, x1
    box = [x1, y1, x2, y2]
    return [round(side) for side in box] if scale[0] > 1 and draw.random() < 0.6 else [round(side, 3) for side in box]


def picture_of(draw):
    least = 1 if draw.random() < 0.1 else 60
    width, height, smooth = draw.randint(least, 400), draw.randint(least, 400), draw.random() < 0.5
    return [width, height, smooth], Image.fromarray(noise(height, width, smooth))


def boxed(show, scale=None, limits=None):
    def case(draw, index):
        row, picture = picture_of(draw)
        box = some_box(draw, scale or picture.size)
        pixels = [] if limits is None else list(limits) if index < 5 else [draw.randint(1600, 12000), draw.randint(24000, 60000)]
        made = show(picture, box, *pixels)
        return [*row, *pixels, box, made and fingerprint(made)]

    return case


def whole_box(draw, index):
    row, picture = picture_of(draw)
    box = [abs(round(side)) for side in some_box(draw, picture.size)]
    made = crop(picture, box)
    return [*row, box, made and fingerprint(made)]


def rotated(draw, index):
    row, picture = picture_of(draw)
    angle = [0, 90, 180, 270, -90, 450, 45][index] if index < 7 else round(draw.uniform(-400, 400), 2)
    return [*row, angle, fingerprint(picture.rotate(angle))]


CASES_OF = {
    "zoom in verl": boxed(verl),
    "zoom in deepeyes": boxed(deepeyes),
    "rotate": rotated,
    "bank relative_1000": boxed(bank(1000), (1000, 1000), (262144, 12845056)),
    "bank relative_1": boxed(bank(1), (1, 1), (262144, 12845056)),
    "bank absolute": boxed(bank(None), None, (262144, 12845056)),
    "crop_image_normalized": boxed(normalized, None, (3136, 784000)),
    "crop_image_normalized relative": boxed(normalized, (0.9, 0.9), (3136, 784000)),
    "Crop": whole_box,
}


def main():
    golden = {"versions": {"Pillow": PIL.__version__, "numpy": numpy.__version__}}
    for name, case in CASES_OF.items():
        draw = random.Random(name)
        golden[name] = [case(draw, index) for index in range(CASES)]
    lines = [f"{json.dumps(name)}: {json.dumps(rows, separators=(',', ':'))}" for name, rows in golden.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    for name in CASES_OF:
        print(name, sum(row[-1] is None for row in golden[name]), "refused")


main()
