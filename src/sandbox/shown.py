"""Pictures that leave the jail: decoded here, under the session's memory limit and deadline, and sent as pixels. `image.rs` takes them."""
import os

import numpy
from PIL import Image, UnidentifiedImageError

# The largest side of an image, in pixels; `image.rs` refuses more.
SIDE_MAX = 32768
LABEL_MAX = 200
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
# EXIF's tag of the orientation, and Pillow's name for what undoes each value.
ORIENTATION = 0x0112
UPRIGHT = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90",
}


# The size and the pixels of the RGB images that were saved last, by what identifies an unchanged file.
SAVED_MAX = 4
saved = {}


class NotShown(Exception):
    """Why an image is not shown."""


def shown(files, images_max, bytes_max, shown_image, notes):
    """The header's entries of the images that are shown of `files`, (label, path) in order, their pixels, 3 bytes each, and the paths
    that are shown. A file with several names is shown once. `shown_image` gives (the path, None), or an image to show in the file's place
    and how it is wider. What cannot be shown is said in `notes`."""
    entries, blobs, done, seen, room = [], [], set(), set(), bytes_max
    for label, path in files:
        if len(entries) == images_max:
            notes.append(f"[only the first {images_max} of {len(files)} images are shown]")
            break
        try:
            status = os.stat(path)
            file = status.st_dev, status.st_ino
            if file not in seen:
                image, widened = shown_image(path)
                size, pixels = (None, None) if widened else saved.get(identity(status), (None, None))
                if pixels is None or len(pixels) > room:
                    image = flat(within(image, room, bytes_max)) if widened else read(path, room, bytes_max)
                    size, pixels = image.size, image.tobytes()
                entry = {"label": short(label), "width": size[0], "height": size[1]}
                entries.append({**entry, "widened": widened} if widened else entry)
                blobs.append(pixels)
                room -= len(pixels)
                seen.add(file)
            done.add(path)
        except (NotShown, OSError, MemoryError) as error:
            reason = "there is not enough memory to decode it" if isinstance(error, MemoryError) else str(error)
            notes.append(f"[{short(os.path.basename(label))} cannot be shown: {short(reason)}]")
    return entries, blobs, done


def identity(status):
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def remember(file, mode, size, pixels):
    """Notes that an open file shows these pixels of Pillow's mode and nothing else: while it is unchanged it need not be decoded."""
    if mode == "RGB":
        saved[identity(os.fstat(file.fileno()))] = size, pixels
        if len(saved) > SAVED_MAX:
            del saved[next(iter(saved))]


def within(image, room, bytes_max):
    """The image, whose pixels need not be decoded yet; raises NotShown where they are more than may be shown."""
    width, height = image.size
    if max(width, height) > SIDE_MAX:
        raise NotShown(f"it is {width}x{height} pixels, and a side has at most {SIDE_MAX}")
    if width * height * 3 > room:
        others = " with the images before it" if room < bytes_max else ""
        raise NotShown(f"its {width}x{height} pixels take more than {bytes_max} bytes{others}; save a smaller or resized one")
    return image


def read(path, room, bytes_max):
    """An image file as RGB, upright, alpha laid onto white; raises NotShown, before it decodes, where it takes more than `room` bytes."""
    # The bound of `within` is the stricter one.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path, formats=FORMATS) as image:
            within(image, room, bytes_max).load()
            return flat(upright(image))
    except (NotShown, MemoryError):
        raise
    except UnidentifiedImageError:
        raise NotShown("it is not an image of a known format") from None
    except Exception as error:
        raise NotShown(f"its data is damaged ({error})") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def upright(image):
    try:
        method = UPRIGHT.get(image.getexif().get(ORIENTATION))
    except Exception:
        # Damaged EXIF says nothing about the pixels.
        method = None
    return image.transpose(getattr(Image.Transpose, method)) if method else image


def flat(image):
    """The image as RGB."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        values = numpy.asarray(image).astype(numpy.uint32)
        image = Image.fromarray(((values + 128) // 257).astype(numpy.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGB", layer.size, "white")
        ground.paste(layer, mask=layer)
        return ground
    return image if image.mode == "RGB" else image.convert("RGB")


def short(text):
    """Text for a note or a label: one line of valid Unicode and bounded length."""
    text = "".join(c if c.isprintable() else "?" for c in text.encode("utf-8", "replace").decode("utf-8"))
    half = LABEL_MAX // 2
    return text if len(text) <= LABEL_MAX else f"{text[:half]}…{text[1 - half:]}"
