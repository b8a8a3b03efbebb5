"""Writes tests/golden/image_tools/panels.json: the panels of drawn figures as OpenThinkIMG finds them with OpenCV.

    pip install opencv-python-headless==5.0.0.93 numpy==2.4.6
    python tools/golden/panels.py

A case is a row: width and height of a white picture, the rectangles that are painted on it in turn (left, top, right, bottom, right and bottom
not included, then red, green, blue), and the boxes of the panels, the longest outline first. After them pictures that `noise.py` draws: width,
height, whether smooth, and the boxes.
"""

import json
import pathlib
import random

import cv2
import numpy

from noise import noise

GOLDEN = pathlib.Path(__file__).parents[2] / "tests/golden/image_tools/panels.json"
FIGURES, NOISY = 100, 40


def panels(picture):
    """The rule of `SelectSubplot_worker.py`; none where there is no outline."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    edges = cv2.Canny(cv2.GaussianBlur(grey, (3, 3), 4), 100, 200)
    outlines, _ = cv2.findContours(edges, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    longest = sorted(outlines, key=len, reverse=True)[:10]
    found = []
    for x, y, width, height in map(cv2.boundingRect, longest):
        first = cv2.boundingRect(longest[0])
        box = [x, y, x + width, y + height]
        is_large = -10 < width + height - first[2] - first[3] <= 10
        if is_large and not any(all(abs(a - b) < 10 for a, b in zip(box, other)) for other in found):
            found.append(box)
    return found


def frame(left, top, right, bottom, colour, width):
    yield left, top, right, top + width, *colour
    yield left, bottom - width, right, bottom, *colour
    yield left, top, left + width, bottom, *colour
    yield right - width, top, right, bottom, *colour


def chart(draw, left, top, right, bottom):
    """A frame with bars, a grid or steps inside; ticks, and a title of small blocks above."""
    dark = tuple(draw.randint(0, 90) for _ in range(3))
    shade = tuple(draw.randint(0, 255) for _ in range(3))
    kind = draw.choice(["bars", "grid", "steps", "empty", "filled"])
    if kind == "filled":
        yield left, top, right, bottom, *shade
    yield from frame(left, top, right, bottom, dark, draw.choice([1, 1, 2, 3]))
    count = draw.randint(1, 3)
    for number in range(count):
        across = left + (right - left) * (number + 1) // (count + 1)
        level = draw.randint(top + 4, bottom - 4)
        if kind == "bars":
            yield across - 3, level, across + 4, bottom - 2, *shade
        elif kind == "grid":
            yield across, top + 2, across + 1, bottom - 2, *shade
            yield left + 2, level, right - 2, level + 1, *shade
        elif kind == "steps":
            yield across - 8, level, across + 8, level + 2, *shade
        yield across, bottom, across + 1, bottom + draw.randint(1, 3), *dark
    for letter in range(draw.choice([0, 0, 2, 3])):
        yield left + 10 + 8 * letter, top - 9, left + 15 + 8 * letter, top - 4, *dark


def figure(draw):
    rows, columns = draw.choice([(2, 2), (1, 3), (1, 2), (3, 1), (2, 3), (3, 4), (1, 1)])
    wide, high, gap = draw.randint(45, 90), draw.randint(40, 80), draw.randint(8, 24)
    width, height = columns * (wide + gap) + gap, rows * (high + gap) + gap
    painted = []
    if draw.random() < 0.15:
        painted += frame(0, 0, width, height, (0, 0, 0), 1)
    for row in range(rows):
        for column in range(columns):
            left, top = gap + column * (wide + gap) + draw.randint(-3, 3), gap + row * (high + gap) + draw.randint(-3, 3)
            shrunk = draw.choice([0, 0, 0, 4, 14])
            painted += chart(draw, left, top, left + wide - shrunk, top + high)
    cut = lambda at, side: min(max(at, 0), side)
    painted = [[cut(a, width), cut(b, height), cut(c, width), cut(d, height), *rgb] for a, b, c, d, *rgb in painted]
    picture = numpy.full((height, width, 3), 255, numpy.uint8)
    for left, top, right, bottom, *colour in painted:
        picture[top:bottom, left:right] = colour
    return [width, height, painted, panels(picture)]


def noisy(draw):
    width, height, smooth = draw.randint(1, 120), draw.randint(1, 120), draw.random() < 0.5
    return [width, height, smooth, panels(noise(height, width, smooth))]


def main():
    draw = random.Random("panels")
    golden = {
        "versions": {"opencv": cv2.__version__, "numpy": numpy.__version__},
        "figures": [figure(draw) for _ in range(FIGURES)],
        "noise": [noisy(draw) for _ in range(NOISY)],
    }
    lines = [f"{json.dumps(name)}: {json.dumps(rows, separators=(',', ':'))}" for name, rows in golden.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print([len(row[3]) for row in golden["figures"]], [len(row[3]) for row in golden["noise"]])


main()
