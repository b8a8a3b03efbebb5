"""A user's own file in a process of its own: loaded once, then called again and again. `worker.rs` is the other end.

Nothing of the interpreter is changed for it: it is Python as everywhere, behind the walls.
"""
import ast
import inspect
import json
import linecache
import math
import numbers
import os
import random
import sys
import types

import cv2
import numpy
from PIL import Image

from session import LINE_CHARACTERS, OWN_MODULES, kind_of, text_of, well_formed
from shown import SIDE_MAX, flat
from streams import Printed, Stream

# What a reward may ask for; the first two are pictures.
GIVEN = "images processed_images question reasoning answer solution columns".split()
FORM = "a str, a PIL image, a list of these, or a dict of `text` and `images`"


class Refused(Exception):
    """What of the file, or of what it returned, is not as it must be; and the line, 0 for none."""

    def __init__(self, said, line=0):
        super().__init__(said)
        self.line = line


class Worker:
    """The process of one user's file: a tool or a reward."""

    def __init__(self, options, _, output_folder):
        self.options, self.output_folder = options, output_folder
        self.file = self.place = self.kind = self.source = None
        os.environ.clear()
        for name in OWN_MODULES:
            sys.modules.pop(name, None)
        sys.path += options["read"]
        self.printed = Printed(options["output_characters"])
        self.streams = ()
        self.make = self.function = None
        self.takes = ()

    def take(self, path, setup, _):
        """Takes the file, which lies at `path`. The process's folders are there."""
        self.file, self.place, self.kind = setup["file"], setup["place"], setup["kind"]
        with open(path, "rb") as file:
            self.source = file.read()
        os.chdir(self.output_folder)
        sys.argv = [self.place]

    def answer(self, asked, blobs):
        """(header, blobs) of the reply: what was returned, or the error."""
        self.printed.clear()
        self.take_streams()
        value, images, error = None, [], None
        try:
            reseed()
            value, images = self.load() if asked["order"] == "load" else self.call(asked, blobs)
        except BaseException as failure:
            error = self.described(failure)
        for stream in self.streams:
            stream.buffer.finish()
        header = {"value": value, "images": [image.size for image in images], "error": error, "printed": well_formed(self.printed.text())}
        return header, [image.tobytes() for image in images]

    def take_streams(self):
        """Standard streams that work: a call before may have closed them."""
        if not self.streams or any(stream.closed or stream.buffer.closed for stream in self.streams):
            self.streams = Stream(self.printed, "<stdout>"), Stream(self.printed, "<stderr>")
        sys.stdout, sys.stderr = self.streams

    def load(self):
        """Runs the file; what it says of itself."""
        for folder in self.options["read"]:
            if not os.access(folder, os.R_OK | os.X_OK):
                raise Refused(f"the folder {folder} of `read` cannot be read in the jail, where the file is nobody's; let others read it: chmod -R o+rX")
        lines = self.source.decode("utf-8", "replace").splitlines(keepends=True)
        linecache.cache[self.file] = len(self.source), None, lines, self.file
        module = types.ModuleType("user_file")
        module.__file__ = self.place
        sys.modules[module.__name__] = module
        exec(compile(self.source, self.file, "exec"), vars(module))
        return (self.tool(module) if self.kind == "tool" else self.reward(module)), []

    def tool(self, module):
        """A tool's SCHEMA, and whether it is a class: one object for each sequence."""
        function, kind = vars(module).get("call"), vars(module).get("Tool")
        if not (callable(function) or isinstance(kind, type)):
            raise Refused("there is neither a function `call(arguments, images)` nor a class `Tool` with such a method; write one")
        if callable(function) and isinstance(kind, type):
            raise Refused("there are both a function `call` and a class `Tool`; keep one of the two", line_of(function))
        if isinstance(kind, type):
            function, self.make = getattr(kind, "call", None), kind
            if not callable(function):
                raise Refused("the class `Tool` has no method `call(self, arguments, images)`; write it", self.line_of_name("Tool"))
        else:
            self.function = function
        try:
            inspect.signature(function).bind(*((None,) * (3 if self.make else 2)))
        except TypeError:
            form = "call(self, arguments, images)" if self.make else "call(arguments, images)"
            raise Refused(f"`call` takes other arguments than it is given; write `def {form}`", line_of(function)) from None
        return {"schema": self.schema(module), "has_state": self.make is not None}

    def schema(self, module):
        """The module's SCHEMA: what OpenAI's API has under `function`, or that with its wrapping."""
        schema, line = vars(module).get("SCHEMA"), self.line_of_name("SCHEMA")
        if isinstance(schema, dict) and schema.get("type") == "function" and isinstance(schema.get("function"), dict):
            schema = schema["function"]
        form = '{"description": "...", "parameters": {"type": "object", "properties": {...}, "required": [...]}}'
        if not isinstance(schema, dict):
            problem = "there is no SCHEMA" if schema is None else f"SCHEMA is of type {kind_of(schema)}"
            raise Refused(f"{problem}; write SCHEMA = {form}", line)
        if not isinstance(schema.get("description"), str):
            raise Refused("SCHEMA has no text `description`; say in it what the tool does, for the model to read", line)
        parameters = schema.get("parameters")
        if not (isinstance(parameters, dict) and parameters.get("type") == "object"):
            raise Refused(f"SCHEMA has no `parameters` of the type object; the form is {form}", line)
        required = parameters.get("required", [])
        if not (isinstance(required, list) and all(isinstance(name, str) for name in required)):
            raise Refused("`required` of SCHEMA's parameters is no list of names; give one, or leave it out", line)
        try:
            json.dumps(schema, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise Refused(f"SCHEMA cannot be written as JSON: {text_of(error)}", line) from None
        return schema

    def reward(self, module):
        """Which arguments a reward takes."""
        self.function = function = vars(module).get("reward")
        if not callable(function):
            raise Refused("there is no function `reward`; write `def reward(*, answer, solution, **_)`")
        takes, line = [], line_of(function)
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                takes = GIVEN
                break
            if parameter.kind is parameter.VAR_POSITIONAL:
                continue
            if parameter.kind is not parameter.POSITIONAL_ONLY and name in GIVEN:
                takes.append(name)
            elif parameter.default is parameter.empty:
                raise Refused(f"`reward` takes `{name}`, and is given by name: {', '.join(GIVEN)}", line)
        self.takes = takes
        return {"takes": takes}

    def call(self, asked, blobs):
        """One call: (the returned text or number, the returned images)."""
        blobs = iter(blobs)
        images = [size and Image.frombytes("RGB", tuple(size), next(blobs)) for size in asked["images"]]
        arguments = asked["arguments"]
        if self.kind == "tool":
            if self.function is None:
                self.function = self.make().call
            return self.output(self.function(arguments, images))
        arguments["images"], arguments["processed_images"] = images[:asked["task_images"]], images[asked["task_images"]:]
        returned = self.function(**{name: arguments[name] for name in self.takes})
        if returned is None:
            return None, []
        if not isinstance(returned, (numbers.Real, numpy.bool_)):
            raise Refused(f"`reward` returned a value of type {kind_of(returned)}; return a number, or None for no score", line_of(self.function))
        number = float(returned)
        if not math.isfinite(number):
            raise Refused(f"`reward` returned {number}; return a finite number, or None for no score", line_of(self.function))
        return number, []

    def output(self, returned):
        """(text, images) of what a tool returned."""
        line = line_of(self.function)
        if isinstance(returned, dict):
            if unknown := [name for name in returned if name not in ("text", "images")]:
                raise Refused(f"`call` returned a dict with the key {text_of(repr(unknown[0]))}; return {FORM}", line)
            listed = returned.get("images", [])
            returned = [returned.get("text", ""), *(listed if isinstance(listed, (list, tuple)) else [listed])]
        parts = returned if isinstance(returned, (list, tuple)) else [returned]
        texts, images, room = [], [], self.options["image_bytes"]
        for part in parts:
            if isinstance(part, str):
                texts.append(str.__str__(part))
            elif isinstance(part, Image.Image):
                width, height = part.size
                room -= 3 * width * height
                if len(images) == self.options["images"]:
                    raise Refused(f"`call` returned more than {len(images)} images; return fewer", line)
                if not (1 <= min(part.size) and max(part.size) <= SIDE_MAX) or room < 0:
                    raise Refused(f"`call` returned an image of {width}x{height} pixels, which is empty or too large; return another", line)
                images.append(flat(part))
            else:
                inside = "" if part is returned else f" with a value of type {kind_of(part)} in it"
                raise Refused(f"`call` returned a value of type {kind_of(returned)}{inside}; return {FORM}", line)
        text = "\n".join(part for part in texts if part)
        most = self.options["output_characters"]
        if len(text) > most:
            text = f"{text[:most]}\n[output cut: {most} of {len(text)} characters]"
        return well_formed(text), images

    def described(self, failure):
        """What went wrong, as text, and the last line of the file that had a part in it."""
        kind, line = kind_of(failure), 0
        if issubclass(type(failure), Refused):
            return {"text": text_of(failure), "line": failure.line, "source": ""}
        if issubclass(type(failure), SyntaxError) and failure.filename == self.file:
            line, said = failure.lineno if isinstance(failure.lineno, int) else 0, text_of(failure.msg)
        else:
            said, trace = text_of(failure), BaseException.__traceback__.__get__(failure)
            while trace is not None:
                line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == self.file else line
                trace = trace.tb_next
        source = linecache.getline(self.file, line).strip()[:LINE_CHARACTERS] if line else ""
        return {"text": well_formed(f"{kind}: {said}" if said else kind), "line": line, "source": well_formed(source)}

    def line_of_name(self, name):
        """The last line at the level of the module that assigns or defines a name; 0 for none."""
        line = 0
        for statement in ast.parse(self.source).body:
            targets = getattr(statement, "targets", None) or [getattr(statement, "target", statement)]
            if any(name in (getattr(target, "id", None), getattr(target, "name", None)) for target in targets):
                line = statement.lineno
        return line


def line_of(function):
    """The line where a function begins; 0 for one that is not written in Python."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code.co_firstlineno if code is not None else 0


def reseed():
    """Each call begins with the same random numbers, whichever process it runs in."""
    random.seed(0)
    numpy.random.seed(0)
    cv2.setRNGSeed(0)
