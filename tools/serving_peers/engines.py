"""The engines that compare.py compares: how each is started, and how requests are sent to it. An engine samples with `run(prompts, concurrency,
tokens)`, which gives for each prompt when it began, when its tokens came, and the tokens.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
TIMEOUT_S = 120
PR_SET_PDEATHSIG = 1
CONTEXT_TOKENS, SLOTS = 512, 32


class Server:
    """A server that streams events over HTTP."""

    def __init__(self, command, path, body, read):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.path, self.body, self.read = path, body, read
        command = [str(part) for part in command] + ["--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        preexec_fn=ended_with_us)
        self.wait()

    def wait(self):
        begin = time.perf_counter()
        while time.perf_counter() - begin < TIMEOUT_S and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)) as connection:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                if b" 200 " in connection.recv(64):
                    return
            time.sleep(0.1)
        raise RuntimeError(f"{self.process.args} does not answer")

    def run(self, prompts, concurrency, tokens):
        return asyncio.run(in_flight(self.request, prompts, concurrency, tokens))

    async def request(self, prompt, tokens):
        body = json.dumps(self.body(prompt, tokens)).encode()
        head = f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        begin, times, sampled = time.perf_counter(), [], []
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(head.encode() + body)
        status = await reader.readline()
        assert b" 200 " in status, status + await reader.read()
        while line := await reader.readline():
            if line.startswith(b"data: {"):
                new = self.read(json.loads(line[6:]))
                sampled.extend(new)
                times.extend([time.perf_counter()] * len(new))
        writer.close()
        return {"begin": begin, "times": times, "tokens": sampled}

    def stop(self):
        self.process.kill()
        self.process.wait()


async def in_flight(request, prompts, concurrency, tokens):
    """All prompts, so many at once."""
    room = asyncio.Semaphore(concurrency)

    async def enter(prompt):
        async with room:
            return await request(prompt, tokens)

    return await asyncio.gather(*(enter(prompt) for prompt in prompts))


def ended_with_us():
    """A peer ends when compare.py is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def version_of(command):
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    return (ran.stdout + ran.stderr).strip().splitlines()[0]


def thyme_engine(arguments):
    def body(prompt, tokens):
        return {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True, "return_token_ids": True}

    def read(event):
        return event["choices"][0].get("token_ids") or [] if event["choices"] else []

    server = Server([arguments.engine, "serve", arguments.work / "checkpoint", "--max-model-len", CONTEXT_TOKENS, "--max-num-seqs", SLOTS],
                    "/v1/completions", body, read)
    server.version = version_of([arguments.engine, "--version"])
    return server


def llama_cpp(arguments):
    """A slot for each request that may be under way, each with its own part of the context; batches as large as all that can be waiting."""
    def body(prompt, tokens):
        return {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True, "stream": True, "return_tokens": True,
                "samplers": ["temperature"], "cache_prompt": False}

    def read(event):
        return event.get("tokens", []) if not event.get("stop") else []

    options = ["--ctx-size", CONTEXT_TOKENS * SLOTS, "--parallel", SLOTS, "--cont-batching", "--threads", 2, "--threads-batch", 2,
               "--flash-attn", arguments.flash_attention, "--batch-size", 2048, "--ubatch-size", arguments.ubatch, "--no-webui",
               "--cache-ram", 0, "--host", "127.0.0.1"]
    server = Server([arguments.llama_server, "--model", arguments.work / f"{arguments.gguf_type}.gguf", *options], "/completion", body, read)
    server.version = f"llama.cpp {version_of([arguments.llama_server, '--version'])}, {arguments.gguf_type}"
    return server


class Transformers:
    """transformers_engine.py, over pipes."""

    def __init__(self, arguments):
        command = [sys.executable, HERE / "transformers_engine.py", "--model", arguments.work / "checkpoint", *arguments.transformers_options]
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True, preexec_fn=ended_with_us, env={**os.environ, "OMP_NUM_THREADS": "2"})
        self.version = self.line().strip()

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended")
        return line

    def run(self, prompts, concurrency, tokens):
        print(json.dumps({"prompts": prompts, "concurrency": concurrency, "tokens": tokens}), file=self.process.stdin, flush=True)
        return json.loads(self.line())["requests"]

    def stop(self):
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


ENGINES = {"thyme-engine": thyme_engine, "llama.cpp": llama_cpp, "transformers": Transformers}


@contextlib.contextmanager
def start(name, arguments):
    """An engine while it runs."""
    engine = ENGINES[name](arguments)
    try:
        yield engine
    finally:
        engine.stop()
