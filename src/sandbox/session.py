"""What model code runs in: its namespace, the rounds of a session, and what comes of a round."""
import builtins
import errno
import io
import os
import random
import sys
import types

import cv2
import numpy
from PIL import Image

import libraries
import printed
import repair
import shown
from guard import Guard
from parts import Parts
from picture import Picture
from paths import THYME_FOLDER, MovedFiles
from streams import Printed, Stream

SET_TRACE, SET_PROFILE = sys.settrace, sys.setprofile
# Modules that code may use without importing them.
PRESET = "os random string math cmath json re time datetime itertools collections cv2 PIL".split()
MESSAGE_CHARACTERS, LINE_CHARACTERS = 2000, 200
# Files and folders of the output folder that are looked at, names that a note lists, and values of `processed_path`.
ENTRIES_MAX, NAMES_MAX, VALUES_MAX = 10_000, 20, 1000


class Session:
    """One sequence's process: its namespace lives as long as it does. All that does not depend on the picture is made before one is known."""

    def __init__(self, options, input_folder, output_folder):
        self.options, self.input_folder, self.output_folder = options, input_folder, output_folder
        self.round, self.made, self.opened, self.sources = 0, set(), set(), {}
        self.picture = Picture()
        os.environ.clear()
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        sys.argv = ["code"]
        self.namespace = vars(module)
        # What code finds, in every round: it may have cleared its namespace.
        self.given = {name: sys.modules[name] for name in PRESET}
        self.given.update(numpy=numpy, np=numpy, Image=Image, UnidentifiedImageError=sys.modules["PIL"].UnidentifiedImageError)
        self.given.update(temp_output_dir=output_folder, __name__="__main__")
        self.printed = Printed(options["output_characters"])
        self.streams = ()
        self.parts = Parts(self.picture)
        self.moved = MovedFiles(input_folder, output_folder, self.picture, self.made)
        self.moved.patch()
        libraries.patch_libraries(self)
        for name in OWN_MODULES:
            sys.modules.pop(name, None)
        self.guard = Guard()

    def take(self, path, setup, memory):
        """Takes the picture that lies at `path`, and its pixels in the shared memory. The session's folders are there."""
        os.chdir(self.output_folder)
        self.picture.place(path, setup, memory, self.options["memory_bytes"])
        self.given["image_path"] = path

    def answer(self, asked, blobs):
        """(header, blobs) of the reply to a request, which has no blobs: to run code, or to decode the picture."""
        return self.run(asked["code"]) if "code" in asked else self.picture.decoded()

    def run(self, code):
        """One round: (header, blobs) of the reply."""
        self.round += 1
        self.made.clear()
        self.printed.clear()
        filename = f"<code {self.round}>"
        status, message, assigned, failure = "ok", "", False, None
        self.repair_folder()
        folder_before = self.images_of_folder()
        self.take_streams()
        try:
            self.sources[filename] = code.split("\n")
            tree, code = repair.parse(code, filename, self.made)
            self.sources[filename] = code.split("\n")
            repairs = repair.Repairs(self.picture.path, self.is_file, self.namespace, self.made)
            if tree is not None:
                repairs.run(tree)
            self.opened, assigned = repairs.opened, repairs.assigns_processed_path
            # A tree has less room for depth than the text that it is of.
            exec(compile(tree if repairs.is_changed else code, filename, "exec"), self.namespace)
        except BaseException as error:
            failure = error
        # A function that traces calls may raise in ours. Python takes it away when it has.
        for _ in (1, 2, 3, 4):
            try:
                SET_TRACE(None)
                SET_PROFILE(None)
            except BaseException:
                pass
        self.guard.restore()
        if failure is not None:
            status, message = self.described(failure, filename)
            # Its frames hold what the code computed.
            failure = None
        text, images, blobs, notes = self.printed_text(), [], [], []
        try:
            self.repair_folder()
            text, images, blobs = self.collect(text, assigned, folder_before, notes)
        except BaseException as error:
            notes.append(f"the results could not be read: {kind_of(error)}")
        if message:
            text = f"{text.rstrip()}\n{message}" if text.strip() else message
        header = {
            "status": status,
            "text": well_formed("\n".join([text] + notes) if notes else text),
            "images": images,
            "repairs": sorted(self.made),
        }
        return header, blobs

    def take_streams(self):
        """Standard streams as at the start of a program. Those of the round before go on: a logger may hold them."""
        if not self.streams or any(stream.closed or stream.buffer.closed for stream in self.streams):
            self.streams = Stream(self.printed, "<stdout>"), Stream(self.printed, "<stderr>")
        sys.stdout = sys.__stdout__ = self.streams[0]
        sys.stderr = sys.__stderr__ = self.streams[1]
        sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BytesIO(), "utf-8")
        self.namespace.update({name: value for name, value in self.given.items() if name not in self.namespace}, __builtins__=builtins)

    def printed_text(self):
        for name in ("stdout", "stderr"):
            try:
                # A wrapper that code put around a stream may hold some back.
                getattr(sys, name).flush()
            except BaseException:
                pass
        for stream in self.streams:
            stream.buffer.finish()
        return self.printed.text()

    def repair_folder(self):
        """Makes the output folder usable again: code may have shut, removed or left it."""
        folder = self.output_folder.rstrip("/")
        try:
            if os.path.islink(folder) or (os.path.lexists(folder) and not os.path.isdir(folder)):
                os.unlink(folder)
            os.makedirs(folder, exist_ok=True)
            if os.stat(folder).st_mode & 0o700 != 0o700:
                os.chmod(folder, 0o700)
            if not is_current_folder():
                os.chdir(folder)
        except OSError:
            pass

    def described(self, error, filename):
        """(status, text) of an exception. What it says of itself is code of the model's, too, and may raise."""
        try:
            return self.describe(error, filename)
        except BaseException:
            return "error", f"{kind_of(error)} (what it says cannot be read)"

    def describe(self, error, filename):
        """(status, text): type and message, and the line of the model's code."""
        kind, line, source = kind_of(error), 0, ""
        if issubclass(type(error), SystemExit):
            code = error.code
            is_failure = code is not None and not (isinstance(code, int) and code == 0)
            return ("error", f"SystemExit: {text_of(code)}") if is_failure else ("ok", "")
        status = "denied" if any(is_denial(cause) for cause in causes_of(error)) else "error"
        if issubclass(type(error), SyntaxError) and error.filename == filename:
            line, said = error.lineno if isinstance(error.lineno, int) else 0, text_of(error.msg)
            source = self.source(filename, line)
        else:
            said, trace = text_of(error), BaseException.__traceback__.__get__(error)
            while trace is not None:
                name = trace.tb_frame.f_code.co_filename
                if name in self.sources:
                    line, source = trace.tb_lineno, self.source(name, trace.tb_lineno)
                trace = trace.tb_next
        if issubclass(type(error), ModuleNotFoundError):
            said += " (not installed; there are the standard library, numpy, cv2 and PIL)"
        message = f"{kind}: {said}" if said else kind
        return status, f"{message} (line {line}: {source})" if line else message

    def source(self, filename, line):
        """A line of the model's code, cut."""
        lines = self.sources[filename]
        return lines[line - 1].strip()[:LINE_CHARACTERS] if 0 < line <= len(lines) else ""

    def entries(self):
        """(path, whether it is a regular file, time of change) of what lies in the output folder, subfolders included."""
        waiting, count = [self.output_folder.rstrip("/")], 0
        while waiting and count < ENTRIES_MAX:
            try:
                with self.moved.plain_scandir(waiting.pop()) as listed:
                    for entry in listed:
                        count += 1
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        elif count <= ENTRIES_MAX:
                            yield entry.path, entry.is_file(follow_symlinks=False), entry.stat(follow_symlinks=False).st_mtime_ns
            except OSError:
                continue

    def images_of_folder(self):
        """The image files in the output folder: {path: time of change}."""
        return {path: time for path, is_file, time in self.entries() if is_file and printed.is_image(path)}

    def collect(self, text, assigned, folder_before, notes):
        """The images that the code names by `processed_path` or by printing, else those it newly made; the text without bare paths."""
        named = []
        if assigned:
            value = self.namespace.get("processed_path")
            values = value[:VALUES_MAX] if isinstance(value, (list, tuple)) else [value]
            paths = [os.fsdecode(path) for path in values if isinstance(path, (str, os.PathLike))]
            named += [(path, file) for path in paths if (file := self.own_file(path))]
        names = {os.path.basename(path) for path, _, _ in self.entries()} | {self.picture.name}
        in_text, has_more = printed.named_paths(text, names, self.own_file)
        if has_more:
            notes.append(f"[only the first {printed.PLACES} names of images in the text were looked at]")
        produced, seen = [], set()
        for path, real in named + in_text:
            if real not in seen:
                seen.add(real)
                produced.append((path, real))
        if not produced and (left := self.new_images(folder_before)):
            if not text.strip():
                produced = [(self.moved.known(path), path) for path in left]
            else:
                listed = ", ".join(os.path.basename(path) for path in left[:NAMES_MAX])
                others = f" and {len(left) - NAMES_MAX} more" if len(left) > NAMES_MAX else ""
                notes.append(f"[saved but not shown: {listed}{others}; print the path of an image to see it]")
        images, blobs, done = shown.shown(produced, self.options["images"], self.options["image_bytes"], self.parts.shown_image, notes)
        if any("widened" in image for image in images):
            self.made.add("crop_clamp")
        bare = {path for path, real in in_text if real in done}
        return "\n".join(line for line in text.split("\n") if line.strip() not in bare), images, blobs

    def new_images(self, folder_before):
        """The images that were written into the output folder since, in the order of their names."""
        now = self.images_of_folder()
        return sorted(path for path in now if folder_before.get(path) != now[path])

    def is_file(self, path):
        """Whether a path exists, or will: the output folder is code's own."""
        own = (self.output_folder, THYME_FOLDER + "/")
        return path.startswith(own) or os.path.exists(path)

    def own_file(self, path):
        """The real path of a regular file in the session's folders, or None."""
        try:
            path = self.moved.real(path)
            real = os.path.realpath(path) if os.path.isfile(path) else ""
            return real if real.startswith((self.output_folder, self.input_folder + "/")) else None
        except (OSError, ValueError):
            return None


def is_current_folder():
    try:
        return bool(os.getcwd())
    except OSError:
        return False


def kind_of(error):
    """The name of an exception's type, whatever its class says."""
    return type.__dict__["__name__"].__get__(type(error))


def text_of(value):
    """What a value says of itself, cut; of an exception that is code of the model's."""
    try:
        return str.__getitem__(str(value), slice(MESSAGE_CHARACTERS))
    except BaseException as error:
        return f"(its text cannot be read: {kind_of(error)})"


def well_formed(text):
    """The text as Unicode that can be sent: lone surrogates, as in a file name that is no UTF-8, are written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def causes_of(error):
    """The exception and those that it arose from."""
    seen = []
    while error is not None and all(error is not other for other in seen) and len(seen) < 10:
        seen.append(error)
        error = BaseException.__cause__.__get__(error) or BaseException.__context__.__get__(error)
    return seen


def is_denial(error):
    """Whether a wall raised this: a refused call or file, a read-only place, a failed look-up of a host, a refused thread."""
    if issubclass(type(error), PermissionError) or kind_of(error) == "gaierror":
        return True
    is_read_only = issubclass(type(error), OSError) and error.errno == errno.EROFS
    return is_read_only or (type(error) is RuntimeError and "can't start new thread" in text_of(error))


def seed_everything():
    random.seed(0)
    numpy.random.seed(0)
    cv2.setRNGSeed(0)
    make = numpy.random.default_rng
    numpy.random.default_rng = lambda seed=0: make(0 if seed is None else seed)


def warm_up():
    """Takes the usual path once, so that a session that waits for its sequence owns the pages that its first run will touch."""
    made = set()
    tree, _ = repair.parse("a = 1\nb.c(a, f'{a}')", "<code 0>", made)
    repair.Repairs("", bool, (), made).run(tree)
    compile(tree, "<code 0>", "exec")
    image = Image.new("RGB", (64, 64))
    memory = io.BytesIO(libraries.stored_png("RGB", image.size, image.tobytes()))
    shown.flat(shown.upright(Image.open(memory))).crop((0, 0, 64, 64)).tobytes()
    Guard()
    seed_everything()


# Out of the way of modules that code names like these.
OWN_MODULES = """frames guard jail libraries old_names parts paths picture printed probe repair session shown streams worker""".split()
