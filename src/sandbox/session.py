"""What model code runs in: its namespace, the rounds of a session, what is repaired while code runs, and what comes of a round."""
import builtins
import errno
import io
import os
import re
import struct
import sys
import types
import zlib

import repair
import shown

# Modules that code may use without importing them.
PRESET = "os random string math cmath json re time datetime itertools collections cv2 PIL".split()
PRINTED_PATH = re.compile(r"[^\s'\"<>|,;()\[\]{}]+\.(?:png|jpe?g|bmp|gif|tiff?|webp)", re.IGNORECASE)
# Pillow's modes that `stored_png` writes: channels, and PNG's number for the colour type. Larger images are compressed.
STORED_MODES = {"L": (1, 0), "RGB": (3, 2), "RGBA": (4, 6)}
STORED_PIXELS_MAX = 1 << 20


class Output(io.TextIOBase):
    """Standard output of model code: kept up to a limit, counted beyond it."""

    def __init__(self, limit):
        self.limit, self.count, self.kept, self.pieces = limit, 0, 0, []

    def writable(self):
        return True

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        room = self.limit - self.kept
        if room > 0:
            piece = text[:room]
            self.pieces.append(piece)
            self.kept += len(piece)
        self.count += len(text)
        return len(text)

    def text(self):
        note = f"\n[output cut: {self.kept} of {self.count} characters]" if self.count > self.kept else ""
        return "".join(self.pieces) + note


class Session:
    """One sequence's process: its namespace lives as long as it does."""

    def __init__(self, options, setup, picture, image_path, output_folder):
        import numpy
        from PIL import Image

        self.options, self.image_path, self.output_folder = options, image_path, output_folder
        self.round, self.made, self.opened, self.moved, self.sources = 0, set(), set(), set(), {}
        self.size = tuple(setup["size"])
        self.name = os.path.basename(image_path)
        os.chdir(output_folder)
        os.environ.clear()
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        sys.argv = ["code"]
        self.namespace = vars(module)
        for name in PRESET:
            self.namespace[name] = sys.modules[name]
        self.namespace.update(numpy=numpy, np=numpy, Image=Image, UnidentifiedImageError=sys.modules["PIL"].UnidentifiedImageError)
        self.namespace.update(image_path=image_path, temp_output_dir=output_folder)
        self.seen = set()
        patch_libraries(self)

    def run(self, code):
        """One round: (header, blobs) of the reply."""
        self.round += 1
        self.made = set()
        filename = f"<code {self.round}>"
        output = Output(self.options["output_bytes"])
        status, assigned, folder_before = "ok", False, self.folder()
        streams = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = output
        try:
            tree, code = repair.parse(code, filename, self.made)
            self.sources[filename] = code.split("\n")
            repairs = repair.Repairs(self.image_path, self.output_folder, self.size, self.namespace, self.made)
            tree = repairs.run(tree)
            self.opened = repairs.opened
            self.moved |= repairs.moved
            assigned = any(is_store_of(node, "processed_path") for node in repair.ast.walk(tree))
            exec(compile(tree, filename, "exec"), self.namespace)
        except SystemExit as error:
            if error.code not in (None, 0):
                status, message = "error", f"SystemExit: {error.code}"
        except BaseException as error:
            status, message = self.describe(error, filename)
        finally:
            sys.stdout, sys.stderr = streams
        text = output.text()
        images, blobs, notes = [], [], []
        try:
            text, images, blobs = self.collect(text, assigned, folder_before, notes)
        except BaseException as error:
            notes.append(f"the results could not be read: {type(error).__name__}")
        if status != "ok":
            text = f"{text.rstrip()}\n{message}" if text.strip() else message
        text = "\n".join([text] + notes) if notes else text
        header = {
            "status": status,
            "text": text.encode("utf-8", "replace").decode("utf-8"),
            "images": images,
            "repairs": sorted(self.made),
        }
        return header, blobs

    def describe(self, error, filename):
        """(status, text): type and message, and the line of the model's code."""
        kind = type(error).__name__
        denied = any(is_denial(cause) for cause in causes_of(error))
        status = "denied" if denied else "error"
        if isinstance(error, SyntaxError) and error.filename == filename:
            line, said = error.lineno or 0, error.msg
            source = (error.text or "").strip()
        else:
            said, line, source, trace = str(error)[:2000], 0, "", error.__traceback__
            while trace is not None:
                lines = self.sources.get(trace.tb_frame.f_code.co_filename)
                if lines is not None:
                    line = trace.tb_lineno
                    source = lines[line - 1].strip() if 0 < line <= len(lines) else ""
                trace = trace.tb_next
        if isinstance(error, ModuleNotFoundError):
            said += " (not installed; there are the standard library, numpy, cv2 and PIL)"
        message = f"{kind}: {said}" if said else kind
        return status, f"{message} (line {line}: {source[:200]})" if line else message

    def folder(self):
        """What lies in the output folder: {path: time of change}."""
        return {entry.path: entry.stat().st_mtime_ns for entry in os.scandir(self.output_folder) if entry.is_file(follow_symlinks=False)}

    def collect(self, text, assigned, folder_before, notes):
        """The images that the code names by `processed_path` or by printing, else those it newly made; the text without bare paths."""
        named = []
        if assigned:
            value = self.namespace.get("processed_path")
            named += [str(path) for path in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(path, (str, os.PathLike))]
        lines = text.split("\n")
        for line in lines:
            found = [line.strip()] + PRINTED_PATH.findall(line)
            named += [path for path in found if path.lower().endswith(repair.IMAGE_SUFFIXES)]
        produced, seen = [], set()
        for path in named:
            real = self.own_file(path)
            if real and real not in seen:
                seen.add(real)
                produced.append((path, real))
        if not produced and not text.strip():
            produced = [(path, path) for path in self.new_images(folder_before)]
        elif not produced and (left := self.new_images(folder_before)):
            names = ", ".join(os.path.basename(path) for path in left)
            notes.append(f"[saved but not shown: {names}; print the path of an image to see it]")
        images, blobs, done = shown.shown(produced, self.options["images"], self.options["image_bytes"], notes)
        names = {name for names in done for name in names}
        kept = [line for line in lines if line.strip() not in names and not (line.strip() and self.own_file(line.strip()) in names)]
        return "\n".join(kept), images, blobs

    def new_images(self, folder_before):
        """The images that were written into the output folder since, in the order of their names."""
        now = self.folder()
        return sorted(path for path in now if folder_before.get(path) != now[path] and path.lower().endswith(repair.IMAGE_SUFFIXES))

    def own_file(self, path):
        """The real path of a regular file in the session's folders, or None."""
        try:
            real = os.path.realpath(path.replace(repair.THYME_FOLDER + "/", self.output_folder))
            inside = real.startswith((self.output_folder, os.path.dirname(self.image_path) + "/"))
            return real if inside and os.path.isfile(real) else None
        except (OSError, ValueError):
            return None


def stored_png(image):
    """The parts of a PNG of the image, without filters or compression."""
    import numpy

    channels, colour = STORED_MODES[image.mode]
    rows = numpy.zeros((image.height, 1 + image.width * channels), numpy.uint8)
    rows[:, 1:] = numpy.frombuffer(image.tobytes(), numpy.uint8).reshape(image.height, -1)

    header = b"IHDR" + struct.pack(">IIBBBBB", image.width, image.height, 8, colour, 0, 0, 0)
    pixels = zlib.compress(rows, 0)
    check = zlib.crc32(pixels, zlib.crc32(b"IDAT"))
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    end = struct.pack(">I", check) + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return start + struct.pack(">I", len(pixels)) + b"IDAT", pixels, end


def write_whole(file, part):
    view = memoryview(part)
    while view:
        view = view[file.write(view):]


def causes_of(error):
    """The exception and those that it arose from."""
    seen = []
    while error is not None and error not in seen and len(seen) < 10:
        seen.append(error)
        error = error.__cause__ or error.__context__
    return seen


def is_denial(error):
    """Whether a wall raised this: a refused call or file, a read-only place, a failed look-up of a host, a refused thread."""
    if isinstance(error, PermissionError) or type(error).__name__ == "gaierror":
        return True
    return getattr(error, "errno", None) == errno.EROFS or "can't start new thread" in str(error)


def named_file(file):
    """The path that a file argument names, or an empty text for an open file."""
    return os.fspath(file) if isinstance(file, (str, os.PathLike)) else ""


def is_store_of(node, name):
    return isinstance(node, repair.ast.Name) and node.id == name and isinstance(node.ctx, repair.ast.Store)


def seed_everything():
    import random

    import cv2
    import numpy

    random.seed(0)
    numpy.random.seed(0)
    cv2.setRNGSeed(0)
    make = numpy.random.default_rng
    numpy.random.default_rng = lambda seed=0: make(0 if seed is None else seed)


def patch_libraries(session):
    """What is repaired while code runs: paths of the input image, crops of it, JPEGs with alpha, slow PNG compression; and names
    that these libraries had when most code that models learned from was written."""
    import cv2
    import numpy
    from PIL import Image, ImageDraw

    width, height = session.size
    plain_open, plain_imread, plain_imwrite = Image.open, cv2.imread, cv2.imwrite
    plain_crop, plain_save = Image.Image.crop, Image.Image.save

    def real_path(path):
        is_own = isinstance(path, str) and path.startswith(session.output_folder) and path not in session.moved
        if isinstance(path, str) and not is_own and not os.path.exists(path):
            is_literal = (path in session.opened or path in session.moved) and path.lower().endswith(repair.IMAGE_SUFFIXES)
            if is_literal or os.path.basename(path) == session.name:
                session.made.add("image_path")
                return session.image_path
        return path

    def open_image(fp, *arguments, **named):
        return plain_open(real_path(fp), *arguments, **named)

    def imread(filename, *arguments, **named):
        return plain_imread(real_path(filename), *arguments, **named)

    def crop(self, box=None):
        if box is not None and self.size == session.size:
            try:
                wanted = repair.clamp_box(box, self.size)
            except (TypeError, ValueError, IndexError, OverflowError):
                return plain_crop(self, box)
            if tuple(round(side) for side in box) != wanted:
                session.made.add("crop_clamp")
                box = wanted
        return plain_crop(self, box)

    def save(self, fp, format=None, **named):
        target = named_file(fp)
        if target in session.moved:
            session.made.add("output_path")
        is_jpeg = (format or "").upper() in ("JPEG", "JPG") or (not format and target.lower().endswith((".jpg", ".jpeg")))
        if is_jpeg and self.mode in ("RGBA", "LA", "PA", "P", "RGBa", "La"):
            session.made.add("jpeg_mode")
            layer = self.convert("RGBA")
            self = Image.new("RGB", layer.size, "white")
            self.paste(layer, mask=layer)
        # The folder is thrown away soon: the same pixels, in a tenth of the time.
        suffix = os.path.splitext(target)[1].lower()
        if (format or suffix[1:]).upper() == "PNG" and not named and suffix in (".png", ""):
            if self.mode in STORED_MODES and 0 < self.width * self.height <= STORED_PIXELS_MAX:
                if hasattr(fp, "write"):
                    fp.write(b"".join(stored_png(self)))
                else:
                    with open(fp, "wb", buffering=0) as file:
                        for part in stored_png(self):
                            write_whole(file, part)
                return None
            named["compress_level"] = 1
        return plain_save(self, fp, format, **named)

    def imwrite(filename, img, *arguments, **named):
        if named_file(filename) in session.moved:
            session.made.add("output_path")
        return plain_imwrite(filename, img, *arguments, **named)

    def text_size(self, text, font=None, *arguments, **named):
        return self.textbbox((0, 0), text, font, *arguments, **named)[2:]

    def cut(array, top, bottom, left, right):
        bounds = (top, bottom, left, right)
        own = getattr(array, "shape", ())[:2] == (height, width) and all(hasattr(bound, "__index__") for bound in bounds)
        if own:
            # A negative end counts from the far side, as everywhere in Python; a negative start is a box that sticks out.
            bottom, right = (bottom + height if bottom < 0 else bottom), (right + width if right < 0 else right)
            rows, columns = repair.clamp_span(top, bottom, height), repair.clamp_span(left, right, width)
            if rows + columns != (top, bottom, left, right):
                session.made.add("crop_clamp")
            (top, bottom), (left, right) = rows, columns
        return array[top:bottom, left:right]

    Image.open, cv2.imread, cv2.imwrite = open_image, imread, imwrite
    Image.Image.crop, Image.Image.save = crop, save
    # There is no screen: showing is nothing, as on any server.
    Image.Image.show = cv2.imshow = cv2.destroyAllWindows = lambda *_, **__: None
    cv2.waitKey = lambda *_: -1
    Image.ANTIALIAS, ImageDraw.ImageDraw.textsize = Image.Resampling.LANCZOS, text_size
    numpy.int, numpy.float, numpy.int0 = int, float, numpy.intp
    setattr(builtins, repair.SLICE_FUNCTION, cut)


def warm_up():
    """Takes the usual path once, so that a session that waits for its sequence owns the pages that its first run will touch."""
    from PIL import Image

    made = set()
    tree, _ = repair.parse("a = 1\nb.c(a, f'{a}')", "<code 0>", made)
    compile(repair.Repairs("", "", (64, 64), (), made).run(tree), "<code 0>", "exec")
    memory = io.BytesIO(b"".join(stored_png(Image.new("RGB", (64, 64)))))
    Image.open(memory).crop((0, 0, 64, 64)).tobytes()
    seed_everything()
