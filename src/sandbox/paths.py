"""Files that code writes where nothing may be written are moved into the output folder, and found again under the name that code knows.

A write is tried as it is; only one that is refused is moved. `/home/user/crop.png` becomes `.moved/home/user/crop.png`.
"""
import builtins
import errno
import functools
import glob
import io
import os
import pathlib
import stat
import tempfile

import numpy

from printed import is_image

# The folder of moved files in the output folder.
MOVED = ".moved"
REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EXDEV}
# The output folder's name in Thyme's prompts and checkpoints.
THYME_FOLDER = "/mnt/data/temp_processed_images"
# Where every program may expect to write; files that lie there already are others'.
SHARED_FOLDERS = {"/tmp", "/var/tmp", "/mnt/data"}
TEMPORARY_FOLDERS = ("/tmp/", "/var/tmp/")
# Functions whose first argument is a file that exists.
READERS = """stat lstat access listdir chmod utime readlink chdir remove unlink rmdir truncate getxattr setxattr listxattr""".split()

# Those that tell whether a file is there.
ASKERS = {"stat", "lstat"}


class MovedFiles:
    """`made` is told of the repair."""

    def __init__(self, input_folder, output_folder, picture, made):
        self.output_folder, self.picture, self.made = output_folder, picture, made
        self.folder = output_folder + MOVED
        self.shared = SHARED_FOLDERS | {input_folder}
        self.is_elsewhere = output_folder.rstrip("/") != THYME_FOLDER
        self.is_empty = True
        self.plain_lstat, self.plain_makedirs, self.plain_scandir, self.plain_open = os.lstat, os.makedirs, os.scandir, os.open

    def absolute(self, path):
        """The absolute path as text, or None for what names no file outside the output folder."""
        if not isinstance(path, (str, bytes, os.PathLike)):
            return None
        path = os.path.abspath(os.fsdecode(path))
        return None if (path + "/").startswith(self.output_folder) else path

    def exists(self, path):
        try:
            return self.plain_lstat(path)
        except (OSError, ValueError):
            return None

    def real(self, path):
        """The path under which a file lies that code knows as `path`."""
        if self.is_empty and not self.is_elsewhere:
            return path
        absolute = self.absolute(path)
        if absolute is None:
            return path
        if (absolute + "/").startswith(THYME_FOLDER + "/"):
            place = self.output_folder + absolute[len(THYME_FOLDER) + 1:]
        elif not self.is_empty and self.exists(self.folder + absolute):
            place = self.folder + absolute
        else:
            return path
        return os.fsencode(place) if isinstance(path, bytes) else place

    def known(self, path):
        """The path that code knows a moved file by."""
        return path[len(self.folder):] if path.startswith(self.folder + "/") else path

    def place(self, path, number, is_folder=False):
        """Where a file or folder goes that could not be made at `path`, its parents made; None where the error `number` stands. A folder
        must be there before files are written into it, save for images. What exists already is never moved: it is not code's own."""
        absolute = self.absolute(path)
        if absolute is None or absolute == self.picture.path or number not in REFUSALS | {errno.ENOENT}:
            return None
        parent = os.path.dirname(absolute)
        is_in_moved = bool(self.exists(self.folder + parent)) and not self.is_empty
        is_shared = parent in self.shared and number != errno.ENOENT
        if self.exists(absolute) and (is_folder or not is_shared):
            return None
        is_refused_folder = is_folder and number != errno.ENOENT and self.exists(parent)
        if not (is_in_moved or is_shared or is_refused_folder or (is_image(absolute) and not is_folder)):
            return None
        self.plain_makedirs(self.folder + parent, exist_ok=True)
        self.is_empty = False
        # The folders above the output folder, by its name in prompts, are no outputs.
        if not (THYME_FOLDER + "/").startswith(absolute + "/"):
            self.made.add("output_path")
        return self.folder + absolute

    def as_known(self, error, path, to_be_made=False):
        """An error, naming the path that code knows."""
        absolute = self.absolute(path) if error.errno in REFUSALS else None
        if absolute and self.is_missing(absolute, to_be_made):
            return missing(path)
        error.filename = path
        return error

    def is_missing(self, path, to_be_made):
        """Whether what is refused is not there. In temporary folders nothing of others is seen."""
        try:
            self.plain_lstat(path)
        except OSError as error:
            return (error.errno == errno.EACCES and path.startswith(TEMPORARY_FOLDERS)) or (error.errno == errno.ENOENT and not to_be_made)
        return False

    def is_below_name(self, path):
        """Whether a path lies in a top-level folder that is there in name only: nothing can be in it."""
        absolute = self.absolute(path)
        if absolute is None or absolute.count("/") < 2:
            return False
        top = self.exists("/" + absolute.split("/")[1])
        return top is not None and stat.S_ISDIR(top.st_mode) and not top.st_mode & 0o777

    def reader(self, plain, asks=False):
        """`plain` reads what its first argument names; it `asks` if that need not be there."""

        @functools.wraps(plain)
        def call(path=".", *arguments, **named):
            try:
                return plain(self.real(path), *arguments, **named)
            except OSError as error:
                is_missing = asks and error.errno == errno.EACCES and self.is_below_name(path)
                failure = missing(path) if is_missing else self.as_known(error, path)
            raise failure

        return call

    def maker(self, plain, is_folder=False):
        """`plain` makes what its first argument names."""

        @functools.wraps(plain)
        def call(path, *arguments, **named):
            try:
                return plain(self.real(path), *arguments, **named)
            except OSError as error:
                failure = error
            place = self.place(path, failure.errno, is_folder) if named.get("dir_fd") is None else None
            if place is None:
                absolute = self.absolute(path) if is_folder and failure.errno == errno.EACCES else None
                # Whoever makes the parents first is told that they are missing.
                is_orphan = absolute is not None and self.is_below_name(os.path.dirname(absolute))
                raise missing(path) if is_orphan else self.as_known(failure, path, to_be_made=True)
            try:
                return plain(place, *arguments, **named)
            except OSError as error:
                error.filename = path
                raise

        return call

    def renamer(self, plain):
        @functools.wraps(plain)
        def call(src, dst, **named):
            try:
                return plain(self.real(src), self.real(dst), **named)
            except OSError as error:
                failure = error
            if not self.exists(self.real(src)):
                raise missing(src, dst)
            place = self.place(dst, failure.errno)
            if place is None:
                failure.filename, failure.filename2 = src, dst
                raise failure
            return plain(self.real(src), place, **named)

        return call

    def image_writer(self, plain):
        """`plain` of OpenCV says by False that it could not write."""

        @functools.wraps(plain)
        def call(filename, *arguments, **named):
            done = plain(self.real(filename), *arguments, **named)
            place = self.place(filename, errno.EACCES) if done is False else None
            return done if place is None else plain(place, *arguments, **named)

        return call

    def patch(self):
        """Puts these functions in the place of Python's own. `open` goes through `os.open`, so that an open file has the name that code
        gave; `os.makedirs`, `pathlib`, `shutil` and `tempfile` go through those below."""
        plain_open, plain_os_open = io.open, os.open
        making, reading = self.maker(plain_os_open), self.reader(plain_os_open)

        @functools.wraps(plain_os_open)
        def os_open(path, flags, mode=0o777, *, dir_fd=None):
            return (making if flags & os.O_CREAT else reading)(path, flags, mode, dir_fd=dir_fd)

        @functools.wraps(plain_open)
        def open_file(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
            if opener is None and not isinstance(file, int):
                opener = open_descriptor
            return plain_open(file, mode, buffering, encoding, errors, newline, closefd, opener)

        def open_descriptor(path, flags):
            return os_open(path, flags, 0o666)

        patched = {name: self.reader(getattr(os, name), name in ASKERS) for name in READERS if hasattr(os, name)}
        patched["listdir"] = self.listing(os.listdir)
        patched["scandir"] = self.scanning(os.scandir)
        patched.update(open=os_open, mkdir=self.maker(os.mkdir, is_folder=True))
        patched.update(rename=self.renamer(os.rename), replace=self.renamer(os.replace))
        replaced = {getattr(os, name): function for name, function in patched.items()}
        replaced[plain_open] = open_file
        for name, function in patched.items():
            plain = getattr(os, name)
            for supported in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks, os.supports_effective_ids):
                if plain in supported:
                    supported.add(function)
            setattr(os, name, function)
        builtins.open = io.open = numpy.lib._datasource._file_openers._file_openers[None] = open_file
        # Classes that keep some of these functions for themselves, in one version of Python or another.
        keepers = (getattr(pathlib, "_NormalAccessor", None), getattr(glob, "_StringGlobber", None), tempfile._TemporaryFileCloser)
        for keeper in keepers:
            for name, kept in list(vars(keeper).items()) if keeper else ():
                if getattr(kept, "__func__", kept) in replaced:
                    setattr(keeper, name, staticmethod(replaced[getattr(kept, "__func__", kept)]))
                elif getattr(kept, "__defaults__", None):
                    kept.__defaults__ = tuple(replaced.get(value, value) for value in kept.__defaults__)

    def both(self, path):
        """Where a folder that code may list lies: at its own place, among the moved, or both."""
        moved = self.real(path)
        is_shadow = moved != path and not self.is_empty and os.fsdecode(moved).startswith(self.folder)
        return [path, moved] if is_shadow and self.exists(os.path.abspath(os.fsdecode(path))) else [moved]

    def listed(self, plain, path):
        """What `plain` gives for each of the folder's places; a place that may not be listed is left out where another may."""
        found, failure = [], None
        for place in self.both(path):
            try:
                found.append(plain(place))
            except OSError as error:
                failure = self.as_known(error, path)
        if not found:
            raise failure
        return found

    def is_output_folder(self, path):
        return not self.is_empty and isinstance(path, (str, os.PathLike)) and os.path.abspath(self.real(path)) + "/" == self.output_folder

    def listing(self, plain):
        @functools.wraps(plain)
        def listdir(path="."):
            found = [name for names in self.listed(plain, path) for name in names]
            found = [name for name in found if name != MOVED] if self.is_output_folder(path) else found
            return list(dict.fromkeys(found))

        return listdir

    def scanning(self, plain):
        @functools.wraps(plain)
        def scandir(path="."):
            found = self.listed(plain, path)
            return found[0] if len(found) == 1 and not self.is_output_folder(path) else Scanned(found)

        return scandir


def missing(*paths):
    """The error of a file that is not there."""
    first, *second = paths
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), first, *([None, *second] if second else []))


class Scanned:
    """Several results of `os.scandir` as one, without the folder of moved files."""

    def __init__(self, parts):
        self.parts = parts
        self.entries = (entry for part in parts for entry in part if entry.name != MOVED)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.entries)

    def close(self):
        for part in self.parts:
            part.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
