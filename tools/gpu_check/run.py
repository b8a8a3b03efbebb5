#!/usr/bin/env python3
"""Runs the pieces of tools/gpu_check.sh one after the other, each a process of its own with a time of its own, within one call.

    tools/gpu_check/run.py OUT [--seconds 550] [--rehearse] [PIECE...]

OUT gets three files. `results.jsonl`: every JSON line that a piece printed, written at once, and a line for how each piece ended. `log.txt`: all
that they said. `README.md`: the table, which is written whatever happens. `--rehearse` does it on the host, at sizes of a toy.
"""

import argparse
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time

import table

HERE = pathlib.Path(__file__).resolve().parent
PACKED = HERE.parent.parent / "target" / "gpu_check"
PYTHON = os.environ.get("PYTHON", "python3")


class Results:
    """The three files of a run."""

    def __init__(self, folder, is_rehearsal):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.is_rehearsal = folder, is_rehearsal
        self.lines = (folder / "results.jsonl").open("w", buffering=1)
        self.log = (folder / "log.txt").open("w", buffering=1)

    def say(self, piece, text):
        """Keeps a line of a piece; those that are JSON are results."""
        self.log.write(f"{piece}: {text}\n")
        if text.startswith("{"):
            try:
                self.add({"piece": piece, **json.loads(text)})
            except ValueError:
                pass

    def add(self, line):
        self.lines.write(json.dumps(line) + "\n")

    def close(self):
        self.lines.close()
        self.log.close()
        read = [json.loads(line) for line in (self.folder / "results.jsonl").read_text().splitlines()]
        (self.folder / "README.md").write_text(table.page(read, self.is_rehearsal))


class Child:
    """A process whose lines come through a queue, so that waiting for one has an end."""

    def __init__(self, command, **options):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True, **options)
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def line(self, until):
        """The next line; None at the end. Raises queue.Empty at `until`."""
        return self.lines.get(timeout=max(0.01, until - time.monotonic()))

    def ask(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def end(self):
        """How it ended; a process that still runs is killed with all that it started."""
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            return self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait()


def run(results, piece, command, until, **options):
    """One command; returns a verdict."""
    child = Child(command, **options)
    try:
        while (line := child.line(until)) is not None:
            results.say(piece, line)
        code = child.process.wait()
        return "ok" if code == 0 else f"failed with {code}"
    except queue.Empty:
        return "out of time"
    finally:
        child.end()


def in_turns(results, piece, ours, peer, until):
    """Our bench and the peer: each case of ours is followed by the same case of the peer, before the bench goes on."""
    bench, beside, measured = Child(ours), Child(peer) if peer else None, 0
    try:
        while (line := bench.line(until)) is not None:
            results.say(piece, line)
            if line.startswith("{"):
                measured += 1
                if beside:
                    beside.ask(line)
                    results.say(piece, next_json(results, piece, beside, until))
                bench.ask("")
        code = bench.process.wait()
        return f"failed with {code}" if code else "ok" if measured else "nothing measured"
    except queue.Empty:
        return "out of time"
    except (EOFError, OSError):
        return "the peer ended early"
    finally:
        for child in filter(None, (bench, beside)):
            child.end()


def next_json(results, piece, child, until):
    """The next JSON line of a child; what else it says goes to the log."""
    while True:
        line = child.line(until)
        if line is None:
            raise EOFError
        if line.startswith("{"):
            return line
        results.say(piece, line)


def pieces(is_rehearsal):
    """Name, seconds, and what runs: a function of the results, the name and the time at which it ends."""
    program, tests, kernels, large = (str(PACKED / name) for name in ("thyme-engine", "it", "kernels", "large"))
    toy = ["--rehearse"] if is_rehearsal else []
    peer = [PYTHON, str(HERE / "peers.py"), *toy] if not is_rehearsal or has_torch() else None
    of_large = ["--device", "cuda"]
    if is_rehearsal:
        of_large = "--device simt --config recipes/tiny/config.json --sequences 2,4 --prompt 24 --steps 2 --tokens 48 --micro-batch 64".split()
    doctor = [program, "doctor"] if is_rehearsal else [program, "doctor", "--device", "cuda"]
    on_gpu = {**os.environ, "THYME_TEST_DEVICE": "" if is_rehearsal else "gpu"}
    names = ["simt::instructions"] if is_rehearsal else ["simt::card", "simt::policy", "ops::"]
    simple = lambda command, **options: lambda results, piece, until: run(results, piece, command, until, **options)
    return [
        ("doctor", 60, simple(doctor)),
        ("probes", 40, simple([str(PACKED / "probes")])),
        ("tests", 55, simple([tests, *names], env=on_gpu)),
        ("turns", 150, lambda results, piece, until: in_turns(results, piece, [kernels, "--turns", f"--ladder={PACKED / 'ladder'}", *toy], peer, until)),
        ("ncu", 60, lambda results, piece, until: profile(results, piece, kernels, until)),
        ("large", 185, simple([large, *of_large])),
    ]


def has_torch():
    return subprocess.run([PYTHON, "-c", "import torch"], capture_output=True).returncode == 0


PROFILED = "linear_forward,attention_forward,attention_backward,token_logprob_forward,sample"


def profile(results, piece, kernels, until):
    """Ten launches under Nsight Compute, at the clocks as they are: stalls, L2, occupancy."""
    ncu = shutil.which("ncu") or next(iter(sorted(pathlib.Path("/usr/local").glob("cuda*/bin/ncu"))), None)
    if ncu is None:
        results.say(piece, "ncu is not on this machine")
        return "not there"
    sections = [word for name in ("SpeedOfLight", "Occupancy", "WarpStateStats", "MemoryWorkloadAnalysis") for word in ("--section", name)]
    # Inputs are drawn by a kernel too, which is not looked at.
    of_ops = ["--kernel-name", "regex:^(linear|attention|token_logprob|sample)"]
    command = [str(ncu), "--clock-control", "none", "--launch-count", "10", *of_ops, *sections, kernels, "--once", PROFILED]
    return run(results, piece, command, until)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("pieces", nargs="*")
    parser.add_argument("--seconds", type=float, default=550)
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_intermixed_args()
    known = pieces(arguments.rehearse)
    unknown = set(arguments.pieces) - {name for name, _, _ in known}
    if unknown:
        sys.exit(f"there is no piece {', '.join(sorted(unknown))}; they are {', '.join(name for name, _, _ in known)}")

    # What ends this call early, a time limit of its caller, leaves a table all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    deadline = time.monotonic() + arguments.seconds
    results, failed = Results(arguments.out, arguments.rehearse), []
    try:
        for name, seconds, work in known:
            if arguments.pieces and name not in arguments.pieces:
                continue
            begin = time.monotonic()
            until = min(begin + seconds, deadline)
            verdict = work(results, name, until) if until - begin > 5 else "no time left"
            took = time.monotonic() - begin
            results.add({"piece": name, "verdict": verdict, "seconds": round(took, 1)})
            print(f"{name:8} {verdict:16} {took:6.1f} s", flush=True)
            may_miss = name == "ncu" or (arguments.rehearse and name == "probes")
            failed += [name] if verdict != "ok" and not may_miss else []
    finally:
        results.close()
    print((arguments.out / "README.md").read_text())
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
