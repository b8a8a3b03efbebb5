"""What model code may damage in its own interpreter is as before when its results are read, and in the next round."""
import ast
import builtins
import codecs
import io
import json
import os
import posixpath
import re
import signal
import stat
import struct
import sys
import textwrap
import time
import zlib

GUARDED = (builtins, ast, codecs, io, json, json.encoder, json.decoder, os, posixpath, re, signal, stat, struct, textwrap, time, zlib)

CLASSES = (json.JSONEncoder, json.JSONDecoder)


class Guard:
    """The contents of the modules that reading results needs, as they were when the session began; of `libraries`, whose settings are
    code's own, what can be called."""

    def __init__(self, libraries):
        self.kept = [(vars(module), dict(vars(module))) for module in GUARDED]
        self.kept += [(vars(module), {name: value for name, value in vars(module).items() if callable(value)}) for module in libraries]
        self.methods = [(kind, name, method) for kind in CLASSES for name, method in vars(kind).items() if callable(method)]
        self.modules = dict(sys.modules)
        self.recursion = sys.getrecursionlimit()

    # These are bound now: code may replace them.
    def restore(self, sys=sys, update=dict.update, umask=os.umask, setitimer=signal.setitimer, timer=signal.ITIMER_REAL):
        for contents, kept in self.kept:
            update(contents, kept)
        update(sys.modules, self.modules) if type(sys.modules) is dict else setattr(sys, "modules", self.modules)
        for kind, name, method in self.methods:
            setattr(kind, name, method)
        sys.setrecursionlimit(self.recursion)
        umask(0o022)
        try:
            setitimer(timer, 0)
        except OSError:
            pass
