#!/usr/bin/env python3
"""Golden data of the language model of Qwen3-VL, made by transformers and torch in float32 on the CPU.

Writes a small random checkpoint and, beside it, what transformers' Qwen3VLTextModel computes with it under a head:
log-probs, gradients, ten AdamW losses. tests/golden/model/README.md says what each file holds; tests/it/parity.rs and
tests/it/qwen3_vl_text.rs read them.

    python tools/golden/qwen3_vl_text.py [--out tests/golden/model]

Needs what tools/golden/model.py needs, which it takes its weights, projections and updates from; seconds of one core.
"""

import argparse
import pathlib
import platform
import shutil
import types

import safetensors.torch
import torch
import transformers
from transformers import Qwen3VLTextConfig, Qwen3VLTextModel

import model as whole

NAME = "qwen3_vl_text"
SEED = 55
# The head is wider than hidden_size / num_attention_heads, and the sections are uneven.
CONFIG = {
    "architectures": ["Qwen3VLTextModel"],
    "attention_bias": False,
    "dtype": "bfloat16",
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 80,
    "max_position_embeddings": 512,
    "model_type": "qwen3_vl_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "mrope_interleaved": True,
        "mrope_section": [7, 5, 4],
        "rope_theta": 5000000.0,
        "rope_type": "default",
    },
    "tie_word_embeddings": False,
    "vocab_size": 96,
}
# Tokens, or a picture's rows and columns of merged patches.
CASES = {
    "text": ("text only", [23]),
    "pictures": ("positions of two pictures among text", [5, (2, 4), 3, (3, 2), 8]),
    "deep": ("two pictures whose features are added behind layers too", [4, (2, 3), 6, (2, 2), 5]),
}


class LanguageModel(torch.nn.Module):
    """The text model under a head, as Qwen3VLForConditionalGeneration has them, with features in place of pictures."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.model = Qwen3VLTextModel._from_config(config, attn_implementation="eager")
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, input_ids, position_ids, is_image=None, features=None, use_cache=False):
        embeds, more = self.model.embed_tokens(input_ids), {}
        if features is not None:
            rows, *deep = features
            embeds = embeds.masked_scatter(is_image[..., None], rows)
            more = {"visual_pos_masks": is_image, "deepstack_visual_embeds": deep}
        hidden = self.model(inputs_embeds=embeds, position_ids=position_ids, use_cache=use_cache, **more)
        return types.SimpleNamespace(logits=self.lm_head(hidden.last_hidden_state))


def place(parts):
    """Positions [3, tokens] of text and pictures, and which tokens are a picture's."""
    positions, is_image, start = [], [], 0
    for part in parts:
        if isinstance(part, int):
            positions += [[start + i] * 3 for i in range(part)]
            is_image += [False] * part
            start += part
        else:
            height, width = part
            positions += [[start, start + y, start + x] for y in range(height) for x in range(width)]
            is_image += [True] * (height * width)
            start += max(height, width)
    return torch.tensor(positions).T, torch.tensor(is_image)


def inputs_of(kind, parts, generator):
    positions, is_image = place(parts)
    tokens = is_image.numel()
    inputs = {
        "input_ids": torch.randint(0, CONFIG["vocab_size"], (1, tokens), generator=generator),
        "position_ids": positions[:, None],
    }
    if kind == "deep":
        shape = (int(is_image.sum()), CONFIG["hidden_size"])
        features = [0.5 * torch.randn(shape, generator=generator) for _ in range(3)]
        inputs["features"] = [f.to(torch.bfloat16).float().requires_grad_() for f in features]
        inputs["is_image"] = is_image[None]
    return inputs


def precise_inputs(inputs):
    if "features" not in inputs:
        return inputs
    return {**inputs, "features": [f.detach().double().requires_grad_() for f in inputs["features"]]}


def write_checkpoint(folder):
    folder.mkdir(parents=True)
    whole.write_json(folder / "config.json", CONFIG)
    model = LanguageModel(Qwen3VLTextConfig.from_pretrained(folder))
    whole.random_weights(model, SEED)
    tensors = {name: p.detach().to(torch.bfloat16).contiguous() for name, p in model.named_parameters()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def load(folder):
    model = LanguageModel(Qwen3VLTextConfig.from_pretrained(folder))
    model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    return model.float().train()


def features_named(kind, what, features):
    names = ["rows", *(f"deep_{layer}" for layer in range(len(features) - 1))]
    return {f"{kind}/{what}/{name}": feature.detach().clone().contiguous() for name, feature in zip(names, features)}


def make(out):
    folder = out / NAME
    write_checkpoint(folder)
    model, precise = load(folder), load(folder).double()
    generator = torch.Generator().manual_seed(SEED)
    cases, tensors, batch, worst_logprob, worst_gradient = [], {}, [], 0.0, ("", 0.0)
    for kind, (title, parts) in CASES.items():
        inputs = inputs_of(kind, parts, generator)
        with torch.no_grad():
            logprobs = whole.logprobs_of(model, inputs)
        gradients = whole.gradients_of(model, inputs)
        for tensor, gradient in gradients.items():
            tensors[f"{kind}/projected/{tensor}"] = whole.project(gradient)
            if gradient.ndim == 1:
                tensors[f"{kind}/gradient/{tensor}"] = gradient.contiguous()
        if kind == "deep":
            tensors.update(features_named(kind, "features", inputs["features"]))
            tensors.update(features_named(kind, "dfeatures", [f.grad for f in inputs["features"]]))
        else:
            batch.append(inputs)
        case = {
            "name": kind,
            "title": title,
            "token_ids": inputs["input_ids"][0].tolist(),
            "images": [],
            "positions": inputs["position_ids"][:, 0].tolist(),
            "logprobs": [None, *whole.rounded(logprobs.tolist())],
        }
        if kind == "deep":
            rows = inputs["is_image"][0].cumsum(0) - 1
            case["image_index"] = torch.where(inputs["is_image"][0], rows, -1).tolist()
        cases.append(case)
        # float64 tells how much of the tolerance float32 itself uses up.
        inputs64 = precise_inputs(inputs)
        with torch.no_grad():
            worst_logprob = max(worst_logprob, (whole.logprobs_of(precise, inputs64) - logprobs).abs().max().item())
        for tensor, gradient in whole.gradients_of(precise, inputs64).items():
            error = whole.relative_error(gradients[tensor], gradient)
            worst_gradient = max(worst_gradient, (f"{kind} {tensor}", error), key=lambda pair: pair[1])
    losses, norms = whole.adamw_losses(model, batch)
    losses64, _ = whole.adamw_losses(precise, batch)
    golden = {
        "made_by": f"tools/golden/{NAME}.py",
        "versions": {
            "transformers": transformers.__version__, "torch": torch.__version__, "python": platform.python_version(),
        },
        "checkpoint": NAME,
        "family": CONFIG["model_type"],
        "tied": CONFIG["tie_word_embeddings"],
        "projections": whole.PROJECTIONS,
        "cases": cases,
        "adamw": {
            **whole.ADAMW, "batch": ["text", "pictures"], "losses": whole.rounded(losses),
            "grad_norms": whole.rounded(norms),
        },
    }
    (out / f"{NAME}.json").write_text(whole.compact(golden))
    safetensors.torch.save_file(tensors, out / f"{NAME}.safetensors", metadata={"format": "pt"})
    worst_loss = max(abs(a - b) for a, b in zip(losses, losses64))
    print(f"{NAME}: float32 against float64: log-prob {worst_logprob:.1e}, gradient {worst_gradient[1]:.1e} "
          f"({worst_gradient[0]}), loss {worst_loss:.1e}")
    print("  losses", " ".join(f"{loss:.4f}" for loss in losses), " norms", " ".join(f"{norm:.2f}" for norm in norms))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/golden/model"))
    out = arguments.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    shutil.rmtree(out / NAME, ignore_errors=True)
    make(out)


if __name__ == "__main__":
    main()
