#!/usr/bin/env python3
"""Continuous batching of transformers, driven as compare.py drives servers, without a server between: a request begins when it is handed to
the manager, and its tokens arrive when the manager hands them out.

Reads jobs from stdin, one JSON object a line: {"prompts": [[id, ...], ...], "concurrency": N, "tokens": N}. Writes for each a line
{"requests": [{"begin": S, "times": [S, ...], "tokens": [id, ...]}, ...]}. Compiled kernels (`--compile 1`) need a C++ compiler.
"""

import argparse
import asyncio
import json
import os
import sys
import time

from engines import in_flight


async def request(manager, prompt, tokens):
    """Samples an answer; when it began and when its tokens came."""
    arrived = asyncio.Queue()
    begin, times, sampled = time.perf_counter(), [], []
    name = f"{id(prompt)}-{begin}"
    manager.register_result_handler(name, arrived.put_nowait)
    manager.add_request(prompt, request_id=name, max_new_tokens=tokens, streaming=True, eos_token_id=-1)
    while len(sampled) < tokens:
        result = await arrived.get()
        if result.error is not None:
            raise RuntimeError(result.error)
        new = result.generated_tokens[len(sampled):]
        sampled.extend(new)
        times.extend([time.perf_counter()] * len(new))
    return {"begin": begin, "times": times, "tokens": sampled}


def main():
    parser = argparse.ArgumentParser(description="Continuous batching of transformers over stdin and stdout.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--block-size", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=512)
    parser.add_argument("--batch-tokens", type=int, default=512)
    parser.add_argument("--compile", type=int, default=0, help="level 0 to 3")
    arguments = parser.parse_args()
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr

    import torch
    import transformers
    from transformers import AutoModelForImageTextToText, ContinuousBatchingConfig, GenerationConfig
    torch.set_num_threads(arguments.threads)
    model = AutoModelForImageTextToText.from_pretrained(
        arguments.model, dtype=getattr(torch, arguments.dtype), attn_implementation=arguments.attention)
    generation = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=64)
    batching = ContinuousBatchingConfig(
        block_size=arguments.block_size, num_blocks=arguments.blocks, max_batch_tokens=arguments.batch_tokens,
        default_compile_level=arguments.compile)
    with model.continuous_batching_context_manager(generation_config=generation, continuous_batching_config=batching) as manager:
        print(f"transformers {transformers.__version__}, torch {torch.__version__}, {arguments.dtype}", file=answers, flush=True)
        for line in sys.stdin:
            job = json.loads(line)
            work = in_flight(lambda prompt, tokens: request(manager, prompt, tokens), job["prompts"], job["concurrency"], job["tokens"])
            requests = asyncio.run(work)
            print(json.dumps({"requests": requests}), file=answers, flush=True)


if __name__ == "__main__":
    main()
