"""The input picture: its file, and its pixels as Pillow and OpenCV decode them, in memory that the host shares with every session of the
picture. `picture.rs` lays that memory out and seals it; here it is mapped privately, so that what code writes is seen by nobody else."""
import ctypes
import mmap
import os
import weakref

import cv2
import numpy
from PIL import Image

from jail import libc

# The pixels, in these forms: bytes of each.
FORMS = {"pillow": 4, "opencv": 3}
# How many images of a form may hold the pixels at a time, as far as this share of the session's memory allows. Others are decoded.
PLACES_MAX, MEMORY_SHARE = 4, 8
# Pillow's formats whose pixels are shared, and the names of their decoders.
DECODERS = {"JPEG": "jpeg", "PNG": "zip"}
FAILED = ctypes.c_void_p(-1).value
MADV_DONTNEED = 4

# As they are before sessions replace some of them.
stat, fstat = os.stat, os.fstat
map_memory = libc["mmap"]
map_memory.restype = ctypes.c_void_p
map_memory.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
advise = libc["madvise"]
advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Places:
    """Mappings of the same pixels. Each is lent to one image at a time, which may write to it."""

    def __init__(self, memory, offset, length, count):
        self.length, self.free = length, []
        for _ in range(count):
            address = map_memory(None, length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, memory, offset)
            if address != FAILED:
                self.free.append(address)

    def lend(self):
        """The pixels as a buffer, or None where all places are lent."""
        if not self.free:
            return None
        address = self.free.pop()
        pixels = (ctypes.c_char * self.length).from_address(address)
        weakref.finalize(pixels, self.take_back, address)
        return pixels

    def take_back(self, address):
        # What was written is thrown away: the pages are the host's again.
        if advise(address, self.length, MADV_DONTNEED) == 0:
            self.free.append(address)


class Picture:
    """The picture of a session. Its file is there once `place` was called."""

    def __init__(self):
        self.path, self.name, self.size, self.file, self.places = "", "", (0, 0), None, {}

    def place(self, path, setup, memory, memory_bytes):
        """Takes the file at `path`, and of `memory`, a descriptor that is closed afterwards, the pixels that lie where the set-up says."""
        self.path, self.name, self.size = path, os.path.basename(path), tuple(setup["size"])
        self.file = identity(stat(path))
        lengths = {form: self.size[0] * self.size[1] * size for form, size in FORMS.items() if setup.get(form) is not None}
        count = min(PLACES_MAX, memory_bytes // MEMORY_SHARE // sum(lengths.values())) if lengths else 0
        self.places = {form: Places(memory, setup[form], length, count) for form, length in lengths.items()}

    def lend(self, form, status):
        """The pixels in this form as a buffer, for a file of this status; None where it is another file, or all are lent."""
        places = self.places.get(form)
        return places.lend() if places and identity(status()) == self.file else None

    def core_of(self, image):
        """Pillow's pixels of an image that it has opened by the picture's path and not decoded yet, else None."""
        try:
            (decoder, box, *_), = image.tile
            is_whole = decoder == DECODERS.get(image.format) and tuple(box) == (0, 0, *self.size)
            is_plain = image.mode == "RGB" and image.size == self.size and not getattr(image, "is_animated", False)
            if not (is_whole and is_plain and image._exclusive_fp):
                return None
            pixels = self.lend("pillow", lambda: fstat(image.fp.fileno()))
            return None if pixels is None else Image.core.map_buffer(pixels, self.size, "raw", 0, ("RGB", 0, 1))
        except (AttributeError, OSError, TypeError, ValueError):
            return None

    def array_of(self, path):
        """OpenCV's pixels of the picture, where `path` names its file, else None."""
        if not isinstance(path, (str, os.PathLike)):
            return None
        try:
            pixels = self.lend("opencv", lambda: stat(path))
            return None if pixels is None else numpy.ndarray((self.size[1], self.size[0], 3), numpy.uint8, pixels)
        except (OSError, TypeError, ValueError):
            return None

    def decoded(self):
        """(what there is, pixels): the pixels in each form, where the picture is a JPEG in colour. Others are not asked for."""
        pixels = {}
        with Image.open(self.path) as image:
            if (image.format, image.mode, image.size) == ("JPEG", "RGB", self.size):
                pixels["pillow"] = image.tobytes("raw", "RGBX")
                array = cv2.imread(self.path)
                if array is not None and array.shape == (self.size[1], self.size[0], 3):
                    pixels["opencv"] = array.tobytes()
        return {"forms": list(pixels)}, list(pixels.values())


def identity(status):
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
