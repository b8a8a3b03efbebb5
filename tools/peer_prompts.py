"""The prompts of the peer: token ids and pixels of a task file's lines, and batches of them as `generate` takes them."""

import json
import pathlib
from typing import NamedTuple

import torch
from PIL import Image
from transformers import AutoProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil


class Prompt(NamedTuple):
    token_ids: list[int]
    pixel_values: torch.Tensor | None
    grids: torch.Tensor | None
    pictures: list[pathlib.Path]
    solution: str | None


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
    """The prompts of the file's lines."""
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
        pictures = [file.parent / path for path in paths]
        images = [Image.open(picture).convert("RGB") for picture in pictures]
        vision = image_processor(images=images, return_tensors="pt") if images else {}
        if text is None:
            token_ids = request["token_ids"]
        else:
            # The processor only expands the markers; the pixels are those of the PIL processor above.
            for grid in vision.get("image_grid_thw", torch.empty(0, 3)):
                text = text.replace("<|image_pad|>", "<|placeholder|>" * image_tokens(grid, image_processor), 1)
            text = text.replace("<|placeholder|>", "<|image_pad|>")
            token_ids = processor.tokenizer(text)["input_ids"]
        vision = vision.get("pixel_values"), vision.get("image_grid_thw")
        prompts.append(Prompt(token_ids, *vision, pictures, request.get("solution")))
    return prompts


def image_tokens(grid, image_processor):
    """Placeholders of an image."""
    return int(grid.prod()) // image_processor.merge_size**2


def collate(rows, config, dtype):
    """Left-padded inputs of a batch of rows, which have `token_ids`, `pixel_values` and `grids`."""
    longest = max(len(row.token_ids) for row in rows)
    input_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for index, row in enumerate(rows):
        input_ids[index, longest - len(row.token_ids):] = torch.tensor(row.token_ids)
        attention_mask[index, longest - len(row.token_ids):] = 1
    inputs = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "mm_token_type_ids": ((input_ids == config.image_token_id) & (attention_mask == 1)).int(),
    }
    with_images = [row for row in rows if row.pixel_values is not None]
    if with_images:
        inputs["pixel_values"] = torch.cat([row.pixel_values for row in with_images]).to(dtype)
        inputs["image_grid_thw"] = torch.cat([row.grids for row in with_images])
    return inputs
