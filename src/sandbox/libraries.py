"""What is repaired of numpy, OpenCV and Pillow while code runs: paths of the input image, JPEGs with alpha, slow PNG compression. The input
image is not decoded, where its pixels are shared. Crops of it are noted, so that small ones can be shown wider."""
import builtins
import functools
import os
import struct
import zlib

import cv2
import numpy
from PIL import Image, ImageFile

import shown
from parts import BOX, clamp_box, pixels_of
from printed import is_image

# Pillow's modes that `stored_png` writes: channels, and PNG's number for the colour type. Larger images are compressed.
STORED_MODES = {"L": (1, 0), "RGB": (3, 2), "RGBA": (4, 6)}
STORED_PIXELS_MAX = 1 << 20
# What a stored block of deflate (RFC 1951) holds at most; a line is not divided.
BLOCK_BYTES = 65535
# The mode of an array of OpenCV by its channels, and what puts its colours in PNG's order.
ARRAY_MODES = {1: ("L", None), 3: ("RGB", cv2.COLOR_BGR2RGB), 4: ("RGBA", cv2.COLOR_BGRA2RGBA)}


def stored_png(mode, size, pixels):
    """A PNG with these bytes as its pixels, without filters or compression. It is laid out in place: new memory is what costs most here."""
    (channels, colour), (width, height) = STORED_MODES[mode], size
    line = 1 + width * channels
    lines = BLOCK_BYTES // line
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    length = 2 + -(-height // lines) * 5 + height * line + 4
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">II", zlib.crc32(header), length) + b"IDAT"
    # What is not set below, the kind of each line's filter, is 0.
    png = numpy.zeros(len(start) + length + 16, numpy.uint8)
    data = memoryview(png)
    data[:len(start)] = start
    place = len(start) + 2
    data[place - 2:place] = b"\x78\x01"
    source, check = numpy.frombuffer(pixels, numpy.uint8).reshape(height, line - 1), 1
    for first in range(0, height, lines):
        rows = source[first:first + lines]
        count = len(rows) * line
        data[place:place + 5] = struct.pack("<BHH", first + lines >= height, count, 0xFFFF ^ count)
        block = png[place + 5:place + 5 + count]
        block.reshape(-1, line)[:, 1:] = rows
        check = zlib.adler32(block, check)
        place += 5 + count
    data[place:place + 4] = struct.pack(">I", check)
    data[place + 4:] = struct.pack(">II", zlib.crc32(data[len(start) - 4:place + 4]), 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return data


def write_whole(file, view):
    while view:
        view = view[file.write(view):]


def write_stored(file, mode, size, pixels):
    """Writes such a PNG into a new file, which is then known to show these pixels."""
    write_whole(file, stored_png(mode, size, pixels))
    shown.remember(file, mode, size, pixels)


def is_stored(mode, size):
    """Whether an image is written so."""
    return mode in STORED_MODES and 0 < size[0] * size[1] <= STORED_PIXELS_MAX and size[0] * STORED_MODES[mode][0] < BLOCK_BYTES


def named_file(file):
    """The path that a file argument names, or an empty text for an open file."""
    try:
        return os.fsdecode(file)
    except TypeError:
        return ""


def on_white(image):
    layer = image.convert("RGBA")
    ground = Image.new("RGB", layer.size, "white")
    ground.paste(layer, mask=layer)
    return ground


def patch_libraries(session):
    """`session` has `moved`, `parts`, `opened` (the literal paths that its code opens), `made` and the input picture."""
    moved, parts, picture = session.moved, session.parts, session.picture
    plain_open, plain_crop, plain_new, plain_save = Image.open, Image.Image.crop, Image.Image._new, Image.Image.save
    plain_load, plain_fromarray = ImageFile.ImageFile.load, Image.fromarray
    plain_imread, plain_imwrite, plain_convert = cv2.imread, cv2.imwrite, cv2.cvtColor

    def input_path(path):
        """The path of the input image in place of one that does not exist and must mean it."""
        path = moved.real(path)
        if isinstance(path, str) and not path.startswith(session.output_folder) and not os.path.exists(path):
            if os.path.basename(path) == picture.name or (path in session.opened and is_image(path)):
                session.made.add("image_path")
                return picture.path
        return path

    @functools.wraps(plain_open)
    def open_image(fp, *arguments, **named):
        return plain_open(input_path(fp), *arguments, **named)

    @functools.wraps(plain_load)
    def load(self):
        core = picture.core_of(self)
        if core is None:
            return plain_load(self)
        # As Pillow does it, but for the decoding.
        self.map, self.im = None, core
        self.load_prepare()
        self.tile, self.readonly = [], 0
        self.load_end()
        if self._close_exclusive_fp_after_loading:
            self.fp.close()
        self.fp = None
        return plain_load(self)

    @functools.wraps(plain_imread)
    def imread(filename, *arguments, **named):
        path = input_path(filename)
        is_plain = not named and (not arguments or (len(arguments) == 1 and type(arguments[0]) is int and arguments[0] == cv2.IMREAD_COLOR))
        array = picture.array_of(path) if is_plain else None
        return plain_imread(path, *arguments, **named) if array is None else array

    def reader(plain):
        @functools.wraps(plain)
        def read(filename, *arguments, **named):
            return plain(input_path(filename), *arguments, **named)

        return read

    @functools.wraps(plain_crop)
    def crop(self, box=None):
        part = plain_crop(self, box)
        tag(part, parts.crop_box(self, box) if box is not None else vars(self).get(BOX))
        return part

    @functools.wraps(plain_new)
    def new(self, im):
        image = plain_new(self, im)
        if image.size == self.size:
            tag(image, vars(self).get(BOX))
        return image

    def tag(image, box):
        if box is not None:
            vars(image)[BOX] = box

    @functools.wraps(plain_fromarray)
    def from_array(obj, *arguments, **named):
        image = plain_fromarray(obj, *arguments, **named)
        tag(image, parts.array_box(obj))
        return image

    @functools.wraps(plain_convert)
    def convert_colour(src, *arguments, **named):
        converted = plain_convert(src, *arguments, **named)
        parts.made_of(src, converted)
        return converted

    @functools.wraps(plain_save)
    def save(self, fp, format=None, **named):
        target = named_file(fp)
        is_jpeg = (format or "").upper() in ("JPEG", "JPG") or (not format and target.lower().endswith((".jpg", ".jpeg")))
        if is_jpeg and self.mode in ("RGBA", "LA", "PA", "P", "RGBa", "La"):
            session.made.add("jpeg_mode")
            self = on_white(self)
        write(self, fp, target, format, named)
        if target:
            box = vars(self).get(BOX)
            is_shown_wider = box and clamp_box(box, picture.size) != box
            parts.written(target, box, pixels_of(self) if is_shown_wider else None)

    def write(image, fp, target, format, named):
        # The folder is thrown away soon: the same pixels, in a tenth of the time.
        suffix = os.path.splitext(target)[1].lower()
        if (format or suffix[1:]).upper() == "PNG" and not named and suffix in (".png", ""):
            if is_stored(image.mode, image.size):
                pixels = image.tobytes()
                if hasattr(fp, "write"):
                    fp.write(bytes(stored_png(image.mode, image.size, pixels)))
                else:
                    with builtins.open(fp, "wb", buffering=0) as file:
                        write_stored(file, image.mode, image.size, pixels)
                return
            named["compress_level"] = 1
        plain_save(image, fp, format, **named)

    def write_plain(filename, img, *arguments, **named):
        """`cv2.imwrite`, but for the compression; it says by False that it could not write."""
        is_png = type(filename) is str and filename.lower().endswith(".png") and not arguments and not named
        is_plain = is_png and type(img) is numpy.ndarray and img.dtype == numpy.uint8 and img.ndim in (2, 3)
        mode, order = ARRAY_MODES.get(img.shape[2] if img.ndim == 3 else 1, ("", None)) if is_plain else ("", None)
        if not is_plain or not is_stored(mode, img.shape[1::-1]):
            return plain_imwrite(filename, img, *arguments, **named)
        pixels = numpy.array(img) if order is None else plain_convert(img, order)
        try:
            with os.fdopen(moved.plain_open(filename, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), "wb", buffering=0) as file:
                write_stored(file, mode, img.shape[1::-1], pixels.reshape(-1))
        except (OSError, ValueError):
            return False
        return True

    write_array = moved.image_writer(write_plain)

    @functools.wraps(plain_imwrite)
    def imwrite(filename, img, *arguments, **named):
        done = write_array(filename, img, *arguments, **named)
        box = parts.array_box(img)
        colours = img[:, :, 2::-1] if box and img.ndim == 3 and img.shape[2] == 3 else img if box and img.ndim == 2 else None
        parts.written(filename, box, colours)
        return done

    Image.open, Image.fromarray, cv2.imwrite, cv2.cvtColor = open_image, from_array, imwrite, convert_colour
    Image.Image.crop, Image.Image.save, Image.Image._new, ImageFile.ImageFile.load = crop, save, new, load
    cv2.imread = imread
    for name in ("imreadmulti", "imcount", "haveImageReader"):
        if hasattr(cv2, name):
            setattr(cv2, name, reader(getattr(cv2, name)))
    cv2.imwritemulti = moved.image_writer(cv2.imwritemulti)
