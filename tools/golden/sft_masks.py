"""Writes tests/golden/sft/masks.json: what each system's supervised fine-tuning learns of a conversation, and transformers' loss of it.

Labels are made here from the rules of the systems, on the text of the chat template; loss and gradient norm are those of transformers in
float64, of the mean cross-entropy over the labels. tests/golden/sft/README.md says what the file holds.

    pip install torch torchvision transformers pillow && python tools/golden/sft_masks.py
"""

import json
import pathlib
import re

import model as golden_model
import torch
import transformers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

ROOT = pathlib.Path(__file__).parents[2]
CHECKPOINT = "recipes/tiny-sft"
IGNORED = -100
MARKERS = "(<sandbox_output>|</sandbox_output>)"
FACTOR = 28

ONE_MESSAGE = {
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "<image>\nWhat digit is on the red plate?"},
        {"role": "assistant", "content": "<think>one<code>\na = 1\n</code><sandbox_output><image></sandbox_output> two"
         "<code>\nb = 2\n</code><sandbox_output>5</sandbox_output> three<code>\nc = 3\n</code><sandbox_output>6"
         "</sandbox_output> so it is 7</think>\n<answer>7</answer>"},
    ],
    "images": [[112, 56], [56, 84]],
}
ONE_OBSERVATION = {
    "messages": [
        {"role": "user", "content": "<image>\nWhat digit is on the red plate?"},
        {"role": "assistant", "content": "<think>one<code>\na = 1\n</code><sandbox_output><image></sandbox_output> so "
         "it is 7</think>\n<answer>7</answer>"},
    ],
    "images": [[112, 56], [56, 84]],
}
MANY_MESSAGES = {
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "<image>\nWhat digit is on the red plate?"},
        {"role": "assistant", "content": "I look.\n<tool_call>\n{\"a\": 1}\n</tool_call>"},
        {"role": "user", "content": "Here is the crop.<image>"},
        {"role": "assistant", "content": "Again.\n<tool_call>\n{\"b\": 2}\n</tool_call>"},
        {"role": "user", "content": "Here is the crop.<image>"},
        {"role": "assistant", "content": "It is 7."},
    ],
    "images": [[112, 56], [56, 84], [84, 84]],
}


# ---- the rules of the systems ----


def thyme(pieces):
    """Pieces are text with whether it is the answer's. Masked: through the second-to-last </sandbox_output> where there are two or more, each
    observation with its markers, and images."""
    text = "".join(text for text, is_answer in pieces if is_answer)
    closes = text.count("</sandbox_output>")
    closed, inside = 0, False
    for text, is_answer in pieces:
        for part in re.split(MARKERS, text) if is_answer else [text]:
            inside = inside or (is_answer and part == "<sandbox_output>")
            learned = is_answer and not inside and (closes < 2 or closed >= closes - 1)
            if part == "</sandbox_output>" and is_answer:
                inside, closed = False, closed + 1
                learned = False
            yield part, learned


def assistant_turns(pieces):
    """verl's, and TRL's with assistant_only_loss: what an assistant says, and the end of its message."""
    for text, is_answer in pieces:
        yield text, is_answer


def last_two_with_header(pieces):
    """Pixel Reasoner's: from <|im_start|> to <|im_end|> of the last two messages of the assistant."""
    pieces = list(pieces)
    answers = [place for place, (_, is_answer) in enumerate(pieces) if is_answer][-2:]
    header = "<|im_start|>assistant\n"
    for place, (text, _) in enumerate(pieces):
        if place + 1 in answers:
            assert text.endswith(header)
            yield text[: -len(header)], False
            yield header, True
        else:
            yield text, place in answers


def every_token(pieces):
    """OpenThinkIMG's: all but padding and placeholders of images. Text is tokenised apart at an observation's markers, as in rollouts."""
    for text, _ in pieces:
        for part in re.split(MARKERS, text):
            yield part, True


CASES = [
    ("Thyme", thyme, ONE_MESSAGE, {"train_turns": "last_two"}),
    ("Thyme, one observation", thyme, ONE_OBSERVATION, {"train_turns": "last_two"}),
    ("verl", assistant_turns, MANY_MESSAGES, {}),
    ("Pixel Reasoner", last_two_with_header, MANY_MESSAGES,
     {"train_turns": "last_two", "train_tokens": "assistant_and_header"}),
    ("OpenThinkIMG", every_token, MANY_MESSAGES, {"train_tokens": "all"}),
    ("OpenThinkIMG, one message", every_token, ONE_MESSAGE, {"train_tokens": "all"}),
]


# ---- tokens, labels, loss ----


def pieces_of(messages):
    """The text of the chat template in pieces, each with whether it is what an assistant says, <|im_end|> included; without the line break
    behind the last message."""
    text = ""
    for place, message in enumerate(messages):
        text += f"<|im_start|>{message['role']}\n"
        said = message["content"].replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
        if message["role"] == "assistant":
            yield text, False
            yield said + "<|im_end|>", True
            text = "\n"
        else:
            text += said + "<|im_end|>\n"


def tokens_and_labels(tokenizer, masked, sizes):
    pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    ids, labels, sizes = [], [], iter(sizes)
    for text, learned in masked:
        for token in tokenizer.encode(text, add_special_tokens=False):
            if token == pad:
                width, height = next(sizes)
                count = (width // FACTOR) * (height // FACTOR)
                ids += [pad] * count
                labels += [IGNORED] * count
            else:
                ids.append(token)
                labels.append(token if learned else IGNORED)
    return ids, labels


def inputs_of(model, ids, sizes):
    input_ids = torch.tensor([ids])
    processor = Qwen2VLImageProcessorPil.from_pretrained(ROOT / CHECKPOINT)
    images = [golden_model.draw(width, height, number) for number, (width, height) in enumerate(sizes)]
    inputs = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "mm_token_type_ids": (input_ids == model.config.image_token_id).int(),
        **processor(images=images, return_tensors="pt"),
    }
    for (width, height), grid in zip(sizes, inputs["image_grid_thw"].tolist()):
        assert [height, width] == [grid[1] * 14, grid[2] * 14], "the image was resized"
    inputs["pixel_values"] = inputs["pixel_values"].double()
    return inputs


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(ROOT / CHECKPOINT)
    model = golden_model.load(ROOT / CHECKPOINT).double()
    trained = [parameter for name, parameter in model.named_parameters() if "visual" not in name]
    cases = []
    for name, rule, example, settings in CASES:
        messages, sizes = example["messages"], example["images"]
        pieces = list(pieces_of(messages))
        whole = tokenizer.apply_chat_template(messages, tokenize=False).replace(
            "<image>", "<|vision_start|><|image_pad|><|vision_end|>")
        assert "".join(text for text, _ in pieces) + "\n" == whole, "the pieces are the chat template's text"
        ids, labels = tokens_and_labels(tokenizer, rule(pieces), sizes)
        model.zero_grad(set_to_none=True)
        logits = model(**inputs_of(model, ids, sizes), use_cache=False).logits[0]
        loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(labels[1:]), ignore_index=IGNORED)
        loss.backward()
        norm = torch.stack([parameter.grad.norm() for parameter in trained if parameter.grad is not None]).norm()
        cases.append({
            "name": name, "settings": settings, "messages": messages, "image_sizes": sizes, "token_ids": ids,
            "labels": labels, "loss": float(f"{loss.item():.9g}"), "grad_norm": float(f"{norm.item():.9g}"),
        })
        print(name, len(ids), sum(label != IGNORED for label in labels), loss.item(), norm.item())
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    lines = ",\n".join(json.dumps(case) for case in cases)
    path = ROOT / "tests/golden/sft/masks.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"versions": {json.dumps(versions)}, "checkpoint": "{CHECKPOINT}", "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
