#!/usr/bin/env python3
"""What cuBLAS, cuDNN and a copy reach on this GPU, at the shapes of benches/kernels.rs: one JSON line each, {"op", "case", "per_second"}, in
operations or bytes a second. Times are the device's, with a cold L2; the median of 10."""

import json
import statistics

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

MODELS = {"7b": (3584, 18944, 28, 4), "2b": (1536, 8960, 12, 2)}  # width, MLP, heads, key/value heads
HEAD_DIM, TRAIN, DECODE, SEQUENCE = 128, 4096, 64, 2048


def seconds(work):
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    times = []
    for number in range(13):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        if number >= 3:
            times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def say(op, case, amount, work):
    print(json.dumps({"op": op, "case": case, "per_second": amount / seconds(work)}), flush=True)


def randn(*shape, requires_grad=False):
    return torch.randn(*shape, dtype=torch.bfloat16, device="cuda", requires_grad=requires_grad)


def products(name, dim, hidden, heads, kv_heads):
    layers = {"qkv": (dim, (heads + 2 * kv_heads) * HEAD_DIM), "o": (dim, dim), "gate_up": (dim, 2 * hidden), "down": (hidden, dim)}
    for layer, (inner, columns) in layers.items():
        w = randn(columns, inner)
        for rows in (DECODE, TRAIN):
            x, dy = randn(rows, inner), randn(rows, columns)
            amount, case = 2 * rows * inner * columns, f"{name} {layer} {rows}"
            say("linear_forward", case, amount, lambda: x @ w.T)
            if rows == TRAIN:
                say("linear_backward_input", case, amount, lambda: dy @ w)
                say("linear_backward_weight", case, amount, lambda: dy.T @ x)


def attention(name, rows, sequence, heads, kv_heads, head_dim, causal):
    batch = rows // sequence
    q = randn(batch, heads, sequence, head_dim, requires_grad=True)
    k, v = (randn(batch, kv_heads, sequence, head_dim, requires_grad=True) for _ in range(2))
    attend = lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=heads != kv_heads)
    amount = 4 * rows * sequence * heads * head_dim // (2 if causal else 1)
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], set_priority=True):
        say("attention_forward", name, amount, attend)
        o = attend()
        grad = torch.randn_like(o)
        say("attention_backward", name, amount * 5 // 2, lambda: o.backward(grad, retain_graph=True))


def main():
    source = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    say("limits", "copy", 2 << 30, lambda: source.clone())
    square = randn(8192, 8192)
    say("limits", "gemm", 2 * 8192**3, lambda: square @ square)
    for name, (dim, hidden, heads, kv_heads) in MODELS.items():
        products(name, dim, hidden, heads, kv_heads)
        attention(name, TRAIN, SEQUENCE, heads, kv_heads, HEAD_DIM, True)
    attention("vision full", 4096, 4096, 16, 16, 80, False)
    attention("vision windows of 64", 4096, 64, 16, 16, 80, False)


if __name__ == "__main__":
    main()
