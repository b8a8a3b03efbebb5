#!/usr/bin/env python3
"""How fast transformers and PyTorch roll out and update the same checkpoint on the same prompts: the peer of `cargo bench`.

    python tools/peer_speed.py --model DIR --prompts FILE.jsonl --max-new-tokens 64 --group 8 --batch 32

Each line of FILE has `messages` (OpenAI-style parts, or text with <image> in it beside `images: [path]`) or `token_ids`
(images already expanded) and `images`. Relative paths start at the file's folder. Prints one JSON line.

Rollout: `generate` with a KV cache on left-padded batches of B sequences (B / G prompts, G answers each), sdpa attention,
T = 1, no end token, so that every sequence samples exactly N tokens. Counted: the sampled tokens; prefill and vision tower are
inside the time, reading prompts (image files, chat templates) is not. Update: those sequences through forward, backward and fused AdamW,
one step for each batch of B, loss on the sampled tokens; counted: all tokens that are not padding. Rollout with tools (with
--recipe and --tasks): the recipe's own, as peer_tools.py has it, once with adaptive temperature and once, in fewer calls, at
temperature 1 throughout. Counted: the sampled tokens; running code and preparing the images that it makes are inside the time too.
After a warm-up, the best of the repeats and of the thread counts is reported: on a small model, or a busy machine, one thread can
be faster than two.
"""

import argparse
import json
import pathlib
import sys
import time

import torch
import transformers
from transformers import AutoModelForImageTextToText

from peer_prompts import collate, read_prompts
from peer_tools import ToolRollout

# A dtype this much slower than the fastest in the warm-up is not measured: without instructions for bfloat16 it would take minutes.
SLOWER_MAX = 3.0


def roll_out(model, batches, group, new_tokens):
    """Token ids [sequences, prompt + new_tokens] of each batch."""
    with torch.inference_mode():
        return [
            model.generate(
                **inputs, num_return_sequences=group, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=new_tokens, use_cache=True,
            )
            for inputs in batches
        ]


def training_batch(inputs, sequences, prompts, config, group, dtype):
    """The sampled sequences as inputs with labels; the images are repeated for each member of a group."""
    prompt_length = inputs["input_ids"].shape[1]
    rows = [prompt for prompt in prompts for _ in range(group)]
    batch = collate(rows, config, dtype)
    sampled = sequences[:, prompt_length:].clone()
    # A random model may sample an image marker, for which there is no image.
    sampled[(sampled == config.image_token_id) | (sampled == config.video_token_id)] = 0
    ignored = torch.full_like(batch["input_ids"], -100)
    batch["labels"] = torch.cat([ignored, sampled], dim=1)
    batch["input_ids"] = torch.cat([batch["input_ids"], sampled], dim=1)
    batch["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones_like(sampled)], dim=1)
    batch["mm_token_type_ids"] = torch.cat([batch["mm_token_type_ids"], torch.zeros_like(sampled).int()], dim=1)
    return batch


def update(model, optimizer, batches):
    for batch in batches:
        model(**batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def best_of(repeats, work):
    """The seconds of the fastest run, and what the last one gave. All runs sample the same."""
    times = []
    for _ in range(repeats):
        torch.manual_seed(0)
        start = time.perf_counter()
        given = work()
        times.append(time.perf_counter() - start)
    return min(times), given


def row(tokens, seconds, **more):
    return {"tokens": tokens, "seconds": round(seconds, 4), "tokens_per_s": round(tokens / seconds, 1), **more}


def open_model(arguments, dtype):
    model = AutoModelForImageTextToText.from_pretrained(arguments.model, dtype=dtype, attn_implementation="sdpa")
    model.generation_config = transformers.GenerationConfig(pad_token_id=0)
    if arguments.freeze_vision:
        model.model.visual.requires_grad_(False)
    return model


def first_seconds(arguments, prompts, dtype):
    """Seconds of a forward and backward over one group's prompts: how fast a dtype is at all."""
    # Threads that wait for each other on a busy machine would blur the ratio.
    torch.set_num_threads(1)
    model = open_model(arguments, dtype)
    batch = collate(prompts[:1] * arguments.group, model.config, dtype)
    batch["labels"] = batch["input_ids"]
    return best_of(3, lambda: model(**batch, use_cache=False).loss.backward())[0]


def fast_dtypes(arguments, prompts):
    names = arguments.dtypes.split(",")
    seconds = {name: first_seconds(arguments, prompts, getattr(torch, name)) for name in names}
    fastest = min(seconds, key=seconds.get)
    for name in names:
        times = seconds[name] / seconds[fastest]
        if times <= SLOWER_MAX:
            yield name
        else:
            print(f"{name} is left out: {times:.0f} times slower than {fastest} in the warm-up", file=sys.stderr)


def measure(arguments, prompts, dtype, threads):
    torch.set_num_threads(threads)
    model = open_model(arguments, dtype)
    together = max(1, arguments.batch // arguments.group)
    chunks = [prompts[start:start + together] for start in range(0, len(prompts), together)]
    batches = [collate(chunk, model.config, dtype) for chunk in chunks]
    parts = {}

    model.eval()
    roll_out(model, batches[:1], arguments.group, 4)
    seconds, rolled = best_of(
        arguments.repeats, lambda: roll_out(model, batches, arguments.group, arguments.max_new_tokens),
    )
    sampled = len(prompts) * arguments.group * arguments.max_new_tokens
    parts["rollout"] = row(sampled, seconds, threads=threads)

    if arguments.recipe:
        tools = ToolRollout(arguments.recipe, arguments.model)
        tasks = read_prompts(arguments.tasks, arguments.model)
        for part, adaptive in [("rollout_with_tools", True), ("rollout_with_tools_temperature_1", False)]:
            seconds, finished = best_of(arguments.repeats, lambda: tools.run(model, tasks, adaptive))
            sampled = sum(sequence.sampled for sequence in finished)
            parts[part] = row(sampled, seconds, **tools.counts(finished), threads=threads)

    model.train()
    training = [
        training_batch(inputs, sequences.clone(), chunk, model.config, arguments.group, dtype)
        for inputs, sequences, chunk in zip(batches, rolled, chunks)
    ]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=True)
    update(model, optimizer, training[:1])
    seconds, _ = best_of(arguments.repeats, lambda: update(model, optimizer, training))
    trained = sum(int(batch["attention_mask"].sum()) for batch in training)
    parts["update"] = row(trained, seconds, threads=threads)
    return parts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="a checkpoint folder")
    parser.add_argument("--prompts", type=pathlib.Path, required=True, help="a JSONL file")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="tokens sampled for each sequence")
    parser.add_argument("--group", type=int, default=8, help="sequences for each prompt")
    parser.add_argument("--batch", type=int, default=32, help="sequences decoded, and updated on, together")
    parser.add_argument("--limit", type=int, default=None, help="use only the first so many prompts")
    parser.add_argument("--threads", default="1,2", help="thread counts to try; the faster is reported")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--recipe", type=pathlib.Path, default=None, help="a GRPO recipe, to roll out with tools")
    parser.add_argument("--tasks", type=pathlib.Path, default=None, help="the recipe's tasks, a JSONL file with solutions")
    parser.add_argument("--freeze-vision", action="store_true", help="no gradient for the vision tower")
    arguments = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    prompts = read_prompts(arguments.prompts, arguments.model)[:arguments.limit]
    result = {
        "peer": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "model": str(arguments.model),
        "prompts": len(prompts),
        "prompt_tokens": sum(len(prompt.token_ids) for prompt in prompts),
        "group": arguments.group,
        "batch": arguments.batch,
        "max_new_tokens": arguments.max_new_tokens,
        "freeze_vision": arguments.freeze_vision,
    }
    for name in fast_dtypes(arguments, prompts):
        tries = [measure(arguments, prompts, getattr(torch, name), int(t)) for t in arguments.threads.split(",")]
        result[name] = {part: max((t[part] for t in tries), key=lambda row: row["tokens_per_s"]) for part in tries[0]}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
