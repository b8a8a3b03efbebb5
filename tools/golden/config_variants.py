#!/usr/bin/env python3
"""Golden data of config keys: small checkpoints with keys changed, and what transformers computes with each.

Writes tests/golden/keys/variants.json: for each variant the base checkpoint of tests/golden/model, the file, the keys
that are changed (null removes one), what this project does with it ("same": log-probs as transformers', "refused",
"warned"), what its message names one of, and transformers' log-probs of the case "one", or why it refused.
tests/it/keys.rs reads it.

    python tools/golden/config_variants.py [--out tests/golden/keys/variants.json]

Needs torch, transformers 5.17, pillow, numpy, safetensors; a minute of one core.
"""

import argparse
import json
import pathlib
import shutil
import tempfile

import torch
import transformers
from transformers import AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from model import draw, logprobs_of, rounded

GOLDEN = pathlib.Path("tests/golden/model")
FLAT, NESTED, GELU = "qwen2_5_vl_untied_flat", "qwen2_5_vl_tied_nested", "qwen2_vl_tied_flat"


def scaling(**keys):
    return {"rope_scaling": {"mrope_section": [2, 2, 2], **keys}}


def nested_scaling(**keys):
    return {"text_config.rope_parameters": {"mrope_section": [1, 2, 2], "rope_theta": 10000.0, **keys}}


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

# (base, changed keys, what becomes of it, and where that is no changed key what the message names)
CONFIG = [
    # Scaled rotary positions.
    (FLAT, scaling(type="linear", factor=2.0), "same"),
    (FLAT, scaling(rope_type="linear", factor=8), "same"),
    (FLAT, scaling(type="linear", rope_type="default"), "warned"),
    (FLAT, scaling(type="linear", rope_type="default", factor=4.0), "warned"),
    (FLAT, scaling(factor=4.0), "warned"),
    (FLAT, scaling(**YARN), "same"),
    (FLAT, scaling(type="yarn", factor=4.0, original_max_position_embeddings=64), "same"),
    (FLAT, scaling(type="yarn", factor=2.0), "same"),
    (FLAT, scaling(**YARN, truncate=False), "same"),
    (FLAT, scaling(**YARN, beta_fast=4, beta_slow=2), "same"),
    (FLAT, scaling(**YARN, beta_fast=8.0, truncate=False), "same"),
    (FLAT, scaling(**YARN, attention_factor=1.5), "same"),
    (FLAT, scaling(**YARN, mscale=0.707, mscale_all_dim=1.0), "same"),
    (FLAT, scaling(**YARN, mscale=2.0), "same"),
    (FLAT, scaling(**{**YARN, "factor": 1.0}), "same"),
    (FLAT, scaling(**{**YARN, "original_max_position_embeddings": 4}), "same"),
    (FLAT, {**scaling(**YARN), "rope_theta": 500.0}, "same"),
    (FLAT, {**scaling(**YARN, rope_theta=500.0), "rope_theta": 7.0}, "same"),
    (NESTED, nested_scaling(**YARN), "same"),
    (NESTED, nested_scaling(**YARN, truncate=False), "same"),
    (NESTED, nested_scaling(rope_type="linear", factor=3.0), "same"),
    (GELU, {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32,
                             "mrope_section": [2, 3, 3]}}, "same"),
    (GELU, {"rope_scaling": {"type": "linear", "factor": 4.0, "mrope_section": [2, 3, 3]}}, "same"),
    (FLAT, scaling(type="dynamic", factor=2.0), "refused"),
    (FLAT, scaling(type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=64), "refused"),
    (FLAT, scaling(type="longrope", factor=2.0, short_factor=[1.0] * 6, long_factor=[2.0] * 6,
                   original_max_position_embeddings=16), "refused"),
    (FLAT, scaling(type="su", factor=2.0), "refused"),
    (FLAT, scaling(type="linear"), "refused"),
    (FLAT, scaling(type="linear", factor=0.5), "refused"),
    (FLAT, scaling(**YARN, mrope_interleaved=True), "refused"),
    (FLAT, scaling(type="mrope", partial_rotary_factor=0.5), "refused"),
    (FLAT, scaling(type="mrope", finetuned=True), "warned"),
    (FLAT, {"rope_scaling": {"type": "mrope"}}, "refused", "mrope_section"),
    (FLAT, {"rope_scaling": {"type": "mrope", "mrope_section": [2, 2, 1, 1]}}, "refused"),
    (FLAT, {"rope_scaling.mrope_section": [1, 2, 3]}, "same"),
    (FLAT, {"rope_scaling": None, "rope_theta": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "mrope_section": [2, 2, 2]}}, "same"),
    (FLAT, {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "mrope_section": [2, 2, 2]}}, "warned"),
    (FLAT, {"rope_theta": 100.0}, "same"),
    (FLAT, {"rope_theta": None}, "same"),
    (NESTED, {"rope_theta": 100.0}, "warned"),
    (NESTED, {"text_config.rope_theta": 100.0}, "same"),
    (NESTED, {"text_config.original_max_position_embeddings": 16}, "refused"),
    # Attention.
    (FLAT, {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}, "refused"),
    (NESTED, {"text_config.use_sliding_window": True, "text_config.sliding_window": 4}, "refused"),
    (NESTED, {"use_sliding_window": True, "sliding_window": 4}, "warned"),
    (FLAT, {"sliding_window": 4, "max_window_layers": 0}, "same"),
    (NESTED, {"text_config.layer_types": ["full_attention", "full_attention"]}, "same"),
    (NESTED, {"text_config.layer_types": ["full_attention", "sliding_attention"]}, "refused"),
    (FLAT, {"attention_dropout": 0.5}, "warned"),
    (FLAT, {"attention_bias": False}, "same"),
    (FLAT, {"num_key_value_heads": 1}, "refused", "k_proj"),
    (FLAT, {"partial_rotary_factor": 0.5}, "refused"),
    # Activations.
    (FLAT, {"hidden_act": "gelu"}, "refused"),
    (FLAT, {"hidden_act": "relu"}, "refused"),
    (FLAT, {"hidden_act": "swish"}, "same"),
    (NESTED, {"text_config.hidden_act": "gelu_pytorch_tanh"}, "refused"),
    (FLAT, {"vision_config.hidden_act": "gelu"}, "refused"),
    (FLAT, {"vision_config.hidden_act": "quick_gelu"}, "refused"),
    (FLAT, {"vision_config.hidden_act": None}, "same"),
    (GELU, {"vision_config.hidden_act": "quick_gelu"}, "same"),
    (GELU, {"vision_config.hidden_act": "gelu"}, "same"),
    (GELU, {"vision_config.hidden_act": "gelu_pytorch_tanh"}, "refused"),
    (GELU, {"vision_config.hidden_act": "silu"}, "refused"),
    # Norms, sizes, the head.
    (FLAT, {"rms_norm_eps": 0.1}, "same"),
    (FLAT, {"rms_norm_eps": None}, "same"),
    (FLAT, {"rms_norm_eps": "1e-6"}, "refused"),
    (NESTED, {"rms_norm_eps": 0.1}, "warned"),
    (NESTED, {"text_config.tie_word_embeddings": True, "tie_word_embeddings": False}, "same"),
    (NESTED, {"tie_word_embeddings": None, "text_config.tie_word_embeddings": True}, "same"),
    (NESTED, {"tie_word_embeddings": False}, "refused", "lm_head.weight"),
    (FLAT, {"hidden_size": 24}, "refused", "mrope_section"),
    (FLAT, {"vocab_size": None}, "refused"),
    # The vision tower.
    (FLAT, {"vision_config.window_size": 28}, "same"),
    (FLAT, {"vision_config.window_size": 14}, "refused"),
    (FLAT, {"vision_config.fullatt_block_indexes": []}, "same"),
    (FLAT, {"vision_config.fullatt_block_indexes": [0, 1, 2, 99]}, "same"),
    (FLAT, {"vision_config.fullatt_block_indexes": ["1"]}, "refused"),
    (FLAT, {"vision_config.rope_parameters": {"rope_type": "axial", "rope_theta": 50.0}}, "same"),
    (GELU, {"vision_config.rope_parameters": {"rope_type": "axial", "rope_theta": 50.0}}, "same"),
    (FLAT, {"vision_config.rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "refused"),
    (FLAT, {"vision_config.rope_theta": 50.0}, "same"),
    (FLAT, {"vision_config.in_channels": 4}, "refused"),
    (FLAT, {"vision_config.tokens_per_second": 25}, "same"),
    (FLAT, {"vision_config.spatial_merge_size": 1}, "refused", "merge_size"),
    (GELU, {"vision_config.mlp_ratio": 2}, "refused", "mlp.fc1"),
    (GELU, {"vision_config.fullatt_block_indexes": [0], "vision_config.window_size": 28}, "same"),
    # What is not a matter of these models.
    (FLAT, {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}, "refused"),
    (FLAT, {"transformers_weights": "other.safetensors"}, "refused"),
    (FLAT, {"temperature": 0.5}, "warned"),
    (FLAT, {"num_beams": 4}, "warned"),
    (FLAT, {"logit_scale": 0.5}, "warned"),
    (FLAT, {"final_logit_softcapping": 1.0}, "warned"),
    (FLAT, {"use_qk_norm": True}, "warned"),
    (FLAT, {"vision_config.deepstack_visual_indexes": [0, 1]}, "warned"),
    (FLAT, {"use_cache": False, "torch_dtype": "float16", "transformers_version": "4.41.2"}, "same"),
    (FLAT, {"video_token_id": 7, "vision_token_id": 9}, "same"),
    (FLAT, {"architectures": ["Qwen2_5_VLModel"]}, "same"),
    (FLAT, {"auto_map": {"AutoModel": "modeling.Model"}}, "warned"),
]

PREPROCESSOR = [
    (FLAT, {"resample": 2}, "refused"),
    (FLAT, {"resample": 3}, "same"),
    (FLAT, {"do_normalize": False}, "refused"),
    (FLAT, {"do_rescale": False}, "refused"),
    (FLAT, {"rescale_factor": 0.5}, "refused"),
    (FLAT, {"rescale_factor": 0.00392156862745098}, "same"),
    (FLAT, {"do_convert_rgb": False}, "refused"),
    (FLAT, {"do_resize": False}, "refused"),
    (FLAT, {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1.0]}, "same"),
    (FLAT, {"image_mean": None, "image_std": None}, "same"),
    (FLAT, {"image_mean": 0.5}, "refused"),
    (FLAT, {"image_std": [0.5, "0.5", 0.5]}, "refused"),
    (FLAT, {"min_pixels": None, "max_pixels": None, "size": {"shortest_edge": 3136, "longest_edge": 50176}}, "same"),
    (FLAT, {"size": {"height": 224, "width": 224}}, "refused"),
    (FLAT, {"size": 224}, "refused"),
    (FLAT, {"do_center_crop": True, "crop_size": {"height": 28, "width": 28}}, "same"),
    (FLAT, {"do_pad": True}, "same"),
    (FLAT, {"image_processor_type": "CLIPImageProcessor"}, "refused"),
    (FLAT, {"image_processor_type": "Qwen2VLImageProcessorFast"}, "same"),
    (FLAT, {"patch_size": 16}, "refused"),
    (FLAT, {"merge_size": 1}, "refused"),
    (FLAT, {"temporal_patch_size": 1}, "refused"),
    (FLAT, {"sharpen": 2.0}, "warned"),
    (FLAT, {"processor_class": "Qwen2VLProcessor", "data_format": "channels_first"}, "same"),
]


def change(value, keys):
    for path, new in keys.items():
        *parents, last = path.split(".")
        place = value
        for parent in parents:
            place = place[parent]
        if new is None:
            place.pop(last, None)
        else:
            place[last] = new
    return value


def case_one(base):
    golden = json.loads((GOLDEN / f"{base}.json").read_text())
    case = next(case for case in golden["cases"] if case["name"] == "one")
    return case, golden["special_token_ids"]["image_pad"]


def compute(folder, case, image_pad):
    processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
    images = [draw(image["width"], image["height"], k) for k, image in enumerate(case["images"])]
    ids = torch.tensor([case["token_ids"]])
    model, report = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    left = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if left:
        raise ValueError(f"not every tensor was loaded: {sorted(left)}")
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": (ids == image_pad).int()}
    inputs.update(processor(images=images, return_tensors="pt"))
    with torch.no_grad():
        return rounded(logprobs_of(model.eval(), inputs).tolist())


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/golden/keys/variants.json"))
    out = arguments.parse_args().out
    torch.set_num_threads(1)
    variants = []
    for file, table in [("config.json", CONFIG), ("preprocessor_config.json", PREPROCESSOR)]:
        for base, keys, outcome, *named in table:
            case, image_pad = case_one(base)
            with tempfile.TemporaryDirectory() as parent:
                folder = pathlib.Path(parent) / "checkpoint"
                shutil.copytree(GOLDEN / base, folder)
                path = folder / file
                path.write_text(json.dumps(change(json.loads(path.read_text()), keys)))
                try:
                    found = {"logprobs": compute(folder, case, image_pad)}
                except Exception as error:  # Whatever transformers raises is what it says of the variant.
                    found = {"error": type(error).__name__}
            named = named or sorted({path.split(".")[-1] for path in keys})
            variants.append({"base": base, "file": file, "keys": keys, "outcome": outcome, "named": named, **found})
            print(outcome, keys, found.get("error", "computed"))
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(variant) for variant in variants)
    versions = json.dumps({"transformers": transformers.__version__, "torch": torch.__version__})
    out.write_text(f'{{"made_by": "tools/golden/config_variants.py", "versions": {versions}, "variants": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
