#!/usr/bin/env python3
"""How fast transformers and PyTorch roll out and update the same checkpoint on the same prompts: the peer of `cargo bench`.

    python tools/peer_speed.py --model DIR --prompts FILE.jsonl --max-new-tokens 64 --group 8 --batch 32

Each line of FILE has `messages` (OpenAI-style parts, or text with <image> in it beside `images: [path]`) or `token_ids`
(images already expanded) and `images`. Relative paths start at the file's folder. Prints one JSON line.

Rollout: `generate` with a KV cache on left-padded batches of B sequences (B / G prompts, G answers each), sdpa attention,
T = 1, no end token, so that every sequence draws exactly N tokens. Counted: the drawn tokens; prefill and vision tower are
inside the time, image files and chat templates are not. Update: those sequences through forward, backward and fused AdamW,
one step for each batch of B, loss on the drawn tokens; counted: all tokens that are not padding. After a warm-up, the
best of the repeats and of the thread counts is reported: on a small model, or a busy machine, one thread can be faster than two.
"""

import argparse
import json
import pathlib
import time

import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil


# ---- prompts ----


def parts_of(message, paths):
    """A message's content as a list of parts; <image> in plain text takes the next of `paths`."""
    if not isinstance(message["content"], str):
        return message["content"]
    parts = []
    for index, text in enumerate(message["content"].split("<image>")):
        if index > 0:
            parts.append({"type": "image", "image": next(paths)})
        if text:
            parts.append({"type": "text", "text": text})
    return parts


def read_prompts(file, model_folder):
    """[(token ids, pixel values or None, grids or None)] of the file's lines."""
    image_processor = Qwen2VLImageProcessorPil.from_pretrained(model_folder)
    processor = None
    prompts = []
    for line in file.read_text().splitlines():
        if not line.strip():
            continue
        request = json.loads(line)
        if "token_ids" in request:
            paths, text = request.get("images", []), None
        else:
            processor = processor or AutoProcessor.from_pretrained(model_folder)
            given = iter(request.get("images", []))
            messages = [{**m, "content": parts_of(m, given)} for m in request["messages"] if m["role"] != "assistant"]
            paths = [part["image"] for m in messages for part in m["content"] if part["type"] == "image"]
            text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        images = [Image.open(file.parent / path).convert("RGB") for path in paths]
        vision = image_processor(images=images, return_tensors="pt") if images else {}
        if text is None:
            token_ids = request["token_ids"]
        else:
            # The processor only expands the markers; the pixels are those of the PIL processor above.
            for grid in vision.get("image_grid_thw", torch.empty(0, 3)).tolist():
                pads = int(grid[0] * grid[1] * grid[2]) // image_processor.merge_size**2
                text = text.replace("<|image_pad|>", "<|placeholder|>" * pads, 1)
            text = text.replace("<|placeholder|>", "<|image_pad|>")
            token_ids = processor.tokenizer(text)["input_ids"]
        prompts.append((token_ids, vision.get("pixel_values"), vision.get("image_grid_thw")))
    return prompts


def collate(prompts, config, dtype):
    """Left-padded inputs of a batch of prompts."""
    longest = max(len(token_ids) for token_ids, _, _ in prompts)
    input_ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, (token_ids, _, _) in enumerate(prompts):
        input_ids[row, longest - len(token_ids):] = torch.tensor(token_ids)
        attention_mask[row, longest - len(token_ids):] = 1
    inputs = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "mm_token_type_ids": ((input_ids == config.image_token_id) & (attention_mask == 1)).int(),
    }
    pixels = [pixels for _, pixels, _ in prompts if pixels is not None]
    if pixels:
        inputs["pixel_values"] = torch.cat(pixels).to(dtype)
        inputs["image_grid_thw"] = torch.cat([grids for _, _, grids in prompts if grids is not None])
    return inputs


# ---- what is timed ----


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
    """The drawn sequences as inputs with labels; the images are repeated for each member of a group."""
    prompt_length = inputs["input_ids"].shape[1]
    rows = [prompt for prompt in prompts for _ in range(group)]
    batch = collate(rows, config, dtype)
    drawn = sequences[:, prompt_length:].clone()
    # A random model may draw an image marker, for which there is no image.
    drawn[(drawn == config.image_token_id) | (drawn == config.video_token_id)] = 0
    ignored = torch.full_like(batch["input_ids"], -100)
    batch["labels"] = torch.cat([ignored, drawn], dim=1)
    batch["input_ids"] = torch.cat([batch["input_ids"], drawn], dim=1)
    batch["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones_like(drawn)], dim=1)
    batch["mm_token_type_ids"] = torch.cat([batch["mm_token_type_ids"], torch.zeros_like(drawn).int()], dim=1)
    return batch


def update(model, optimizer, batches):
    for batch in batches:
        model(**batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def best_seconds(repeats, work):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(arguments, prompts, dtype, threads):
    torch.set_num_threads(threads)
    model = AutoModelForImageTextToText.from_pretrained(arguments.model, dtype=dtype, attn_implementation="sdpa")
    model.generation_config = transformers.GenerationConfig(pad_token_id=0)
    if arguments.freeze_vision:
        model.model.visual.requires_grad_(False)
    together = max(1, arguments.batch // arguments.group)
    chunks = [prompts[start:start + together] for start in range(0, len(prompts), together)]
    batches = [collate(chunk, model.config, dtype) for chunk in chunks]

    model.eval()
    roll_out(model, batches[:1], arguments.group, 4)
    rolled = []
    rollout_seconds = best_seconds(
        arguments.repeats,
        lambda: rolled.__setitem__(slice(None), roll_out(model, batches, arguments.group, arguments.max_new_tokens)),
    )
    drawn = len(prompts) * arguments.group * arguments.max_new_tokens

    model.train()
    training = [
        training_batch(inputs, sequences.clone(), chunk, model.config, arguments.group, dtype)
        for inputs, sequences, chunk in zip(batches, rolled, chunks)
    ]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=True)
    update(model, optimizer, training[:1])
    update_seconds = best_seconds(arguments.repeats, lambda: update(model, optimizer, training))
    trained = sum(int(batch["attention_mask"].sum()) for batch in training)
    return {
        "rollout": {"tokens": drawn, "seconds": round(rollout_seconds, 4),
                    "tokens_per_s": round(drawn / rollout_seconds, 1), "threads": threads},
        "update": {"tokens": trained, "seconds": round(update_seconds, 4),
                   "tokens_per_s": round(trained / update_seconds, 1), "threads": threads},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="a checkpoint folder")
    parser.add_argument("--prompts", type=pathlib.Path, required=True, help="a JSONL file")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="tokens drawn for each sequence")
    parser.add_argument("--group", type=int, default=8, help="sequences for each prompt")
    parser.add_argument("--batch", type=int, default=32, help="sequences decoded, and updated on, together")
    parser.add_argument("--limit", type=int, default=None, help="use only the first so many prompts")
    parser.add_argument("--threads", default="1,2", help="thread counts to try; the faster is reported")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--freeze-vision", action="store_true", help="no gradient for the vision tower")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    prompts = read_prompts(arguments.prompts, arguments.model)[:arguments.limit]
    result = {
        "peer": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "model": str(arguments.model),
        "prompts": len(prompts),
        "prompt_tokens": sum(len(token_ids) for token_ids, _, _ in prompts),
        "group": arguments.group,
        "batch": arguments.batch,
        "max_new_tokens": arguments.max_new_tokens,
        "freeze_vision": arguments.freeze_vision,
    }
    for name in arguments.dtypes.split(","):
        tries = [measure(arguments, prompts, getattr(torch, name), int(t)) for t in arguments.threads.split(",")]
        result[name] = {part: max((t[part] for t in tries), key=lambda row: row["tokens_per_s"]) for part in tries[0]}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
