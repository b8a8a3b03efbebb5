"""What model code may damage in its own interpreter is as before when its results are read, and in the next round."""
import ast
import builtins
import io
import json
import os
import posixpath
import signal
import struct
import sys
import textwrap
import zlib

import cv2
import numpy
from PIL import Image

# What reading results calls. Not more is kept: a forked process pays for each page with an object that it looks at.
CALLED = {
    ast: "Assign Attribute Call Constant Load Name alias arg copy_location parse walk",
    io: "BytesIO StringIO TextIOWrapper open",
    json: "JSONDecoder JSONEncoder _default_decoder _default_encoder dumps loads",
    os: """PathLike chdir chmod curdir fsdecode fsencode fspath getcwd listdir lstat makedirs mkdir open path read readlink scandir stat
        strerror unlink write""",
    struct: "pack unpack",
    textwrap: "dedent",
    zlib: "compress crc32",
    cv2: "imread cvtColor",
    numpy: "asarray ascontiguousarray frombuffer ndarray uint8 uint32 zeros",
    Image: "Image fromarray new open",
}
# Taken before sessions are forked. Sessions replace none of it but `open`.
WHOLE = [(vars(module), dict(vars(module))) for module in (builtins, json.encoder, posixpath)]
METHODS = [(kind, name, method) for kind in (json.JSONEncoder, json.JSONDecoder) for name, method in vars(kind).items() if callable(method)]
MODULES = dict(sys.modules)


class Guard:
    """What is called, as it is when the session begins."""

    def __init__(self):
        self.kept = WHOLE + [(vars(module), {name: vars(module)[name] for name in names.split()}) for module, names in CALLED.items()]
        self.kept.append((vars(builtins), {"open": builtins.open}))
        self.recursion = sys.getrecursionlimit()

    # These are bound now: code may replace them.
    def restore(self, sys=sys, update=dict.update, umask=os.umask, setitimer=signal.setitimer, timer=signal.ITIMER_REAL):
        for contents, kept in self.kept:
            update(contents, kept)
        if type(sys.modules) is not dict:
            sys.modules = {}
        if len(sys.modules) < len(MODULES):
            update(sys.modules, MODULES)
        for kind, name, method in METHODS:
            setattr(kind, name, method)
        sys.setrecursionlimit(self.recursion)
        umask(0o022)
        try:
            setitimer(timer, 0)
        except OSError:
            pass
