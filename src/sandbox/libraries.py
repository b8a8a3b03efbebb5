"""What is repaired of numpy, OpenCV and Pillow while code runs: paths of the input image, JPEGs with alpha, slow PNG compression. Crops
of the input image are noted, so that small ones can be shown wider."""
import builtins
import functools
import os
import struct
import zlib

import cv2
import numpy
from PIL import Image

import shown
from parts import BOX, clamp_box, pixels_of
from printed import is_image

# Pillow's modes that `stored_png` writes: channels, and PNG's number for the colour type. Larger images are compressed.
STORED_MODES = {"L": (1, 0), "RGB": (3, 2), "RGBA": (4, 6)}
STORED_PIXELS_MAX = 1 << 20


def stored_png(image, pixels):
    """The parts of a PNG of the image, whose bytes `pixels` are, without filters or compression."""
    channels, colour = STORED_MODES[image.mode]
    rows = numpy.zeros((image.height, 1 + image.width * channels), numpy.uint8)
    rows[:, 1:] = numpy.frombuffer(pixels, numpy.uint8).reshape(image.height, -1)

    header = b"IHDR" + struct.pack(">IIBBBBB", image.width, image.height, 8, colour, 0, 0, 0)
    packed = zlib.compress(rows, 0)
    check = zlib.crc32(packed, zlib.crc32(b"IDAT"))
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    end = struct.pack(">I", check) + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return start + struct.pack(">I", len(packed)) + b"IDAT", packed, end


def write_whole(file, part):
    view = memoryview(part)
    while view:
        view = view[file.write(view):]


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
    """`session` has `moved`, `parts`, `opened` (the literal paths that its code opens), `made` and the input image."""
    moved, parts = session.moved, session.parts
    plain_open, plain_crop, plain_new, plain_save = Image.open, Image.Image.crop, Image.Image._new, Image.Image.save
    plain_fromarray, plain_imwrite, plain_convert = Image.fromarray, cv2.imwrite, cv2.cvtColor

    def input_path(path):
        """The path of the input image in place of one that does not exist and must mean it."""
        path = moved.real(path)
        if isinstance(path, str) and not path.startswith(session.output_folder) and not os.path.exists(path):
            if os.path.basename(path) == session.name or (path in session.opened and is_image(path)):
                session.made.add("image_path")
                return session.image_path
        return path

    @functools.wraps(plain_open)
    def open_image(fp, *arguments, **named):
        return plain_open(input_path(fp), *arguments, **named)

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
            is_shown_wider = box and clamp_box(box, session.size) != box
            parts.written(target, box, pixels_of(self) if is_shown_wider else None)

    def write(image, fp, target, format, named):
        # The folder is thrown away soon: the same pixels, in a tenth of the time.
        suffix = os.path.splitext(target)[1].lower()
        if (format or suffix[1:]).upper() == "PNG" and not named and suffix in (".png", ""):
            if image.mode in STORED_MODES and 0 < image.width * image.height <= STORED_PIXELS_MAX:
                pixels = image.tobytes()
                if hasattr(fp, "write"):
                    fp.write(b"".join(stored_png(image, pixels)))
                else:
                    with builtins.open(fp, "wb", buffering=0) as file:
                        for part in stored_png(image, pixels):
                            write_whole(file, part)
                        shown.remember(file, image, pixels)
                return
            named["compress_level"] = 1
        plain_save(image, fp, format, **named)

    write_array = moved.image_writer(plain_imwrite)

    @functools.wraps(plain_imwrite)
    def imwrite(filename, img, *arguments, **named):
        done = write_array(filename, img, *arguments, **named)
        box = parts.array_box(img)
        colours = img[:, :, 2::-1] if box and img.ndim == 3 and img.shape[2] == 3 else img if box and img.ndim == 2 else None
        parts.written(filename, box, colours)
        return done

    Image.open, Image.fromarray, cv2.imwrite, cv2.cvtColor = open_image, from_array, imwrite, convert_colour
    Image.Image.crop, Image.Image.save, Image.Image._new = crop, save, new
    for name in ("imread", "imreadmulti", "imcount", "haveImageReader"):
        if hasattr(cv2, name):
            setattr(cv2, name, reader(getattr(cv2, name)))
    cv2.imwritemulti = moved.image_writer(cv2.imwritemulti)
