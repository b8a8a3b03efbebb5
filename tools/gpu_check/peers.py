#!/usr/bin/env python3
"""What PyTorch's libraries need for the cases of benches/kernels.rs: cuBLASLt, cuDNN, fused AdamW. Prints {"cases": []}, then reads a case a line,
{"op", "case", "shape", "flop", "bytes"}, and answers with a line: the case, the peer's name and the seconds, or why there is none.

Times are the device's, the median of as many runs as fit into 60 ms, each with an L2 that was filled by reading something else. `--rehearse` does
it on the CPU.
"""

import json
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


# ---- one function an op: the peer's name and its work ----


def limits(shape):
    if shape["kind"] == "copy":
        source = torch.empty(shape["bytes"] // 2, dtype=torch.uint8, device=DEVICE)
        return "copy", source.clone
    square = randn(shape["width"], shape["width"])
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
    return "cuDNN", lambda: attend(q, k, v, shape["causal"], SDPBackend.CUDNN_ATTENTION)


def attention_backward(shape):
    return "cuDNN", backward(attend(*heads(shape, True), shape["causal"], SDPBackend.CUDNN_ATTENTION))


def log_probabilities(shape, requires_grad):
    h = randn(shape["rows"], shape["dim"], requires_grad=requires_grad)
    w = randn(shape["vocab"], shape["dim"], requires_grad=requires_grad)
    targets = torch.randint(shape["vocab"], (shape["rows"],), device=DEVICE)
    return lambda: F.cross_entropy(F.linear(h, w).float(), targets, reduction="none")


def token_logprob_forward(shape):
    work = log_probabilities(shape, False)
    return "cuBLASLt, cross_entropy", lambda: work()


def token_logprob_backward(shape):
    return "cuBLASLt, cross_entropy", backward(log_probabilities(shape, True)())


def sample(shape):
    logits = randn(shape["rows"], shape["vocab"], dtype=torch.float32)

    def cut():
        values, ids = logits.sort(dim=-1, descending=True)
        probabilities = values.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        rank = torch.arange(shape["vocab"], device=DEVICE)
        kept = probabilities.masked_fill((before > 0.95) | (rank >= 50), 0.0)
        return ids.gather(1, kept.multinomial(1))

    return "sort, multinomial", cut if shape["cuts"] else lambda: logits.softmax(-1).multinomial(1)


def adamw(shape):
    if shape["bits"] == 8:
        return None
    parameter = torch.nn.Parameter(torch.zeros(shape["count"], device=DEVICE))
    parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.AdamW([parameter], lr=1e-6, fused=True)
    return "fused AdamW", optimizer.step


def grad_norm(shape):
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


OPS = [limits, linear_forward, linear_backward_input, linear_backward_weight, attention_forward, attention_backward, token_logprob_forward]
OPS += [token_logprob_backward, sample, adamw, grad_norm, rms_norm_forward, rms_norm_backward, layer_norm_forward, swiglu_forward, gelu_forward]
PEERS = {op.__name__: op for op in OPS}


def answer(case):
    """The line for a case."""
    about = {key: case[key] for key in ("op", "case", "flop", "bytes")}
    made = PEERS[case["op"]](case["shape"]) if case["op"] in PEERS and case.get("shape") else None
    if made is None:
        return {**about, "peer": None}
    name, work = made
    return {**about, "peer": name, "seconds": seconds(work)}


def main():
    print(json.dumps({"cases": []}), flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        try:
            said = answer(case)
        except Exception as error:
            said = {"op": case["op"], "case": case["case"], "error": f"the peer failed: {type(error).__name__}: {str(error)[:300]}"}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
