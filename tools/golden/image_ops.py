"""Writes tests/golden/image_ops/image_ops.json: what Pillow makes of pictures that `noise.py` draws.

    pip install pillow==13.0.0 numpy==2.4.6
    python tools/golden/image_ops.py

A case is a row: width, height and smoothness of the picture, the arguments, the CRC-32 of the result's width and height (32 bits, little
endian) and bytes.
"""

import json
import pathlib
import random
import struct
import zlib

import numpy
import PIL
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from noise import noise

GOLDEN = pathlib.Path(__file__).parents[2] / "tests/golden/image_ops/image_ops.json"
CASES = 100
FILTERS = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
LARGE = (1300, 900)
SIZES = [(1, 1), (1, 200), (200, 1), (2, 2), (3, 3), (2, 150), (150, 2)]
ANGLES = [0, 90, 180, 270, 360, -90, 450, 45, -45, 1e-14, -1e-14, -1e-20, 89.999999, 0.001, 720.5]
FACTORS = [0, 1, 0.5, 2, -1, 100, 1e-9, 255, -0.25, 0.9999999999]
RADII = [0, 0.1, 0.5, 1, 2, 5, 10, 1e-30, 50.5, 199, 1000, 1234.5, 30000, 1e6]
COLOUR = (0xE6, 0x19, 0x4B)


def fingerprint(picture):
    return zlib.crc32(struct.pack("<II", *picture.size) + picture.tobytes())


def size(draw, index):
    if index == CASES - 1:
        return LARGE
    return SIZES[index] if index < len(SIZES) else (draw.randint(1, 200), draw.randint(1, 200))


def pick(draw, index, special, least, most):
    return special[index] if index < len(special) else round(draw.uniform(least, most), 3)


def box(draw, width, height):
    left, top = draw.randrange(width), draw.randrange(height)
    return left, top, draw.randint(left + 1, width), draw.randint(top + 1, height)


def crop(draw, picture, index):
    area = box(draw, *picture.size)
    return list(area), picture.crop(area)


def resize(name):
    def case(draw, picture, index):
        new = (picture.width, draw.randint(1, 200)) if index % 20 == 8 else (draw.randint(1, 200), draw.randint(1, 200))
        return list(new), picture.resize(new, FILTERS[name])

    return case


def thumbnail(name):
    def case(draw, picture, index):
        most = draw.choice([8, 40, 220])
        most = (draw.randint(1, most), draw.randint(1, most))
        picture = picture.copy()
        picture.thumbnail(most, FILTERS[name])
        return list(most), picture

    return case


def rotate(name):
    def case(draw, picture, index):
        angle, expand = pick(draw, index // 2, ANGLES, -720, 720), draw.random() < 0.5
        fill = (255, 255, 255) if draw.random() < 0.5 else (10, 200, 30)
        return [angle, expand, *fill], picture.rotate(angle, FILTERS[name], expand=expand, fillcolor=fill)

    return case


def transpose(method):
    return lambda draw, picture, index: ([], picture.transpose(method))


def enhance(enhancer):
    def case(draw, picture, index):
        factor = pick(draw, index // 2, FACTORS, -1, 4)
        return [factor], enhancer(picture).enhance(factor)

    return case


def gaussian_blur(draw, picture, index):
    radius = pick(draw, index // 2, RADII, 0, 20)
    return [radius], picture.filter(ImageFilter.GaussianBlur(radius))


def greyscale(draw, picture, index):
    return [], picture.convert("L").convert("RGB")


def line(draw, picture, index):
    """Not Pillow's: the rule that `draw.rs` documents."""
    vertical, percent, dashed = draw.random() < 0.5, draw.choice([0, 100, 28.5, round(draw.uniform(0, 100), 2)]), draw.random() < 0.7
    width = draw.choice([1, 2, 2, 3, 5, 8])
    length, side = picture.size[::-1] if vertical else picture.size
    thick = min(width, side)
    start = min(max(int(percent / 100 * side - thick / 2 + 0.5), 0), side - thick)
    dash, gap = (int(3.7 * thick + 0.5), int(1.6 * thick + 0.5)) if dashed else (length, 1)
    drawn = picture.copy()
    for at in range(0, length, dash + gap):
        corners = (at, start, min(at + dash, length) - 1, start + thick - 1)
        ImageDraw.Draw(drawn).rectangle(corners[1::-1] + corners[:1:-1] if vertical else corners, fill=COLOUR)
    return [vertical, percent, width, dashed], drawn


def rectangle(draw, picture, index):
    left, top, right, bottom = box(draw, *picture.size)
    width = draw.randint(0, min(6, (right - left) // 2, (bottom - top) // 2))
    drawn = picture.copy()
    ImageDraw.Draw(drawn).rectangle((left, top, right - 1, bottom - 1), outline=COLOUR, width=width)
    return [left, top, right, bottom, width], drawn


OPERATIONS = {
    "crop": crop,
    **{f"resize {name}": resize(name) for name in FILTERS},
    **{f"thumbnail {name}": thumbnail(name) for name in FILTERS},
    **{f"rotate {name}": rotate(name) for name in ("nearest", "bilinear", "bicubic")},
    "flip horizontal": transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "flip vertical": transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    "brightness": enhance(ImageEnhance.Brightness),
    "contrast": enhance(ImageEnhance.Contrast),
    "sharpness": enhance(ImageEnhance.Sharpness),
    "gaussian blur": gaussian_blur,
    "greyscale": greyscale,
    "line": line,
    "rectangle": rectangle,
}


def picture_of(width, height, smooth):
    return Image.fromarray(noise(height, width, smooth))


def cases(name, case):
    draw = random.Random(name)
    for index in range(CASES):
        (width, height), smooth = size(draw, index), draw.random() < 0.5
        arguments, result = case(draw, picture_of(width, height, smooth), index)
        yield [width, height, smooth, *arguments, fingerprint(result)]
    # The reciprocals of large boxes have few bits.
    if name.startswith("thumbnail"):
        for width, height, most in [(1500, 1300, 2), (1999, 30, 1), (7, 3001, 2), (1024, 1024, 3), (900, 1700, 200)]:
            picture = picture_of(width, height, True)
            picture.thumbnail((most, most), FILTERS[name.split()[1]])
            yield [width, height, True, most, most, fingerprint(picture)]


def main():
    golden = {"versions": {"Pillow": PIL.__version__, "numpy": numpy.__version__}}
    golden |= {name: list(cases(name, case)) for name, case in OPERATIONS.items()}
    lines = [f"{json.dumps(name)}: {json.dumps(rows, separators=(',', ':'))}" for name, rows in golden.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


main()
