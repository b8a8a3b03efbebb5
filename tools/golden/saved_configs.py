#!/usr/bin/env python3
"""The config files of the Qwen2-VL family as they were released, and as transformers writes them again.

Writes tests/golden/keys/files.json: for each origin (a release, or the version of transformers that wrote it) and
model the objects of its files, without chat templates and vocabularies. tests/it/keys.rs loads them: none may be
warned of. Run it once with each version; what other versions wrote stays.

    python tools/golden/saved_configs.py [--out tests/golden/keys/files.json]

Needs transformers (4.45 to 5.17) and pillow; a few seconds, no torch.
"""

import argparse
import json
import pathlib
import tempfile

import transformers

SPECIAL = {"bos_token_id": 151643, "eos_token_id": 151645, "vision_start_token_id": 151652,
           "vision_end_token_id": 151653, "vision_token_id": 151654, "image_token_id": 151655,
           "video_token_id": 151656}
VISION_25 = {"depth": 32, "hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
             "in_chans": 3, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14, "window_size": 112,
             "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2, "temporal_patch_size": 2}
VISION_2 = {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "in_chans": 3, "patch_size": 14,
            "spatial_merge_size": 2, "spatial_patch_size": 14, "temporal_patch_size": 2}


def release(family, hidden, intermediate, layers, heads, kv_heads, vocab, tied, context, windows, vision):
    architecture = {"qwen2_vl": "Qwen2VLForConditionalGeneration",
                    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration"}[family]
    return {
        "architectures": [architecture], "attention_dropout": 0.0, **SPECIAL, "hidden_act": "silu",
        "hidden_size": hidden, "initializer_range": 0.02, "intermediate_size": intermediate,
        "max_position_embeddings": context, "max_window_layers": windows, "model_type": family,
        "num_attention_heads": heads, "num_hidden_layers": layers, "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16", "transformers_version": "4.41.2", "use_cache": True, "use_sliding_window": False,
        "vision_config": vision, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vocab_size": vocab,
    }


# The keys of the releases. The tower of 32B leaves out what transformers fills in.
RELEASED = {
    "Qwen2-VL-2B-Instruct": release("qwen2_vl", 1536, 8960, 28, 12, 2, 151936, True, 32768, 28,
                                    {**VISION_2, "hidden_size": 1536}),
    "Qwen2-VL-7B-Instruct": release("qwen2_vl", 3584, 18944, 28, 28, 4, 152064, False, 32768, 28,
                                    {**VISION_2, "hidden_size": 3584}),
    "Qwen2-VL-72B-Instruct": release("qwen2_vl", 8192, 29568, 80, 64, 8, 152064, False, 32768, 80,
                                     {**VISION_2, "hidden_size": 8192}),
    "Qwen2.5-VL-3B-Instruct": release("qwen2_5_vl", 2048, 11008, 36, 16, 2, 151936, True, 128000, 70,
                                      {**VISION_25, "out_hidden_size": 2048}),
    "Qwen2.5-VL-7B-Instruct": release("qwen2_5_vl", 3584, 18944, 28, 28, 4, 152064, False, 128000, 28,
                                      {**VISION_25, "out_hidden_size": 3584}),
    "Qwen2.5-VL-32B-Instruct": release("qwen2_5_vl", 5120, 27648, 64, 40, 8, 152064, False, 128000, 64,
                                       {"hidden_size": 1280, "in_chans": 3, "intermediate_size": 3456,
                                        "model_type": "qwen2_5_vl", "out_hidden_size": 5120, "spatial_patch_size": 14,
                                        "tokens_per_second": 2, "torch_dtype": "bfloat16"}),
    "Qwen2.5-VL-72B-Instruct": release("qwen2_5_vl", 8192, 29568, 80, 64, 8, 152064, False, 128000, 80,
                                       {**VISION_25, "intermediate_size": 3456, "out_hidden_size": 8192}),
}

PREPROCESSOR = {
    "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor",
}
GENERATION = {
    "Qwen2-VL-7B-Instruct": {"bos_token_id": 151643, "pad_token_id": 151643, "do_sample": True,
                             "eos_token_id": [151645, 151643], "repetition_penalty": 1.05, "temperature": 0.01,
                             "top_p": 0.001, "top_k": 1, "transformers_version": "4.37.0"},
    "Qwen2-VL-2B": {"bos_token_id": 151643, "do_sample": False, "eos_token_id": 151643, "max_new_tokens": 2048,
                    "transformers_version": "4.37.0"},
    "Qwen2.5-VL-7B-Instruct": {"bos_token_id": 151643, "pad_token_id": 151643, "do_sample": True,
                               "eos_token_id": [151645, 151643], "repetition_penalty": 1.05, "temperature": 0.000001,
                               "transformers_version": "4.49.0"},
}
TOKENIZER = {
    "add_bos_token": False, "add_prefix_space": False, "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    "bos_token": None, "chat_template": "", "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>",
    "errors": "replace", "model_max_length": 131072, "pad_token": "<|endoftext|>", "padding_side": "left",
    "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
}


def written(save):
    """The JSON objects that `save` writes into a folder, by name."""
    with tempfile.TemporaryDirectory() as folder:
        save(folder)
        skipped = {"tokenizer.json", "vocab.json"}
        names = sorted(path for path in pathlib.Path(folder).iterdir() if path.suffix == ".json")
        return {path.name: json.loads(path.read_text()) for path in names if path.name not in skipped}


def config_of(value, save):
    """The config of a release, filled in by the present version, as `save` leaves it."""
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(value))
        return written(lambda out: save(transformers.AutoConfig.from_pretrained(folder), out))


def rewritten():
    """Every release's config as this version saves it; what it writes of the other files once."""
    files = {}
    for name, value in RELEASED.items():
        try:
            files[name] = config_of(value, lambda config, out: config.save_pretrained(out))
        except (KeyError, ValueError):  # The version is older than the family.
            continue
    name = "Qwen2-VL-7B-Instruct"
    for model, value in GENERATION.items():
        saved = written(lambda out: transformers.GenerationConfig(**value).save_pretrained(out))
        files.setdefault(model, {}).update(saved)
    processor = getattr(transformers, "Qwen2VLImageProcessor")
    files[name].update(written(lambda out: processor(**{
        key: value for key, value in PREPROCESSOR.items() if "class" not in key and "type" not in key
    }).save_pretrained(out)))
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path("recipes/tiny")
        for file in ("tokenizer.json", "tokenizer_config.json", "config.json"):
            (pathlib.Path(folder) / file).write_text((root / file).read_text())
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    files[name].update(written(tokenizer.save_pretrained))
    return files


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/golden/keys/files.json"))
    out = arguments.parse_args().out
    origins = json.loads(out.read_text())["origins"] if out.exists() else {}
    released = {name: {"config.json": value, "preprocessor_config.json": PREPROCESSOR} for name, value in RELEASED.items()}
    for name, value in GENERATION.items():
        released.setdefault(name, {})["generation_config.json"] = value
    released["Qwen2.5-VL-7B-Instruct"]["tokenizer_config.json"] = TOKENIZER
    origins["released"] = released
    origins[f"transformers {transformers.__version__}"] = rewritten()
    for origin in origins.values():
        for files in origin.values():
            if "chat_template" in files.get("tokenizer_config.json", {}):
                files["tokenizer_config.json"]["chat_template"] = ""
            config = files.get("config.json", {})
            for section in (config, config.get("text_config", {})):
                if "_name_or_path" in section:
                    section["_name_or_path"] = "folder"  # Where this script had it for a moment.
    lines = []
    for origin, models in sorted(origins.items()):
        entries = ",\n".join(f"{json.dumps(model)}: {json.dumps(files)}" for model, files in models.items())
        lines.append(f"{json.dumps(origin)}: {{\n{entries}\n}}")
    body = ",\n".join(lines)
    out.write_text(f'{{"made_by": "tools/golden/saved_configs.py", "origins": {{\n{body}\n}}}}\n')


if __name__ == "__main__":
    main()
