"""Which part of the input picture an image file shows. A part that is too small to be seen, or that sticks out of the picture, is shown
wider than it was cut; the file stays what code wrote."""
import hashlib
import os
import weakref

import cv2
import numpy
from PIL import Image

SIDE_MIN = 64
# The attribute of a Pillow image that tells its box (left, top, right, bottom) in the input picture.
BOX = "_box_in_input"
# Larger images are not looked at.
PIXELS_MAX = 1 << 26


def clamp_span(low, high, limit):
    """One side of a box, inside 0..limit and at least 64 px where the image has them: extended at its end, then shifted."""
    low, high = max(0, min(low, limit)), max(0, min(high, limit))
    high = min(max(high, low + SIDE_MIN), limit)
    return max(0, min(low, high - SIDE_MIN)), high


def clamp_box(box, size):
    (left, right), (top, bottom) = clamp_span(box[0], box[2], size[0]), clamp_span(box[1], box[3], size[1])
    return left, top, right, bottom


def cut(pixels, box):
    """The box of an array of pixels, black where it sticks out."""
    left, top, right, bottom = box
    height, width = pixels.shape[:2]
    inside = pixels[max(top, 0):max(bottom, 0), max(left, 0):max(right, 0)]
    if inside.shape[:2] == (bottom - top, right - left):
        return inside
    whole = numpy.zeros((bottom - top, right - left, *pixels.shape[2:]), pixels.dtype)
    row, column = max(-top, 0), max(-left, 0)
    whole[row:row + inside.shape[0], column:column + inside.shape[1]] = inside
    return whole


def digest(pixels):
    return hashlib.blake2b(repr(pixels.shape).encode() + numpy.ascontiguousarray(pixels).tobytes(), digest_size=16).digest()


def pixels_of(image):
    """The pixels of a Pillow image in grey or RGB, or None for another form."""
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    return numpy.asarray(image) if image.mode in ("L", "RGB") else None


class Parts:
    """The boxes of images in memory, and of the files that were made of them."""

    def __init__(self, picture):
        self.picture = picture
        # Arrays that came of a view, by `id`; files by device and inode: (length, time of change, box, digest of the pixels).
        self.arrays, self.files = {}, {}

    def crop_box(self, image, box):
        """The box in the input picture of a part of a Pillow image, or None."""
        own = vars(image).get(BOX)
        left, top = own[:2] if own else (0, 0)
        if not own and image.size != self.picture.size:
            return None
        box = tuple(int(round(side)) + shift for side, shift in zip(box, (left, top, left, top)))
        return box if max(map(abs, box)) < 1 << 31 else None

    def array_box(self, array):
        """The box in the input picture of a view into an array of its size, or of what was made of one; else None."""
        if type(array) is not numpy.ndarray or array.ndim not in (2, 3):
            return None
        reference, box = self.arrays.get(id(array), (None, None))
        if reference is not None and reference() is array:
            return box
        base = array.base
        width, height = self.picture.size
        if type(base) is not numpy.ndarray or base.shape[:2] != (height, width) or base.strides[:2] != array.strides[:2]:
            return None
        row, column = base.strides[:2]
        offset = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        if not 0 < column <= row or offset < 0:
            return None
        top, left = offset // row, offset % row // column
        box = (left, top, left + array.shape[1], top + array.shape[0])
        return box if box[2] <= width and box[3] <= height else None

    def made_of(self, source, array):
        """Notes that an array shows what `source` shows."""
        box = self.array_box(source)
        if box is not None and type(array) is numpy.ndarray and array.shape[:2] == source.shape[:2]:
            key = id(array)
            self.arrays[key] = weakref.ref(array, lambda _: self.arrays.pop(key, None)), box

    def written(self, path, box, pixels):
        """Notes that a file was written which shows these pixels (RGB or grey; None where they are no part of the picture)."""
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return
        key = status.st_dev, status.st_ino
        self.files.pop(key, None)
        if box is None or pixels is None or pixels.dtype != numpy.uint8 or pixels.shape[0] * pixels.shape[1] > PIXELS_MAX:
            return
        if clamp_box(box, self.picture.size) != box:
            self.files[key] = status.st_size, status.st_mtime_ns, box, digest(pixels)

    def forms(self):
        """The pixels of the input picture as code usually has them, in RGB or grey, and with red and blue mistaken for each other."""
        path = self.picture.path
        for read in (lambda: numpy.asarray(Image.open(path).convert("RGB")), lambda: cv2.imread(path)[:, :, ::-1]):
            pixels = read()
            yield pixels
            yield pixels[:, :, ::-1]
            yield numpy.asarray(Image.fromarray(pixels).convert("L"))
            for order in (cv2.COLOR_RGB2GRAY, cv2.COLOR_BGR2GRAY):
                yield cv2.cvtColor(numpy.ascontiguousarray(pixels), order)
        yield cv2.imread(path, cv2.IMREAD_GRAYSCALE)

    def shown_image(self, path):
        """What to show for an image file: (path, None), or, for an unchanged part of the input picture that is to be shown wider,
        (image, {"from": box, "to": box})."""
        status = os.stat(path)
        length, time, box, pixels = self.files.get((status.st_dev, status.st_ino), (None, None, None, None))
        if (length, time) != (status.st_size, status.st_mtime_ns):
            return path, None
        try:
            for form in self.forms():
                if digest(cut(form, box)) == pixels:
                    wider = clamp_box(box, self.picture.size)
                    return Image.fromarray(numpy.ascontiguousarray(cut(form, wider))), {"from": list(box), "to": list(wider)}
        except (cv2.error, MemoryError, OSError, TypeError, ValueError):
            # A picture that one of the libraries cannot read.
            pass
        return path, None
