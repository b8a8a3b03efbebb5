"""The zygote: imports once, shuts itself in, then forks one session per connection. `zygote.rs` is the other end of every wire.

Wires: descriptor 0 is a listening Unix socket. The first connection is the control: the zygote reports its walls there and
reads orders: a process number and what to do to it; its end is the end of all. Every later connection is a session, or the worker of a
user's own file, as its first byte says. It says whether its walls stand before it reads any code, and answers each request with the
request's own nonce. `frames.py` is the form of messages. A descriptor comes with the set-up: memory with the user's file, or with the
picture's file and pixels. It is closed before any code is read.
"""
import sys

FOLDER = sys.path[0]
sys.dont_write_bytecode = True
import jail
import probe
from frames import Closed, read_exactly, read_first_frame, read_frame, write_frame
from old_names import add_old_names
from session import Session, warm_up
from worker import Worker

sys.path = [path for path in sys.path if path and path != FOLDER]

import gc
import glob
import importlib
import json
import os
import re
import resource
import select
import signal
import socket
import struct
import sysconfig

ALLOWED = """string math cmath random itertools functools collections datetime copy base64 pathlib tempfile shutil glob fractions decimal
heapq bisect textwrap typing dataclasses enum traceback warnings colorsys csv operator uuid hashlib threading logging statistics
subprocess urllib.request pickle inspect contextlib abc numbers array zlib pprint timeit calendar locale encodings.idna unicodedata
numpy numpy.random numpy.linalg numpy.fft cv2 PIL.Image PIL.ImageDraw PIL.ImageFont PIL.ImageOps PIL.ImageEnhance PIL.ImageFilter
PIL.ImageChops PIL.ImageStat PIL.ImageColor PIL.ImageMath PIL.ImageSequence PIL.ImageTransform""".split()


# The orders of the host: a session's process number and the index of a signal.
ORDER = struct.Struct("<II")
SIGNALS = (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT)
# What a connection may be, by its first byte.
KINDS = (Session, Worker)


def be_session(walls, options, wire, number):
    """The life of a session's process: made ready, set up, shut in, then round after round."""
    try:
        failure = None
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.closerange(3, wire)
        os.closerange(wire + 1, 256)
        kind = KINDS[read_exactly(wire, 1)[0]]
        try:
            walls.part_from_others(number)
            warm_up()
            session = kind(options, walls.inputs, walls.outputs + "/")
        except BaseException as error:
            failure = error
        setup, memory = read_first_frame(wire)
        try:
            if failure is not None:
                raise failure
            path = walls.make_scratch(number, setup["name"], memory, setup["file_bytes"])
            session.take(path, setup, memory)
            os.close(memory)
            raised = walls.shut(number)
            missing = [wall for wall in options.get("expected", []) if tuple(wall) not in raised]
            if missing:
                raise OSError(f"a wall that stood at the start does not stand now: {missing}")
        except BaseException as error:
            write_frame(wire, {"broken": f"{type(error).__name__}: {error}"})
            return
        # No code has been read yet: whatever is said of the walls is said by this program.
        write_frame(wire, {"ready": True})
        while True:
            request, blobs = read_frame(wire)
            header, blobs = session.answer(request, blobs)
            header["nonce"] = request["nonce"]
            write_frame(wire, header, blobs)
    except (Closed, OSError):
        return


def fork_session(walls, options, wire, number, inherited):
    """The process number of a new session that owns `wire`."""
    pid = walls.fork()
    if pid == 0:
        try:
            os.setsid()
            for number_kept in inherited:
                os.close(number_kept)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            be_session(walls, options, wire, number)
        finally:
            os._exit(0)
    return pid


def trial(walls, options, loader):
    """What a session of the real kind can raise here, and what it can do nevertheless: the reply, and how to end it. The process lives on
    for the host to look at it; its last act is to start another program, and the end says whether that was refused."""
    reading, writing = os.pipe()
    waiting, release = os.pipe()
    pid = walls.fork()
    if pid == 0:
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(null, standard)
            for descriptor in range(3, 256):
                if descriptor not in (writing, waiting):
                    try:
                        os.close(descriptor)
                    except OSError:
                        pass
            # Enough disk to see that it is bounded.
            walls.options = {**options, "disk_bytes": min(options["disk_bytes"], 1 << 20)}
            walls.part_from_others(0)
            walls.make_scratch(0, "trial.png", None, 0)
            raised = walls.shut(0)
            tried = probe.Probe(walls, options["probe"])
            reply = {"session": raised, "attempts": tried.attempts()}
            tried.hold_for_the_host()
        except BaseException as error:
            reply = {"failure": f"{type(error).__name__}: {error}"}
        os.write(writing, json.dumps(reply).encode() + b"\n")
        if "failure" not in reply:
            os.read(waiting, 1)
            probe.execute(loader)
            os.write(writing, b"refused\n")
        os._exit(0)
    os.close(writing)
    os.close(waiting)

    def line():
        said = b""
        while not said.endswith(b"\n") and (piece := os.read(reading, 65536)):
            said += piece
        return said

    def end():
        os.close(release)
        refused = line() == b"refused\n"
        os.close(reading)
        os.waitpid(pid, 0)
        return refused

    said = line()
    return {"trial": pid, **json.loads(said or b'{"failure": "the trial session died"}')}, end


def import_allowed():
    for name in ALLOWED:
        try:
            importlib.import_module(name)
        except ImportError:
            if name in ("numpy", "cv2", "PIL.Image"):
                raise
    import cv2
    from PIL import Image

    cv2.setNumThreads(0)
    Image.init()
    add_old_names()


def module_places():
    """The files and folders that imports and shared libraries may still be read from: the folders of modules and of libraries, and
    nothing else of the folders that they lie in."""
    places = ["/usr/share/zoneinfo", "/usr/share/fonts", sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    for name in ("numpy", "cv2", "PIL"):
        folder = os.path.dirname(sys.modules[name].__file__)
        places += [folder] + glob.glob(os.path.join(glob.escape(os.path.dirname(folder)), "*.libs"))
    places += [path for path in sys.path if os.path.basename(path.rstrip("/")) in ("site-packages", "dist-packages", "lib-dynload")]
    with open("/proc/self/maps") as file:
        mapped = {line.split(maxsplit=5)[5].strip() for line in file if ".so" in line}
    for path in mapped:
        folder = os.path.dirname(path)
        # A folder of libraries is called lib, or lies in one, as those of one architecture do.
        is_library_folder = any(re.fullmatch("lib(32|64|x32)?", part) for part in folder.split("/")[-2:])
        places.append(folder if is_library_folder else path)
        # `/lib` and `/usr/lib` are one folder on most systems, and each is looked up by its own name.
        other = folder[len("/usr"):] if folder.startswith("/usr/") else "/usr" + folder
        if is_library_folder and os.path.exists(other) and os.path.samefile(folder, other):
            places.append(other)
    places = {name for path in places if os.path.exists(path) for name in (os.path.abspath(path), os.path.realpath(path))}
    return [path for path in sorted(places) if not any(path.startswith(other + "/") for other in places)]


def main():
    # Whatever the host's own parent left open is not ours.
    os.closerange(3, min(1 << 16, resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
    listener = socket.socket(fileno=0)
    control, _ = listener.accept()
    options, _ = read_frame(control.fileno())
    try:
        import_allowed()
        walls = jail.Jail(options, module_places() + options["read"] + [options["probe"]["module"]])
        # `/proc` is not in the jail.
        loader = probe.loader()
        walls.enter()
        tried, end_trial = trial(walls, options, loader)
        walls.end_stranger()
    except BaseException as error:
        write_frame(control.fileno(), {"failure": f"{type(error).__name__}: {error}"})
        return
    options["expected"] = tried.get("session", [])
    write_frame(control.fileno(), {"jail": walls.raised, "has_mounts": walls.has_mounts, **tried})
    # The host has looked at the trial once it answers.
    read_frame(control.fileno())
    write_frame(control.fileno(), {"refused": end_trial()})
    walls.hide(options["probe"]["module"])
    gc.collect()
    gc.freeze()
    serve(walls, options, listener, control)
    if not walls.has_mounts:
        walls.remove_folder()


def serve(walls, options, listener, control):
    """Never waits for one session: accepts, forks, reaps, kills, stops and continues."""
    wake_reading, wake_writing = os.pipe()
    os.set_blocking(wake_reading, False)
    os.set_blocking(wake_writing, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_writing, warn_on_full_buffer=False)
    inherited = [listener.fileno(), control.fileno(), wake_reading, wake_writing]
    children, number, wanted = set(), 0, b""
    poller = select.poll()
    for descriptor in inherited[:3]:
        poller.register(descriptor, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poller.poll()}
        if wake_reading in ready:
            os.read(wake_reading, 4096)
            while children:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                children.discard(pid)
        if control.fileno() in ready:
            piece = os.read(control.fileno(), 4096)
            if not piece:
                break
            wanted += piece
            while len(wanted) >= ORDER.size:
                pid, order = ORDER.unpack(wanted[:ORDER.size])
                wanted = wanted[ORDER.size:]
                # Only this process reaps, so the number of a listed child cannot have passed to another process.
                if pid in children:
                    os.kill(pid, SIGNALS[order])
        if listener.fileno() in ready:
            connection, _ = listener.accept()
            number += 1
            try:
                pid = fork_session(walls, options, connection.fileno(), number, inherited)
                children.add(pid)
                answer = struct.pack("<II", pid, number)
            except OSError as error:
                answer = struct.pack("<II", 0, error.errno or 0)
            try:
                os.write(connection.fileno(), answer)
            except OSError:
                # The asker has gone; the session finds its wire closed and ends.
                pass
            finally:
                connection.close()
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    # None may change what is removed next.
    for pid in children:
        os.waitpid(pid, 0)


main()
