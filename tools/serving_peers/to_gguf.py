#!/usr/bin/env python3
"""Writes the text half of a Qwen2.5-VL checkpoint as GGUF, so that llama.cpp serves the same model: same tensors, same ids.

    pip install gguf numpy
    python to_gguf.py CHECKPOINT OUT.gguf --type f16

Matrices become the type asked for; norms and biases become float32, as llama.cpp's own converter has them.
"""

import argparse
import json
import pathlib
import struct

import gguf
import numpy as np

TYPES = {"f16": gguf.GGMLQuantizationType.F16, "bf16": gguf.GGMLQuantizationType.BF16, "f32": gguf.GGMLQuantizationType.F32}
FILE_TYPES = {"f16": gguf.LlamaFileType.MOSTLY_F16, "bf16": gguf.LlamaFileType.MOSTLY_BF16, "f32": gguf.LlamaFileType.ALL_F32}
# Parts of a tensor's name there and here, within a layer.
LAYER_PARTS = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OTHERS = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}


def tensors(folder):
    """Name and float32 values of each tensor of the safetensors files."""
    for file in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with open(file, "rb") as stream:
            header_bytes = struct.unpack("<Q", stream.read(8))[0]
            header = json.loads(stream.read(header_bytes))
        data = np.memmap(file, dtype=np.uint8, mode="r", offset=8 + header_bytes)
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            assert entry["dtype"] == "BF16", f"{name} is {entry['dtype']}; only BF16 is read"
            begin, end = entry["data_offsets"]
            halves = data[begin:end].view(np.uint16).astype(np.uint32)
            yield name, (halves << 16).view(np.float32).reshape(entry["shape"])


def gguf_name(name):
    """A tensor's name in GGUF; none if it is of the vision half."""
    if "visual." in name:
        return None
    name = name.removeprefix("model.").removeprefix("language_model.").removeprefix("model.")
    if name in OTHERS:
        return OTHERS[name]
    layer, part = name.removeprefix("layers.").split(".", 1)
    stem, kind = part.rsplit(".", 1)
    return f"blk.{layer}.{LAYER_PARTS[stem]}.{kind}"


def add_tensor(writer, name, values, kind):
    if values.ndim == 1 or kind == "f32":
        writer.add_tensor(name, values)
    elif kind == "f16":
        writer.add_tensor(name, values.astype(np.float16))
    else:
        writer.add_tensor(name, (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8), raw_dtype=TYPES["bf16"])


def add_shapes(writer, config, kind):
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_sections([*config["rope_scaling"]["mrope_section"], 0])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(FILE_TYPES[kind])


def add_vocabulary(writer, config):
    """Requests and answers are ids. llama.cpp wants a text for each and holds back tokens that end within a character, so none does."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([f"<{index}>" for index in range(config["vocab_size"])])
    writer.add_token_types([int(gguf.TokenType.NORMAL)] * config["vocab_size"])
    writer.add_token_merges(["< 0"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def convert(folder, out, kind):
    config = json.load(open(pathlib.Path(folder) / "config.json"))
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.QWEN2VL])
    add_shapes(writer, config, kind)
    add_vocabulary(writer, config)
    for name, values in tensors(folder):
        if gguf_name(name):
            add_tensor(writer, gguf_name(name), values, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description="Writes the text half of a Qwen2.5-VL checkpoint as GGUF.")
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--type", choices=TYPES, default="f16", help="of matrices")
    arguments = parser.parse_args()
    convert(arguments.checkpoint, arguments.out, arguments.type)


if __name__ == "__main__":
    main()
