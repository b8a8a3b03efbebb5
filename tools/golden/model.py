#!/usr/bin/env python3
"""Golden data of the whole model, made by transformers and torch in float32 on the CPU.

Writes four small random checkpoints and, beside each, what transformers computes with it: positions, log-probs,
gradients, ten AdamW losses, and the hidden states on the way. tests/golden/model/README.md says what each file
holds; tests/it/parity.rs reads them.

    python tools/golden/model.py [--out tests/golden/model]

Needs torch, torchvision, transformers 5.17, pillow, numpy, safetensors; a minute of one core.
"""

import argparse
import json
import pathlib
import platform
import shutil

import numpy
import PIL
import safetensors.torch
import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

PROJECTIONS = 32
ADAMW = {
    "learning_rate": 1e-3,
    "beta1": 0.9,
    "beta2": 0.95,
    "epsilon": 1e-8,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "steps": 10,
}

# Sizes are odd on purpose: intermediate sizes that no vector width divides, head sizes 6 to 16, windows that cut
# an image unevenly. `names` is "released" (model.layers, visual) or "module" (model.language_model, model.visual).
CHECKPOINTS = {
    "qwen2_5_vl_untied_flat": {
        "family": "qwen2_5_vl",
        "seed": 11,
        "config": "flat",
        "names": "released",
        "shards": 1,
        "text": {
            "vocab_size": 203, "hidden_size": 48, "intermediate_size": 50, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        },
        "rope": {"rope_theta": 1000000.0, "mrope_section": [2, 2, 2]},
        "vision": {
            "depth": 3, "hidden_size": 16, "intermediate_size": 27, "num_heads": 2, "out_hidden_size": 48,
            "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1],
        },
        "tied": False,
        "first_special": 190,
        "images": {"one": [(84, 56)], "two": [(112, 56), (84, 140)], "assistant": [(56, 84), (56, 56)]},
        "full_gradient": False,
    },
    "qwen2_5_vl_tied_nested": {
        "family": "qwen2_5_vl",
        "seed": 22,
        "config": "nested",
        "names": "module",
        "shards": 3,
        "text": {
            "vocab_size": 211, "hidden_size": 40, "intermediate_size": 45, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
        },
        "rope": {"rope_theta": 10000.0, "mrope_section": [1, 2, 2]},
        "vision": {
            "depth": 2, "hidden_size": 24, "intermediate_size": 35, "num_heads": 2, "out_hidden_size": 40,
            "patch_size": 6, "window_size": 24, "fullatt_block_indexes": [1],
        },
        "tied": True,
        "first_special": 200,
        "images": {"one": [(36, 48)], "two": [(60, 36), (24, 48)], "assistant": [(36, 24)]},
        "full_gradient": True,
    },
    "qwen2_vl_tied_flat": {
        "family": "qwen2_vl",
        "seed": 33,
        "config": "flat",
        "names": "released",
        "shards": 1,
        "text": {
            "vocab_size": 207, "hidden_size": 64, "intermediate_size": 43, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        },
        "rope": {"rope_theta": 1000000.0, "mrope_section": [2, 3, 3]},
        "vision": {
            "depth": 2, "embed_dim": 16, "mlp_ratio": 3, "num_heads": 1, "hidden_size": 64, "patch_size": 14,
        },
        "tied": True,
        "first_special": 185,
        "images": {"one": [(56, 84)], "two": [(84, 84), (112, 56)], "assistant": [(84, 56)]},
        "full_gradient": False,
    },
    "qwen2_vl_untied_nested": {
        "family": "qwen2_vl",
        "seed": 44,
        "config": "nested",
        "names": "released",
        "shards": 2,
        "text": {
            "vocab_size": 205, "hidden_size": 36, "intermediate_size": 46, "num_hidden_layers": 2,
            "num_attention_heads": 6, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        },
        "rope": {"rope_theta": 1000000.0, "mrope_section": [1, 1, 1]},
        "vision": {
            "depth": 2, "embed_dim": 24, "mlp_ratio": 2, "num_heads": 3, "hidden_size": 36, "patch_size": 6,
        },
        "tied": False,
        "first_special": 198,
        "images": {"one": [(48, 24)], "two": [(36, 36), (48, 60)], "assistant": [(24, 36), (36, 24)]},
        "full_gradient": True,
    },
}


# ---- checkpoints ----


def special_ids(spec):
    first = spec["first_special"]
    names = ["end_of_text", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad"]
    return {name: first + offset for offset, name in enumerate(names)}


def config_of(spec):
    """config.json as the released checkpoints write it (flat) or as transformers 5 does (nested)."""
    ids = special_ids(spec)
    architecture = {
        "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
        "qwen2_vl": "Qwen2VLForConditionalGeneration",
    }[spec["family"]]
    text = {
        **spec["text"],
        "bos_token_id": ids["end_of_text"],
        "eos_token_id": ids["im_end"],
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "max_position_embeddings": 4096,
        "use_cache": True,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 2,
    }
    tokens = {
        "vision_start_token_id": ids["vision_start"],
        "vision_end_token_id": ids["vision_end"],
        "image_token_id": ids["image_pad"],
        "video_token_id": ids["video_pad"],
    }
    section = spec["rope"]["mrope_section"]
    vision = {"in_chans": 3, "spatial_merge_size": 2, "temporal_patch_size": 2, **spec["vision"]}
    vision["spatial_patch_size"] = vision["patch_size"]
    if spec["family"] == "qwen2_5_vl":
        vision.update({"hidden_act": "silu", "tokens_per_second": 2})
    config = {"architectures": [architecture], "model_type": spec["family"], "tie_word_embeddings": spec["tied"]}
    if spec["config"] == "flat":
        rope = {"rope_theta": spec["rope"]["rope_theta"], "rope_scaling": {"type": "mrope", "mrope_section": section}}
        return {**config, **text, **rope, **tokens, "torch_dtype": "bfloat16", "vision_config": vision}
    del vision["in_chans"], vision["spatial_patch_size"]
    rope = {"rope_type": "default", "rope_theta": spec["rope"]["rope_theta"], "mrope_section": section}
    text = {"model_type": spec["family"] + "_text", **text, "sliding_window": None, "rope_parameters": rope}
    vision = {"model_type": spec["family"] + "_vision", "in_channels": 3, **vision}
    return {
        **config, **tokens, "dtype": "bfloat16", "transformers_version": transformers.__version__,
        "text_config": text, "vision_config": vision,
    }


def preprocessor_of(spec):
    factor = 2 * spec["vision"]["patch_size"]
    return {
        "min_pixels": 4 * factor * factor,
        "max_pixels": 1280 * factor * factor,
        "patch_size": spec["vision"]["patch_size"],
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": {"qwen2_5_vl": "Qwen2_5_VLProcessor", "qwen2_vl": "Qwen2VLProcessor"}[spec["family"]],
    }


def released_name(name):
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def random_weights(model, seed):
    """No weight keeps a value that could hide a fault: norms are not 1, biases not 0. All are bf16 numbers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("embed_tokens.weight"):
                # A tied head reads the same tensor: smaller, so that its logits stay of the order of 1.
                value = (0.2 if model.config.tie_word_embeddings else 0.4) * noise
            elif parameter.ndim >= 2:
                value = noise / (parameter[0].numel() ** 0.5)
            elif name.endswith("bias"):
                value = 0.3 * noise
            else:
                value = 1.0 + 0.25 * noise
            parameter.copy_(value.to(torch.bfloat16).to(torch.float32))


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_checkpoint(folder, spec):
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config_of(spec))
    write_json(folder / "preprocessor_config.json", preprocessor_of(spec))
    config = transformers.AutoConfig.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    random_weights(model, spec["seed"])
    rename = released_name if spec["names"] == "released" else lambda name: name
    tensors = {rename(name): p.detach().to(torch.bfloat16).contiguous() for name, p in model.named_parameters()}
    metadata = {"format": "pt"}
    if spec["shards"] == 1:
        safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata=metadata)
        return
    weight_map, names, shards = {}, sorted(tensors), spec["shards"]
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        # Dealing names out in turn tears layers apart: a reader must follow the index.
        part = {name: tensors[name] for name in names[shard::shards]}
        safetensors.torch.save_file(part, folder / file, metadata=metadata)
        weight_map.update(dict.fromkeys(part, file))
    total_size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / "model.safetensors.index.json", index)


def load(folder):
    model, report = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    problems = {kind: found for kind, found in report.items() if found}
    assert not problems, f"{folder}: transformers did not load every tensor: {problems}"
    return model.train()


# ---- cases ----


def draw(width, height, image):
    """The picture of the README: level(x, y, c) = (7x + 13y + xy + 61c + 29·image) mod 256."""
    y, x, c = numpy.meshgrid(range(height), range(width), range(3), indexing="ij")
    return Image.fromarray(((7 * x + 13 * y + x * y + 61 * c + 29 * image) % 256).astype(numpy.uint8), "RGB")


def token_ids_of(spec, kind, generator):
    """A conversation of random text tokens. `kind` says where the images stand."""
    ids, factor = special_ids(spec), 2 * spec["vision"]["patch_size"]
    sizes = spec["images"].get(kind, [])

    def words(count):
        return torch.randint(0, spec["first_special"], (count,), generator=generator).tolist()

    def image(index):
        width, height = sizes[index]
        pads = (width // factor) * (height // factor)
        return [ids["vision_start"], *[ids["image_pad"]] * pads, ids["vision_end"]]

    def turn(*content):
        return [ids["im_start"], *words(2), *[token for part in content for token in part], ids["im_end"], *words(1)]

    if kind == "text":
        return turn(words(4)) + turn(words(13)) + turn(words(11))
    if kind == "one":
        return turn(words(3)) + turn(image(0), words(7)) + turn(words(9))
    if kind == "two":
        return turn(image(0), image(1), words(6)) + turn(words(8))
    # The answer thinks, is shown an image, and goes on; where there are two, the first is the user's.
    user = [image(0)] if len(sizes) == 2 else []
    return turn(*user, words(5)) + turn(words(4), image(len(sizes) - 1), words(10))


CASES = {"text": "text only", "one": "one image", "two": "two images of different sizes",
         "assistant": "an image inside an assistant turn"}


def inputs_of(spec, token_ids, images):
    ids = special_ids(spec)
    input_ids = torch.tensor([token_ids])
    inputs = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "mm_token_type_ids": (input_ids == ids["image_pad"]).int(),
    }
    if images:
        processor = Qwen2VLImageProcessorPil(**preprocessor_of(spec))
        inputs.update(processor(images=images, return_tensors="pt"))
        for image, grid in zip(images, inputs["image_grid_thw"].tolist()):
            patch = spec["vision"]["patch_size"]
            assert [image.height, image.width] == [grid[1] * patch, grid[2] * patch], "the image was resized"
    return inputs


def logprobs_of(model, inputs):
    """float [tokens - 1]: log-prob of each token but the first, given those before it."""
    logits = model(**inputs, use_cache=False).logits[0, :-1].float()
    targets = inputs["input_ids"][0, 1:, None]
    return torch.log_softmax(logits, dim=-1).gather(1, targets)[:, 0]


def gradients_of(model, inputs):
    """Gradients of the mean negative log-likelihood, by released name; tensors that took no part are absent."""
    model.zero_grad(set_to_none=True)
    (-logprobs_of(model, inputs).mean()).backward()
    return {released_name(n): p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def signs(count):
    """[count, PROJECTIONS] of ±1: bit k of splitmix64(i) set means that entry i counts as -1 in projection k."""
    with numpy.errstate(over="ignore"):
        z = numpy.arange(count, dtype=numpy.uint64) + numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = z ^ (z >> numpy.uint64(31))
    bits = (z[:, None] >> numpy.arange(PROJECTIONS, dtype=numpy.uint64)) & numpy.uint64(1)
    return 1.0 - 2.0 * bits.astype(numpy.float64)


def project(gradient):
    """float32 [PROJECTIONS + 1]: the ±1 projections of the tensor, then its norm."""
    flat = gradient.double().reshape(-1).numpy()
    return torch.tensor([*(flat @ signs(flat.size)), numpy.linalg.norm(flat)], dtype=torch.float32)


def trace(model, inputs):
    """Hidden states on the way, float32: vision/patch_embed, vision/block_i (rows in window order for Qwen2.5-VL),
    vision/merged; text/embedded, text/layer_i, text/normed."""
    states, hooks = {}, []

    def watch(module, name, read):
        hooks.append(module.register_forward_hook(
            lambda _module, _args, output: states.__setitem__(name, read(output).detach().clone().contiguous())))

    visual, language = model.model.visual, model.model.language_model
    watch(visual.patch_embed, "vision/patch_embed", lambda out: out)
    for index, block in enumerate(visual.blocks):
        watch(block, f"vision/block_{index}", lambda out: out)
    watch(visual, "vision/merged", lambda out: out.pooler_output)
    hooks.append(language.register_forward_pre_hook(
        lambda _module, _args, kwargs: states.__setitem__("text/embedded", kwargs["inputs_embeds"][0].detach().clone()),
        with_kwargs=True))
    for index, layer in enumerate(language.layers):
        watch(layer, f"text/layer_{index}", lambda out: (out[0] if isinstance(out, tuple) else out).reshape(
            -1, model.config.text_config.hidden_size))
    watch(language.norm, "text/normed", lambda out: out[0])
    with torch.no_grad():
        logprobs_of(model, inputs)
    for hook in hooks:
        hook.remove()
    return states


# ---- ten updates ----


def adamw_losses(model, batch):
    """Losses before each of ten updates. The fp32 master learns; the model computes with its bf16 rounding.
    Loss: negative log-likelihood summed over the batch, divided by the tokens predicted in the batch."""
    parameters = list(model.parameters())
    masters = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    decay = [m for m in masters if m.ndim >= 2]
    rest = [m for m in masters if m.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": ADAMW["weight_decay"]}, {"params": rest, "weight_decay": 0.0}],
        lr=ADAMW["learning_rate"], betas=(ADAMW["beta1"], ADAMW["beta2"]), eps=ADAMW["epsilon"],
    )
    predicted = sum(inputs["input_ids"].shape[1] - 1 for inputs in batch)
    losses, norms = [], []
    for _ in range(ADAMW["steps"]):
        with torch.no_grad():
            for parameter, master in zip(parameters, masters):
                parameter.copy_(master.to(torch.bfloat16))
        model.zero_grad(set_to_none=True)
        loss = -sum(logprobs_of(model, inputs).sum() for inputs in batch) / predicted
        loss.backward()
        for parameter, master in zip(parameters, masters):
            master.grad = parameter.grad.to(master.dtype)
        norms.append(torch.nn.utils.clip_grad_norm_(masters, ADAMW["max_grad_norm"]).item())
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


# ---- all of it ----


def rounded(values):
    """float32 in nine digits, which are enough to give the same bits back."""
    return [float(f"{value:.9g}") for value in values]


def relative_error(found, wanted):
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


def make(out, name, spec):
    folder = out / name
    write_checkpoint(folder, spec)
    model = load(folder)
    precise = load(folder).double()
    generator = torch.Generator().manual_seed(spec["seed"])
    cases, tensors, batch, worst_logprob, worst_gradient = [], {}, [], 0.0, ("", 0.0)
    for kind, title in CASES.items():
        token_ids = token_ids_of(spec, kind, generator)
        sizes = spec["images"].get(kind, [])
        inputs = inputs_of(spec, token_ids, [draw(*size, index) for index, size in enumerate(sizes)])
        positions, _ = model.model.get_rope_index(**{k: v for k, v in inputs.items() if k != "pixel_values"})
        with torch.no_grad():
            logprobs = logprobs_of(model, inputs)
        gradients = gradients_of(model, inputs)
        for tensor, gradient in gradients.items():
            tensors[f"{kind}/projected/{tensor}"] = project(gradient)
            if kind == "two" and spec["full_gradient"]:
                tensors[f"{kind}/gradient/{tensor}"] = gradient.contiguous()
        if kind == "one":
            tensors.update({f"{kind}/{state}": value for state, value in trace(model, inputs).items()})
        if kind in ("two", "assistant"):
            batch.append(inputs)
        cases.append({
            "name": kind,
            "title": title,
            "token_ids": token_ids,
            "images": [{"width": width, "height": height} for width, height in sizes],
            "positions": positions[:, 0].tolist(),
            "logprobs": [None, *rounded(logprobs.tolist())],
        })
        # float64 tells how much of the tolerance float32 itself uses up.
        inputs64 = {k: v.double() if k == "pixel_values" else v for k, v in inputs.items()}
        with torch.no_grad():
            worst_logprob = max(worst_logprob, (logprobs_of(precise, inputs64) - logprobs).abs().max().item())
        for tensor, gradient in gradients_of(precise, inputs64).items():
            error = relative_error(gradients[tensor], gradient)
            worst_gradient = max(worst_gradient, (f"{kind} {tensor}", error), key=lambda pair: pair[1])
    losses, norms = adamw_losses(model, batch)
    batch64 = [{k: v.double() if k == "pixel_values" else v for k, v in inputs.items()} for inputs in batch]
    losses64, _ = adamw_losses(precise, batch64)
    worst_loss = max(abs(a - b) for a, b in zip(losses, losses64))
    golden = {
        "made_by": "tools/golden/model.py",
        "versions": {
            "transformers": transformers.__version__, "torch": torch.__version__, "pillow": PIL.__version__,
            "numpy": numpy.__version__, "python": platform.python_version(),
        },
        "checkpoint": name,
        "family": spec["family"],
        "tied": spec["tied"],
        "special_token_ids": special_ids(spec),
        "projections": PROJECTIONS,
        "cases": cases,
        "adamw": {**ADAMW, "batch": ["two", "assistant"], "losses": rounded(losses), "grad_norms": rounded(norms)},
    }
    (out / f"{name}.json").write_text(compact(golden))
    safetensors.torch.save_file(tensors, out / f"{name}.safetensors", metadata={"format": "pt"})
    print(f"{name}: float32 against float64: log-prob {worst_logprob:.1e}, gradient {worst_gradient[1]:.1e} "
          f"({worst_gradient[0]}), loss {worst_loss:.1e}")
    print("  losses", " ".join(f"{loss:.4f}" for loss in losses), " norms", " ".join(f"{norm:.2f}" for norm in norms))


def compact(golden):
    """JSON with one line per list of numbers."""
    text = json.dumps(golden, indent=1)
    while True:
        shorter = "\n".join(join_numbers(text.split("\n")))
        if shorter == text:
            return text + "\n"
        text = shorter


def join_numbers(lines):
    joined = []
    for line in lines:
        word = line.strip()
        plain = word and word[0] in "-0123456789nN]" and joined and (
            joined[-1].rstrip().endswith("[") or (joined[-1].rstrip().endswith(",") and "[" in joined[-1])
            or (word[0] == "]" and joined[-1].rstrip()[-1] in "0123456789"))
        if plain and "[" in joined[-1]:
            joined[-1] += (" " if joined[-1].endswith(",") else "") + word
        else:
            joined.append(line)
    return joined


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/golden/model"))
    out = arguments.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name, spec in CHECKPOINTS.items():
        shutil.rmtree(out / name, ignore_errors=True)
        make(out, name, spec)


if __name__ == "__main__":
    main()
