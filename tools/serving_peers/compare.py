#!/usr/bin/env python3
"""Serving beside its peers on this machine: thyme-engine serve, llama.cpp's server, and continuous batching of transformers, on the same
weights, the same prompts and the same cores, one after the other, round by round.

    python compare.py prepare WORK --engine target/release/thyme-engine
    python compare.py check   WORK --engine ... --llama-server .../llama-server
    python compare.py measure WORK --engine ... --llama-server ... --rounds 3
    python compare.py table   WORK/results.jsonl

`prepare` makes a text model of 137 million parameters (12 layers of 1,024) with random weights, as a Hugging Face folder and as GGUF.
`check` samples greedily from all of them: they must agree, or it is not the same model. `measure` appends a line to WORK/results.jsonl for each
round, engine and concurrency; a run can be parted by --first-round, --engines and --concurrency. Python needs gguf, numpy, torch, transformers and psutil (requirements.txt).

A request is 256 token ids, drawn at random, none of them asked twice, and 64 new tokens, greedy, past any end. So many requests are always
under way; a client of the two servers reads a stream of events over HTTP from the same cores, while transformers is called in its own process
without a server between. Time to first token counts from sending; the time between tokens is that between their arrivals. Drafts are off: random weights soon repeat themselves, and a draft of
what was said before would be right more often than for any real model.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import statistics
import struct
import subprocess
import sys

import engines

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PROMPT_TOKENS, NEW_TOKENS = 256, 64
# Prompts have these ids, which are texts and no markup.
TEXT_IDS = 754
# Requests of a round, by how many are under way.
REQUESTS = {1: 4, 8: 16, 32: 32}


def prepare(arguments):
    """The model of all engines."""
    work = arguments.work
    shutil.copytree(ROOT / "recipes/tiny", work / "config", dirs_exist_ok=True)
    config = json.load(open(work / "config/config.json"))
    config.update(hidden_size=1024, intermediate_size=2816, num_hidden_layers=12, num_attention_heads=16, num_key_value_heads=4,
                  initializer_range=0.02)
    config["rope_scaling"]["mrope_section"] = [8, 12, 12]
    config["vision_config"].update(out_hidden_size=1024)
    json.dump(config, open(work / "config/config.json", "w"), indent=2)
    made = [arguments.engine, "init", "--config", work / "config/config.json", "--seed", "0", "--out", work / "checkpoint"]
    subprocess.run(made, check=True)
    silence_markup(work / "checkpoint/model.safetensors", config["hidden_size"])
    for kind in ("f16", "bf16", "f32"):
        subprocess.run([sys.executable, HERE / "to_gguf.py", work / "checkpoint", work / f"{kind}.gguf", "--type", kind], check=True)


def silence_markup(file, hidden):
    """Makes the embeddings of markup zero, which are also its rows of the output: no engine samples a token that ends a turn or stands for a
    picture, so that all sample as many."""
    with open(file, "r+b") as stream:
        header_bytes = struct.unpack("<Q", stream.read(8))[0]
        header = json.loads(stream.read(header_bytes))
        (name,) = (name for name in header if name.endswith("embed_tokens.weight"))
        begin, end = (8 + header_bytes + offset for offset in header[name]["data_offsets"])
        markup = begin + 2 * hidden * TEXT_IDS
        stream.seek(markup)
        stream.write(bytes(end - markup))


def prompts_of(seed, count):
    draws = random.Random(seed)
    return [[draws.randrange(TEXT_IDS) for _ in range(PROMPT_TOKENS)] for _ in range(count)]


def check(arguments):
    """Greedy tokens of every engine beside ours: where they part first, if they do, and by how much the first log-probabilities differ."""
    prompts, sampled = prompts_of("check", 4), {}
    for name in arguments.engines:
        with engines.start(name, arguments) as engine:
            sampled[name] = engine.run(prompts, 2, 32)
    names = list(sampled)
    for name in names[1:]:
        same = [next((at for at, (a, b) in enumerate(zip(ours["tokens"], theirs["tokens"])) if a != b), 32)
                for ours, theirs in zip(sampled[names[0]], sampled[name], strict=True)]
        print(f"{name}: tokens before the first that differs from {names[0]}'s, of 32: {same}")
        assert all(len(request["tokens"]) == 32 for request in sampled[name]), f"{name} sampled fewer tokens than asked"
        assert min(same) > 0 and statistics.mean(same) >= 8, f"{name} is not the same model: {sampled[name][0]['tokens']}"


def quantile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def measure(arguments):
    for number in range(arguments.first_round, arguments.first_round + arguments.rounds):
        for concurrency in arguments.concurrency:
            # Who comes first changes from round to round.
            turn = number % len(arguments.engines)
            for name in arguments.engines[turn:] + arguments.engines[:turn]:
                row = measure_one(name, number, concurrency, arguments)
                with open(arguments.results, "a") as file:
                    print(json.dumps(row), file=file)
                print(f"round {number}, {concurrency} at once, {name}: {row['tokens_per_s']:.1f} tokens/s", flush=True)


def measure_one(name, number, concurrency, arguments):
    count = REQUESTS[concurrency]
    prompts = prompts_of(f"{number} {concurrency}", count)
    with engines.start(name, arguments) as engine:
        engine.run(prompts_of(f"warm {number} {concurrency}", min(concurrency, 4)), concurrency, 8)
        requests = engine.run(prompts, concurrency, NEW_TOKENS)
    assert all(len(request["tokens"]) == NEW_TOKENS for request in requests), f"{name} sampled fewer tokens than asked"
    seconds = max(request["times"][-1] for request in requests) - min(request["begin"] for request in requests)
    return {
        "engine": name, "version": engine.version, "round": number, "concurrency": concurrency, "requests": count, "seconds": round(seconds, 3),
        "requests_per_s": round(count / seconds, 3), "tokens_per_s": round(count * NEW_TOKENS / seconds, 2),
        "first_token_s": [round(request["times"][0] - request["begin"], 4) for request in requests],
        "between_tokens_s": [round(b - a, 4) for request in requests for a, b in zip(request["times"], request["times"][1:])],
    }


def read(file):
    return [json.loads(line) for line in open(file)] if pathlib.Path(file).exists() else []


def table(arguments):
    rows = read(arguments.results)
    print("| at once | engine | requests/s | tokens/s | first token p50, p99 (s) | between tokens p50, p99 (ms) |\n|---|---|---|---|---|---|")
    for concurrency in sorted({row["concurrency"] for row in rows}):
        for name in dict.fromkeys(row["engine"] for row in rows):
            own = [row for row in rows if (row["engine"], row["concurrency"]) == (name, concurrency)]
            if own:
                print(f"| {concurrency} | {name} | " + " | ".join(summary(own)) + " |")


def summary(rows):
    """Medians of the rounds' throughputs; quantiles over all requests and all tokens of all rounds."""
    rates = [statistics.median(row[key] for row in rows) for key in ("requests_per_s", "tokens_per_s")]
    first = [second for row in rows for second in row["first_token_s"]]
    between = [1000 * second for row in rows for second in row["between_tokens_s"]]
    return [f"{rates[0]:.2f}", f"{rates[1]:.0f}", f"{quantile(first, 0.5):.2f}, {quantile(first, 0.99):.2f}",
            f"{quantile(between, 0.5):.0f}, {quantile(between, 0.99):.0f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["prepare", "check", "measure", "table"])
    parser.add_argument("work", type=pathlib.Path, help="a folder for the model; of `table`, the results")
    parser.add_argument("--engine", type=pathlib.Path, default=ROOT / "target/release/thyme-engine")
    parser.add_argument("--llama-server", type=pathlib.Path, help="llama.cpp's server, built with -DGGML_NATIVE=ON")
    parser.add_argument("--gguf-type", choices=["f16", "bf16", "f32"], default="f16")
    parser.add_argument("--flash-attention", choices=["on", "off"], default="off", help="of llama.cpp; off was faster here")
    parser.add_argument("--ubatch", type=int, default=512, help="of llama.cpp: tokens computed together")
    parser.add_argument("--transformers-options", type=str.split, default=[], help="of transformers_engine.py, in one text")
    parser.add_argument("--engines", type=lambda text: text.split(","), default=list(engines.ENGINES))
    parser.add_argument("--concurrency", type=lambda text: [int(part) for part in text.split(",")], default=list(REQUESTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--first-round", type=int, default=1, help="its number, which is also the seed of its prompts")
    parser.add_argument("--cores", default="0,1", help="cores that everything runs on")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {int(core) for core in arguments.cores.split(",")})
    arguments.results = arguments.work if arguments.command == "table" else arguments.work / "results.jsonl"
    {"prepare": prepare, "check": check, "measure": measure, "table": table}[arguments.command](arguments)


if __name__ == "__main__":
    main()
