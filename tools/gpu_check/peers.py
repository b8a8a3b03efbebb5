#!/usr/bin/env python3
"""What PyTorch's libraries need for the cases of benches/kernels.rs: cuBLASLt, cuDNN, fused AdamW. Reads the lines that the bench prints,
{"op", "case", "flop", "bytes"}, and answers each with a line: the case, the peer's name and the seconds, or why there is none.

Times are the device's, the median of as many runs as fit into 60 ms, each with an L2 that was filled by reading something else. `--rehearse` does
it on the CPU.
"""

import json
import re
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

ON_CPU = "--rehearse" in sys.argv
DEVICE = "cpu" if ON_CPU else "cuda"
BUDGET, RUNS_MIN, RUNS_MAX = 0.06, 5, 50
OTHER = torch.ones(1 if ON_CPU else 64 << 20, device=DEVICE)


def once(work):
    """Seconds of one run."""
    if ON_CPU:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin
    OTHER.sum()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3


def seconds(work):
    for _ in range(2):
        once(work)
    runs = max(RUNS_MIN, min(RUNS_MAX, int(BUDGET / max(once(work), 1e-6))))
    return statistics.median(once(work) for _ in range(runs))


def randn(*shape, dtype=torch.bfloat16, requires_grad=False):
    return torch.randn(*shape, dtype=dtype, device=DEVICE, requires_grad=requires_grad)


def backward(output):
    """The gradient's work of an output, and nothing of its forward."""
    gradient = torch.randn_like(output)
    return lambda: output.backward(gradient, retain_graph=True)


# ---- what a case's words say ----

# Width, MLP, heads of queries, of keys and values: `MODELS` of benches/kernels/sizes.rs.
MODELS = {"7b": (3584, 18944, 28, 4), "2b": (1536, 8960, 12, 2), "toy": (64, 128, 4, 2), "vision": (1280, 3420, 16, 16)}
FORMS = [
    r"(?P<model>\w+) (?P<layer>qkv|o|gate_up|down) (?P<rows>\d+)",
    r"(?P<model>\w+) D(?P<head_dim>\d+) (?P<sequences>\d+)x(?P<tokens>\d+) (?P<form>causal|full)",
    r"(?P<model>\w+) decode (?P<sequences>\d+) of (?P<keys>\d+), (?P<queries>\d+) new",
    r"(?P<model>\w+) (?P<rows>\d+) of (?P<vocab>\d+)",
    r"(?P<model>\w+) (?P<rows>\d+)x(?P<dim>\d+)",
    r"(?P<model>\w+) (?P<rows>\d+) (?P<form>at temperature 1|top-k, top-p)",
    r"(?P<form>8-bit )?(?P<count>\d+)",
    r"(?P<form>copy|product)",
]


def shape_of(case):
    """The sizes that a case's words name, with those of its model; None for words of no known form."""
    found = next((match for form in FORMS if (match := re.fullmatch(form, case))), None)
    if found is None:
        return None
    shape = {name: int(word) if word and word.isdigit() else word for name, word in found.groupdict().items()}
    if shape.get("model") in MODELS:
        width, hidden, heads, kv_heads = MODELS[shape["model"]]
        head_dim = shape.setdefault("head_dim", width // heads)
        shape.setdefault("dim", width)
        shape.update(heads=heads, kv_heads=kv_heads)
        qkv = (heads + 2 * kv_heads) * head_dim
        layers = {"qkv": (qkv, width), "o": (width, heads * head_dim), "gate_up": (2 * hidden, width), "down": (width, hidden)}
        if "layer" in shape:
            shape["columns"], shape["inner"] = layers[shape["layer"]]
    return shape


# ---- one function an op: the peer's name and its work ----


def limits(shape):
    if shape["form"] == "copy":
        source = torch.empty(1024 if ON_CPU else 1 << 30, dtype=torch.uint8, device=DEVICE)
        return "copy", source.clone
    square = randn(*(2 * [64 if ON_CPU else 8192]))
    return "cuBLASLt", lambda: square @ square


def linear_forward(shape):
    x, w = randn(shape["rows"], shape["inner"]), randn(shape["columns"], shape["inner"])
    return "cuBLASLt", lambda: F.linear(x, w)


def linear_backward_input(shape):
    dy, w = randn(shape["rows"], shape["columns"]), randn(shape["columns"], shape["inner"])
    return "cuBLASLt", lambda: dy @ w


def linear_backward_weight(shape):
    dy, x = randn(shape["rows"], shape["columns"]), randn(shape["rows"], shape["inner"])
    dw = torch.zeros(shape["columns"], shape["inner"], device=DEVICE)
    if ON_CPU:
        return "cuBLASLt", lambda: dw.add_(dy.T @ x)
    return "cuBLASLt, then add", lambda: dw.add_(torch.mm(dy.T, x, out_dtype=torch.float32))


def heads(shape, requires_grad=False):
    batch, tokens = shape["sequences"], shape["tokens"]
    q = randn(batch, shape["heads"], tokens, shape["head_dim"], requires_grad=requires_grad)
    k, v = (randn(batch, shape["kv_heads"], tokens, shape["head_dim"], requires_grad=requires_grad) for _ in range(2))
    return q, k, v


def attend(q, k, v, is_causal, backend):
    """By one backend alone: it raises where that one cannot."""
    with sdpa_kernel([SDPBackend.MATH if ON_CPU else backend]):
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=q.shape[1] != k.shape[1])


def attention_forward(shape):
    if "keys" in shape:
        q = randn(shape["sequences"], shape["heads"], shape["queries"], shape["head_dim"])
        k, v = (randn(shape["sequences"], shape["kv_heads"], shape["keys"], shape["head_dim"]) for _ in range(2))
        return "flash on gathered keys", lambda: attend(q, k, v, False, SDPBackend.FLASH_ATTENTION)
    q, k, v = heads(shape)
    return "cuDNN", lambda: attend(q, k, v, shape["form"] == "causal", SDPBackend.CUDNN_ATTENTION)


def attention_backward(shape):
    return "cuDNN", backward(attend(*heads(shape, True), shape["form"] == "causal", SDPBackend.CUDNN_ATTENTION))


def log_probabilities(shape, requires_grad):
    h = randn(shape["rows"], shape["dim"], requires_grad=requires_grad)
    w = randn(shape["vocab"], shape["dim"], requires_grad=requires_grad)
    targets = torch.randint(shape["vocab"], (shape["rows"],), device=DEVICE)
    return lambda: F.cross_entropy(F.linear(h, w).float(), targets, reduction="none")


def logits(shape):
    h, w = randn(shape["rows"], shape["dim"]), randn(shape["vocab"], shape["dim"])
    return "cuBLASLt, to f32", lambda: F.linear(h, w).float()


def token_logprob_forward(shape):
    work = log_probabilities(shape, False)
    return "cuBLASLt, cross_entropy", lambda: work()


def token_logprob_backward(shape):
    return "cuBLASLt, cross_entropy", backward(log_probabilities(shape, True)())


def sample(shape):
    vocab = 1024 if ON_CPU else 152064
    logits = randn(shape["rows"], vocab, dtype=torch.float32)

    def cut():
        values, ids = logits.sort(dim=-1, descending=True)
        probabilities = values.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        rank = torch.arange(vocab, device=DEVICE)
        kept = probabilities.masked_fill((before > 0.95) | (rank >= 50), 0.0)
        return ids.gather(1, kept.multinomial(1))

    return "sort, multinomial", cut if shape["form"] == "top-k, top-p" else lambda: logits.softmax(-1).multinomial(1)


def adamw(shape):
    if shape["form"]:
        return None
    parameter = torch.nn.Parameter(torch.zeros(shape["count"], device=DEVICE))
    parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.AdamW([parameter], lr=1e-6, fused=True)
    return "fused AdamW", optimizer.step


def sum_of_squares(shape):
    gradient = randn(shape["count"], dtype=torch.float32)
    return "vector_norm", lambda: torch.linalg.vector_norm(gradient)


def norm_inputs(shape, requires_grad):
    rows, dim = shape["rows"], shape["dim"]
    return randn(rows, dim, requires_grad=requires_grad), randn(rows, dim), randn(dim, requires_grad=requires_grad)


def rms_norm_forward(shape):
    x, add, w = norm_inputs(shape, False)
    return "rms_norm", lambda: F.rms_norm(x + add, (shape["dim"],), w)


def rms_norm_backward(shape):
    x, _, w = norm_inputs(shape, True)
    return "rms_norm", backward(F.rms_norm(x, (shape["dim"],), w))


def layer_norm_forward(shape):
    x, _, w = norm_inputs(shape, False)
    return "layer_norm", lambda: F.layer_norm(x, (shape["dim"],), w, w)


def swiglu_forward(shape):
    gate, up = randn(shape["rows"], 2 * shape["dim"]).chunk(2, -1)
    return "silu, multiply", lambda: F.silu(gate) * up


def gelu_forward(shape):
    x = randn(shape["rows"], shape["dim"])
    return "gelu", lambda: F.gelu(x)


OPS = [limits, linear_forward, linear_backward_input, linear_backward_weight, attention_forward, attention_backward, logits]
OPS += [token_logprob_forward, token_logprob_backward, sample, adamw, sum_of_squares, rms_norm_forward, rms_norm_backward]
OPS += [layer_norm_forward, swiglu_forward, gelu_forward]
PEERS = {op.__name__: op for op in OPS}


def answer(case):
    """The line for a case."""
    about = {key: case[key] for key in ("op", "case", "flop", "bytes")}
    shape = shape_of(case["case"])
    made = PEERS[case["op"]](shape) if shape and case["op"] in PEERS else None
    if made is None:
        return {**about, "peer": None}
    name, work = made
    return {**about, "peer": name, "seconds": seconds(work)}


def main():
    if not ON_CPU:
        torch.backends.cuda.preferred_blas_library("cublaslt")
    for line in sys.stdin:
        case = json.loads(line)
        if not ON_CPU:
            torch.cuda.empty_cache()
        try:
            said = answer(case)
        except Exception as error:
            said = {"op": case["op"], "case": case["case"], "error": f"the peer failed: {type(error).__name__}: {str(error)[:300]}"}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
