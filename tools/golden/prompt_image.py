"""Writes tests/golden/prompt/image.json: Pillow's resize, transformers' smart_resize and pixel_values, qwen-vl-utils' sizes.

Pictures are drawn by `noise.py`, which the tests repeat; results are stored as CRC-32 of their bytes.
"""

import json
import pathlib
import random
from importlib.metadata import version

import numpy
import PIL
import transformers
from PIL import Image
from qwen_vl_utils.vision_process import fetch_image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from noise import crc, noise

ROOT = pathlib.Path(__file__).parents[2] / "tests/golden/prompt"
# (height, width) to (height, width)
RESIZES = [
    ((896, 896), (112, 112)), ((448, 448), (112, 112)), ((112, 112), (448, 448)), ((56, 56), (84, 112)), ((50, 60), (28, 28)),
    ((20, 30), (56, 84)), ((100, 20), (56, 28)), ((20, 100), (28, 56)), ((90, 40), (28, 84)), ((40, 90), (84, 28)),
    ((200, 30), (28, 31)), ((30, 200), (31, 28)), ((30, 200), (31, 199)), ((200, 30), (199, 31)), ((31, 30), (31, 28)),
    ((30, 31), (28, 31)), ((300, 300), (299, 301)), ((300, 300), (301, 299)), ((2, 2), (56, 56)), ((2, 400), (28, 392)),
    ((400, 2), (392, 28)), ((1000, 7), (28, 28)), ((7, 1000), (28, 28)), ((333, 517), (336, 504)), ((517, 333), (504, 336)),
    ((64, 64), (64, 64)), ((97, 101), (1, 1)), ((13, 17), (140, 196)), ((720, 1280), (392, 672)), ((3000, 10), (28, 28)),
    ((640, 64), (168, 28)), ((100, 60), (40, 30)), ((101, 60), (40, 30)), ((30, 200), (28, 224)), ((60, 50), (59, 50)),
    ((168, 27), (83, 3)), ((90, 160), (84, 140)),
]
PIXEL_SIZES = [
    (56, 56, {}), (44, 30, {}), (300, 20, {}), (100, 200, {}), (333, 517, {}), (28, 84, {}),
    (400, 300, {"max_pixels": 112 * 112}), (60, 90, {"min_pixels": 200 * 200}), (2, 400, {}), (150, 90, {"patch_size": 6}),
    (640, 64, {"min_pixels": 28 * 28, "max_pixels": 56 * 56}),
    (1, 1, {}), (1, 9, {}), (9, 1, {}), (1, 200, {}), (200, 1, {}), (3, 1, {}), (1, 3, {}), (1, 28, {}), (28, 1, {}),
]
# Keys beside a picture in a message.
PART_SIZES = [
    (100, 200, {"max_pixels": 12544}), (100, 200, {"min_pixels": 50176, "max_pixels": 100352}), (10, 1000, {"max_pixels": 50176}),
    (10, 1000, {"min_pixels": 3136}), (300, 20, {"resized_height": 56, "resized_width": 84}),
    (64, 64, {"resized_height": 280, "resized_width": 420}), (64, 64, {"resized_height": 10, "resized_width": 10}),
    (64, 64, {"resized_height": 42, "resized_width": 70}), (64, 64, {"resized_height": 9000, "resized_width": 8000}),
    (333, 517, {"min_pixels": 3136, "max_pixels": 3136}), (500, 20, {"max_pixels": 20000}), (1, 1, {"max_pixels": 50176}),
    (60, 90, {"min_pixels": 40000}), (60, 90, {"min_pixels": 40000.0, "max_pixels": 80000.0}),
    (64, 64, {"resized_height": 2000, "resized_width": 9}), (201, 1, {"max_pixels": 50176}), (64, 64, {"max_pixels": 1000}),
]


def resize_cases():
    for index, (old, new) in enumerate(RESIZES):
        smooth = index % 3 == 2
        resized = numpy.asarray(Image.fromarray(noise(*old, smooth)).resize(new[::-1], Image.Resampling.BICUBIC))
        yield {"old": old, "new": new, "smooth": smooth, "crc": crc(resized), "start": resized.reshape(-1)[:12].tolist()}


def smart_resize_cases():
    draw = random.Random(3)
    sizes = [(1, 1), (44, 30), (300, 20), (20, 300), (14, 14), (42, 70), (70, 42), (98, 126), (1, 200), (1, 201), (5, 1001), (28, 28)]
    sizes += [(draw.randint(1, 4000), draw.randint(1, 4000)) for _ in range(150)]
    sizes += [(draw.randint(1, 60) * 14, draw.randint(1, 60) * 14) for _ in range(60)]
    for height, width in sizes:
        low, high = draw.choice([(3136, 1003520), (3136, 12845056), (200704, 1003520), (784, 12544)])
        try:
            size = smart_resize(height, width, 28, low, high)
        except ValueError:
            size = None
        yield [height, width, low, high, size]


def part_cases():
    for height, width, keys in PART_SIZES:
        picture = Image.fromarray(noise(height, width, True))
        case = {"size": [height, width], "keys": keys}
        try:
            resized = fetch_image({"image": picture, **keys})
        except (ValueError, AssertionError):
            yield case | {"resized": None}
            continue
        # Its size is one that the processor leaves as it is.
        pixels = Qwen2VLImageProcessorPil(min_pixels=1, max_pixels=1 << 30)(images=[resized], return_tensors="np")["pixel_values"]
        yield case | {"resized": [resized.height, resized.width], "crc": crc(pixels)}


def pixel_cases():
    for height, width, options in PIXEL_SIZES:
        processor = Qwen2VLImageProcessorPil(**({"min_pixels": 3136, "max_pixels": 12845056} | options))
        result = processor(images=[Image.fromarray(noise(height, width, True))], return_tensors="np")
        pixels = result["pixel_values"]
        assert pixels.dtype == numpy.float32
        yield {
            "size": [height, width], "options": options, "grid": result["image_grid_thw"][0].tolist(), "shape": pixels.shape,
            "crc": crc(pixels), "start": [float(value) for value in pixels.reshape(-1)[:4]],
        }


def main():
    versions = {"transformers": transformers.__version__, "qwen-vl-utils": version("qwen-vl-utils"), "Pillow": PIL.__version__, "numpy": numpy.__version__}
    golden = {
        "versions": versions, "resize": list(resize_cases()), "smart_resize": list(smart_resize_cases()),
        "pixel_values": list(pixel_cases()), "part_sizes": list(part_cases()),
    }
    (ROOT / "image.json").write_text(json.dumps(golden) + "\n")


main()
