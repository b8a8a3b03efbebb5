"""A small model of how long the kernels take on an H200, from what the compiler made of them and from what their launches do.

Nothing here was measured. A kernel takes as long as the slowest of what it issues, the products of its tensor cores, the bytes that it moves,
and the round trips to memory that wait for one another. What is issued is counted in SASS (`tools/sass.py`); what a launch does stands below,
row by row. Only the numbers of `Machine` are fitted. They stay as they are, so that predictions compare.
"""

import dataclasses
import math
import pathlib
import re

import sass

KERNELS = pathlib.Path(__file__).resolve().parent.parent / "kernels"


def constants(source):
    """The whole numbers that a source of kernels/ names: `constexpr int NAME = 64;`, several of them in one line too."""
    lines = re.findall(r"^constexpr int (\w+ = \d+(?:, \w+ = [^,;]+)*);", (KERNELS / source).read_text(), re.MULTILINE)
    return {name: int(value) for line in lines for name, value in re.findall(r"(\w+) = (\d+)(?=,|$)", line)}


@dataclasses.dataclass(frozen=True)
class Machine:
    """An H200 as the model sees it; seconds, bytes a second, Hz."""

    sms: int = 132
    schedulers: int = 4  # of an SM; each issues an instruction a clock at most
    clock: float = 1.9e9
    product_clocks: float = 4 / 0.62  # of a scheduler for an m16n8k16: mma.sync reaches 62 % of wgmma's rate
    flop_limit: float = 790e12  # that cuBLAS reaches in bf16 on random data
    memory: float = 4.5e12
    l2: float = 6e12
    memory_latency: float = 0.6e-6  # under load
    l2_latency: float = 0.14e-6
    launch: float = 1.5e-6  # from one node of a graph to the next

    def issued(self, warps):
        """Instructions a second of a scheduler that has so many warps."""
        return self.clock * 0.83 * warps / (warps + 0.6)


H200 = Machine()
PRODUCT_FLOP = 2 * 16 * 8 * 16


@dataclasses.dataclass(frozen=True)
class Resources:
    """What a kernel takes of an SM, and its code."""

    code: object  # a sass.Kernel
    threads: int
    registers: int
    shared: int  # bytes of a block, static and dynamic
    hot: object  # a sass.HotLoop, or None

    def blocks(self, shared_of_sm=228 << 10, threads_of_sm=2048):
        """Blocks that an SM holds."""
        by_registers = 65536 // (math.ceil(self.registers / 8) * 8 * self.threads)
        by_shared = shared_of_sm // (self.shared + 1024)
        return max(1, min(by_registers, by_shared, threads_of_sm // self.threads, 32))

    def in_flight(self):
        """Bytes that a block has on their way to shared memory while it computes."""
        return self.hot.copies * 16 * self.threads * self.hot.pending if self.hot else 0


@dataclasses.dataclass(frozen=True)
class Time:
    """Of a launch: seconds, and what takes them."""

    seconds: float
    bound: str

    def __add__(self, other):
        longer = max(self, other, key=lambda time: time.seconds)
        return Time(self.seconds + other.seconds, longer.bound)

    def __mul__(self, times):
        return Time(self.seconds * times, self.bound)


def slowest(**parts):
    """The longest of named times, with one launch before it."""
    bound = max(parts, key=parts.get)
    return Time(parts[bound] + H200.launch, bound)


def compute(kernel, blocks, turns, warps=None, instructions=None, imbalance=1.0):
    """Seconds for `blocks` blocks that go `turns` times round their hot loop, all warps of them or only so many, which share the schedulers.

    Of instructions and products the longer counts whole, and the other by half: they overlap in part.
    """
    hot, of_block = kernel.hot, kernel.threads // 32
    slots = H200.sms * kernel.blocks()
    resident = min(blocks, slots)
    on_sm = max(1, resident / H200.sms)
    busy = warps or of_block
    # A block's warps are dealt to the schedulers in turn, so those that compute in each block meet on the same ones.
    schedulers = min(H200.schedulers, busy)
    issued = H200.issued(on_sm * busy / schedulers) * schedulers * min(H200.sms, resident)
    products = hot.products * H200.product_clocks
    issue = instructions or hot.instructions
    clocks = max(issue, products) + min(issue, products) / 2
    uneven = math.ceil(blocks / H200.sms) * H200.sms / blocks if blocks > H200.sms else 1
    return blocks * turns * busy * clocks / issued * uneven * imbalance


def flight(kernel, blocks, moved):
    """Seconds that `moved` bytes take to shared memory, by what the resident blocks have on their way at a time."""
    resident = min(blocks, H200.sms * kernel.blocks())
    return moved * H200.memory_latency / (resident * kernel.in_flight())


def stream(kernel, elements, instructions, moved, at_once=8):
    """Elements that have nothing to do with each other: `instructions` of a thread for `at_once` of them, `moved` bytes in all."""
    warps = kernel.blocks() * kernel.threads / 32 / H200.schedulers
    issue = elements / at_once / 32 * instructions / (H200.issued(warps) * H200.schedulers * H200.sms)
    return slowest(memory=moved / H200.memory, issue=issue)


# ---- products ----

PRODUCT = constants("common/product.cuh")


def tile(name):
    """Rows and columns of a tile of kernels/common/product.cuh."""
    prefix = name.upper()
    return PRODUCT[f"{prefix}_M"], PRODUCT["FEW_N" if name.startswith("few") else f"{prefix}_N"]


def forward_tile(rows, columns):
    """The tile that `forward_tile` of src/cuda/linear.rs chooses."""
    for name, less, blocks_min in (("large", PRODUCT["WIDE_M"], 96), ("wide", PRODUCT["FEW_16_M"], 48)):
        height, width = tile(name)
        if rows > less and math.ceil(rows / height) * math.ceil(columns / width) >= blocks_min:
            return name
    return next((name for name in ("few_16", "few_32", "few_64") if rows <= tile(name)[0]), "few_64")


def product(kernels, kernel, name, rows, columns, terms, moved):
    """[rows, terms] · [terms, columns] by the kernel's form for a tile; `moved` bytes to and from memory."""
    kernel, (height, width) = kernels[f"{kernel}_{name}"], tile(name)
    blocks = math.ceil(rows / height) * math.ceil(columns / width)
    through = blocks * (height + width) * terms * 2
    return slowest(
        compute=compute(kernel, blocks, math.ceil(terms / PRODUCT["TILE_K"])),
        memory=moved / H200.memory,
        L2=through / H200.l2,
        latency=flight(kernel, blocks, through),
    )


def linear(kernels, rows, columns, terms):
    moved = 2 * (rows * terms + columns * terms + rows * columns)
    return product(kernels, "linear_forward", forward_tile(rows, columns), rows, columns, terms, moved)


def linear_input(kernels, rows, columns, terms):
    moved = 2 * (rows * terms + columns * terms + rows * columns)
    return product(kernels, "linear_backward_input", "large", rows, terms, columns, moved)


def linear_weight(kernels, rows, columns, terms):
    moved = 2 * (rows * terms + rows * columns) + 8 * columns * terms
    return product(kernels, "linear_backward_weight", "large", columns, terms, rows, moved)


def patch_embed(kernels, patches, terms, columns):
    """Pixels become bf16 in memory, two frames of each, and then a factor."""
    kernel = kernels["patch_embed_expand"]
    pixels = patches * terms // 2
    # A byte is looked up in shared memory; a loop of about 30 instructions for four.
    return stream(kernel, pixels, 30, pixels + 2 * patches * terms, 4) + linear(kernels, patches, columns, terms)


# ---- attention ----

ATTENTION = {**constants("common/attention_forward.cuh"), **constants("attention_backward.cu")}
TILE_ROWS, TILE_KEYS, SPLIT_KEYS, STEP = 64, ATTENTION["TILE_KEYS"], ATTENTION["SPLIT_KEYS"], ATTENTION["STEP"]
# A block's round trips before its first product, one behind the other: its tile, the tile's segment, its prefix or page, queries and keys.
FIRST_TRIPS = 5


def attention(kernels, sequences, tokens, heads, kv_heads, dim, causal):
    """Packed sequences of `tokens` tokens each."""
    kernel = kernels[f"attention_forward_{dim}"]
    group = heads // kv_heads
    tiles = math.ceil(tokens * group / TILE_ROWS)
    seen = [min(tokens, math.ceil((tile + 1) * TILE_ROWS / group)) if causal else tokens for tile in range(tiles)]
    turns = sum(math.ceil(keys / TILE_KEYS) for keys in seen) / tiles
    blocks = sequences * kv_heads * tiles
    moved = 2 * sequences * tokens * dim * (2 * heads + 2 * kv_heads)
    # Other blocks of the SM compute while one waits, where there is much to compute.
    waves = math.ceil(blocks / (H200.sms * kernel.blocks()))
    waits = Time(FIRST_TRIPS * waves * H200.memory_latency / max(1, turns), "latency")
    return slowest(compute=compute(kernel, blocks, turns), memory=moved / H200.memory) + waits


def decode(kernels, sequences, keys, heads, kv_heads, dim, queries=1):
    """The newest tokens of sequences over their pages, a block for each split of the keys, and the kernel that joins the splits."""
    kernel = kernels[f"attention_forward_paged_{dim}"]
    splits = math.ceil(keys / SPLIT_KEYS)
    blocks = sequences * kv_heads * splits
    turns = math.ceil(min(keys, SPLIT_KEYS) / TILE_KEYS)
    moved = 2 * 2 * sequences * kv_heads * keys * dim
    # The rows of a decoded token fill one warp of four; with 8 tokens they fill all.
    warps = math.ceil(queries * heads // kv_heads / 16)
    waves = max(1.0, blocks / (H200.sms * kernel.blocks()))
    attended = slowest(
        issue=compute(kernel, blocks, turns, warps),
        memory=moved / H200.memory,
        latency=waves * (FIRST_TRIPS + turns) * H200.memory_latency,
    )
    parts = 4 * sequences * queries * heads * (dim + 2) * splits
    return attended + slowest(memory=2 * parts / H200.memory, latency=(FIRST_TRIPS + splits) * H200.l2_latency) if splits > 1 else attended


def attention_backward(kernels, sequences, tokens, heads, kv_heads, dim):
    """Causal packed sequences; the longest blocks come first."""
    queries, keys = kernels[f"attention_backward_queries_{dim}"], kernels[f"attention_backward_keys_{dim}"]
    group = heads // kv_heads
    rows, key_tiles = math.ceil(tokens * group / TILE_ROWS), math.ceil(tokens / TILE_ROWS)
    turns = sum(math.ceil(min(tokens, math.ceil((tile + 1) * TILE_ROWS / group)) / STEP) for tile in range(rows)) / rows
    of_queries = compute(queries, sequences * kv_heads * rows, turns)
    turns = sum(math.ceil((tokens - tile * TILE_ROWS) * group / STEP) for tile in range(key_tiles)) / key_tiles
    blocks = sequences * kv_heads * key_tiles
    # One wave lasts as long as its longest block, which has twice the average; the SM's other block ends meanwhile.
    imbalance = 1.6 if blocks <= H200.sms * keys.blocks() else 1.1
    of_keys = compute(keys, blocks, turns, imbalance=imbalance)
    delta = slowest(memory=4 * sequences * tokens * heads * dim / H200.memory)
    return slowest(compute=of_queries) + slowest(compute=of_keys) + delta


# ---- head and sampling ----

HEAD = constants("common/log_sum_exp.cuh")
SLICE, SHARE = HEAD["SLICE"], HEAD["SLICE"] // HEAD["SLICE_THREADS"]


def logits(kernels, rows, vocab, dim):
    moved = 2 * (rows + vocab) * dim + 4 * rows * vocab
    return product(kernels, "token_logprob_logits", forward_tile(rows, vocab), rows, vocab, dim, moved)


def slices(vocab):
    return [min(SLICE, vocab - first) for first in range(0, vocab, SLICE)]


def of_slice(kernels, name, rows, width, bytes_each):
    """A block a row of a slice: all in registers, on one path."""
    kernel = kernels[name]
    return stream(kernel, rows * width, kernel.code.vector_path()[0], rows * width * bytes_each, SHARE)


def token_logprob(kernels, rows, vocab, dim):
    parts = (logits(kernels, rows, width, dim) + of_slice(kernels, "token_logprob_slice", rows, width, 4) for width in slices(vocab))
    return sum(parts, slowest(latency=10 * H200.memory_latency))


def token_logprob_backward(kernels, rows, vocab, dim):
    total = Time(0.0, "")
    for width in slices(vocab):
        total += logits(kernels, rows, width, dim) + of_slice(kernels, "token_logprob_backward", rows, width, 6)
        moved = 2 * (rows + dim) * width + 8 * rows * dim
        total += product(kernels, "token_logprob_backward_input", "large", rows, dim, width, moved)
        total += linear_weight(kernels, rows, width, dim)
    return total


def sample(kernels, rows, vocab, cuts=2):
    """A block for each slice of a row, which counts its classes; then a block a row, which scans the row for each cut (top-k, top-p) and for the
    choice, as far as its tokens are in the class that was found."""
    count = len(slices(vocab))
    counted = of_slice(kernels, "sample_slices", rows, vocab, 4 + 8 * 256 / SLICE)
    kernel = kernels["sample"]
    scan = vocab * 4 * H200.l2_latency / (kernel.threads * 2 * 16)
    joined = count * 256 * 8 * H200.l2_latency / (kernel.threads * 16)
    waves = math.ceil(rows / (H200.sms * kernel.blocks()))
    return counted + slowest(latency=(joined + (cuts + 1) * (scan + 20 * H200.l2_latency)) * waves)


# ---- rows and elements ----


def row_kernel(kernel, moved, rows, dim):
    """A block a row: all of it is on its way at once, and each warp adds up the row by itself, from shared memory."""
    is_small = rows <= 512  # what the op before wrote is still in L2
    latency = H200.l2_latency if is_small else H200.memory_latency
    # A lane adds up every 32nd element, 4 clocks one after the other; a vector of 8 takes some 30 instructions in all.
    chain = dim / 32 * 4 / H200.clock
    warps = kernel.threads / 32
    on_scheduler = min(rows / H200.sms, kernel.blocks()) * warps / H200.schedulers
    issue = rows * warps * dim / 256 * 30 / (H200.issued(max(1.0, on_scheduler)) * H200.schedulers * min(H200.sms, rows))
    waits = Time(latency + chain, "latency")
    return slowest(memory=moved / H200.memory, issue=issue) + waits


def rms_norm(kernels, rows, dim):
    """With the addition."""
    return row_kernel(kernels["rms_norm_forward"], 4 * 2 * rows * dim, rows, dim)


def rms_norm_backward(kernels, rows, dim):
    """With the residual's gradient, and the sums for dw, which read dy and h again."""
    gradient = row_kernel(kernels["rms_norm_backward"], 4 * 2 * rows * dim, rows, dim)
    partial = slowest(memory=2 * 2 * rows * dim / H200.memory)
    return gradient + partial + slowest(latency=math.ceil(rows / 64 / 16) * H200.l2_latency)


def rope(kernels, tokens, heads, kv_heads, dim):
    kernel = kernels["rope_forward"]
    path = kernel.code.vector_path(max(kernel.code.vector_loops(), key=lambda loop: loop.end - loop.begin))[1]
    loads = kernel.code.count(sass.VECTOR_LOAD, path)
    pairs = (heads + kv_heads) * dim / 2
    moved = tokens * ((heads + kv_heads) * dim * 4 + dim * 4)
    waves = max(1.0, tokens / (H200.sms * kernel.blocks()))
    # Of each pair of vectors that are loaded, 8 pairs of elements.
    return stream(kernel, tokens * pairs, len(path), moved, 8 * max(1, loads // 2)) + Time(waves * H200.memory_latency, "latency")


def swiglu(kernels, rows, hidden):
    return elementwise(kernels["swiglu_forward"], rows * hidden, 6)


def swiglu_backward(kernels, rows, hidden):
    return elementwise(kernels["swiglu_backward"], rows * hidden, 10)


def elementwise(kernel, elements, bytes_each):
    return stream(kernel, elements, kernel.code.vector_path()[0], elements * bytes_each)


def optimizer(kernel, parameters, bytes_each):
    """A turn of a block's loop over the elements of one parameter."""
    loop = max(kernel.code.vector_loops(), key=lambda loop: loop.end - loop.begin)
    return stream(kernel, parameters, kernel.code.vector_path(loop)[0], parameters * bytes_each)


def adamw(kernels, parameters):
    return optimizer(kernels["adamw"], parameters, 28)


def adamw_8bit(kernels, parameters):
    return optimizer(kernels["adamw_8bit"], parameters, 16)


# ---- what is predicted ----


@dataclasses.dataclass(frozen=True)
class Row:
    """A kernel at a shape: what it multiplies and adds, and the bytes that it has to move, at least; the rows of `benches/kernels.rs` that time
    it, op and case."""

    name: str
    flop: float
    moved: float
    time: Time
    cases: list

    def floor(self):
        return max(self.flop / H200.flop_limit, self.moved / H200.memory)


@dataclasses.dataclass(frozen=True)
class Shape:
    """Widths of Qwen2.5-VL-7B's language model."""

    layers: int = 28
    dim: int = 3584
    hidden: int = 18944
    heads: int = 28
    kv_heads: int = 4
    head_dim: int = 128
    vocab: int = 152064
    parameters: float = 8.29e9

    def linears(self):
        """(columns, terms) of a layer's products."""
        qkv = (self.heads + 2 * self.kv_heads) * self.head_dim
        return [(qkv, self.dim), (self.dim, self.heads * self.head_dim), (2 * self.hidden, self.dim), (self.dim, self.hidden)]


QWEN = Shape()
VISION_PATCHES, VISION_DIM, VISION_HEADS, VISION_HEAD_DIM = 4096, 1280, 16, 80
LAYERS = ["qkv", "o", "gate_up", "down"]


def rows(kernels):
    """The table: the kernels at the shapes of Qwen2.5-VL-7B."""
    s, attention_heads = QWEN, (QWEN.heads, QWEN.kv_heads, QWEN.head_dim)
    gate_up = (4096, 2 * s.hidden, s.dim)
    flop = 2 * math.prod(gate_up)
    weights = sum(2 * columns * terms for columns, terms in s.linears())
    few = [linear(kernels, 64, columns, terms) for columns, terms in s.linears()]
    causal = 2 * 2 * 2048**2 * s.heads * s.head_dim
    vision = 4 * VISION_PATCHES * VISION_HEADS * VISION_HEAD_DIM
    vision_heads = (VISION_HEADS, VISION_HEADS, VISION_HEAD_DIM)
    kv_bytes = 2 * 2 * s.kv_heads * s.head_dim
    head_flop, row_bytes = 2 * 4096 * s.vocab * s.dim, 2 * 4096 * s.dim
    return [
        Row("linear y, 4096 rows, gate and up", flop, 0, linear(kernels, *gate_up), [("linear_forward", "7b gate_up 4096")]),
        Row("linear dx, the same", flop, 0, linear_input(kernels, *gate_up), [("linear_backward_input", "7b gate_up 4096")]),
        Row("linear dw, the same", flop, 0, linear_weight(kernels, *gate_up), [("linear_backward_weight", "7b gate_up 4096")]),
        Row("four linears of a layer, 64 rows", 0, weights, sum(few, Time(0.0, "")), [("linear_forward", f"7b {layer} 64") for layer in LAYERS]),
        Row("head, 64 rows", 0, 2 * s.vocab * s.dim, logits(kernels, 64, s.vocab, s.dim), [("logits", f"7b 64 of {s.vocab}")]),
        Row("attention forward D 128, 2 x 2048 causal", causal, 0, attention(kernels, 2, 2048, *attention_heads, True),
            [("attention_forward", "7b D128 2x2048 causal")]
        ),
        Row("attention forward D 80, 4096", vision * 4096, 0, attention(kernels, 1, VISION_PATCHES, *vision_heads, False),
            [("attention_forward", "vision D80 1x4096 full")]
        ),
        Row("attention forward D 80, windows of 64", 0, 2 * 4 * VISION_PATCHES * VISION_DIM, attention(kernels, 64, 64, *vision_heads, False),
            [("attention_forward", "vision D80 64x64 full")]
        ),
        Row("decode, 64 of 2048 keys", 0, 64 * 2048 * kv_bytes, decode(kernels, 64, 2048, *attention_heads),
            [("attention_forward", "7b decode 64 of 2048, 1 new")]
        ),
        Row("decode, 8 of 2048 keys", 0, 8 * 2048 * kv_bytes, decode(kernels, 8, 2048, *attention_heads),
            [("attention_forward", "7b decode 8 of 2048, 1 new")]
        ),
        Row("decode, 64 of 2048 keys, 8 tokens each", 0, 64 * 2048 * kv_bytes, decode(kernels, 64, 2048, *attention_heads, 8),
            [("attention_forward", "7b decode 64 of 2048, 8 new")]
        ),
        Row("attention backward D 128, 2 x 2048", 2.5 * causal, 0, attention_backward(kernels, 2, 2048, *attention_heads),
            [("attention_backward", "7b D128 2x2048 causal")]
        ),
        Row("token_logprob forward, 4096 rows", head_flop, 0, token_logprob(kernels, 4096, s.vocab, s.dim),
            [("token_logprob_forward", f"7b 4096 of {s.vocab}")]
        ),
        Row("token_logprob backward with dw", 3 * head_flop, 0, token_logprob_backward(kernels, 4096, s.vocab, s.dim),
            [("token_logprob_backward", f"7b 4096 of {s.vocab}")]
        ),
        Row("rms_norm forward, 4096 rows", 0, 4 * row_bytes, rms_norm(kernels, 4096, s.dim), [("rms_norm_forward", f"7b 4096x{s.dim}")]),
        Row("rms_norm forward, 64 rows", 0, 4 * row_bytes / 64, rms_norm(kernels, 64, s.dim), [("rms_norm_forward", f"7b 64x{s.dim}")]),
        Row("rms_norm backward, 4096 rows", 0, 4 * row_bytes, rms_norm_backward(kernels, 4096, s.dim), [("rms_norm_backward", f"7b 4096x{s.dim}")]),
        Row("rope, 4096 tokens", 0, 4096 * ((s.heads + s.kv_heads) * 512 + 512), rope(kernels, 4096, *attention_heads),
            [("rope_forward", "7b 4096, 32 heads of 128")]
        ),
        Row("swiglu forward, 4096 rows", 0, 6 * 4096 * s.hidden, swiglu(kernels, 4096, s.hidden), [("swiglu_forward", f"7b 4096x{s.hidden}")]),
        Row("swiglu backward, 4096 rows", 0, 10 * 4096 * s.hidden, swiglu_backward(kernels, 4096, s.hidden),
            [("swiglu_backward", f"7b 4096x{s.hidden}")]
        ),
        Row("adamw, 2^26 parameters", 0, 28 * 2**26, adamw(kernels, 2**26), [("adamw", f"{2**26}")]),
        Row("adamw in 8 bits, the same", 0, 16 * 2**26, adamw_8bit(kernels, 2**26), [("adamw", f"8-bit {2**26}")]),
        Row("sample, 64 rows, top-k and top-p", 0, 4 * 64 * s.vocab, sample(kernels, 64, s.vocab), [("sample", "7b 64 top-k, top-p")]),
        Row("patch_embed, 4096 patches", 2 * 4096 * 1176 * VISION_DIM, 0, patch_embed(kernels, 4096, 1176, VISION_DIM),
            [("patch_embed_forward", "vision 4096x1280")]
        ),
    ]



# ---- a step of GRPO ----

PROMPTS, GROUP, IMAGE_TOKENS, TEXT_TOKENS, DRAWN, MICRO_BATCH = 32, 8, 1000, 500, 1024, 4096
VISION_LAYERS, VISION_FULL_LAYERS, VISION_HIDDEN = 32, 4, 3424


def layer_rows(kernels, rows):
    """The ops of a decoder layer's forward on rows, but for attention."""
    s = QWEN
    products = sum((linear(kernels, rows, columns, terms) for columns, terms in s.linears()), Time(0.0, ""))
    return products + rms_norm(kernels, rows, s.dim) * 2 + rope(kernels, rows, s.heads, s.kv_heads, s.head_dim) + swiglu(kernels, rows, s.hidden)


def layer_rows_backward(kernels, rows):
    s = QWEN
    total = rms_norm_backward(kernels, rows, s.dim) * 2 + rope(kernels, rows, s.heads, s.kv_heads, s.head_dim)
    total += swiglu_backward(kernels, rows, s.hidden)
    for columns, terms in s.linears():
        total += linear_input(kernels, rows, columns, terms) + linear_weight(kernels, rows, columns, terms)
    return total


def vision(kernels):
    """The tower's forward on the patches of all prompts, a picture at a time."""
    patches = 4 * IMAGE_TOKENS
    heads = (VISION_HEADS, VISION_HEADS, VISION_HEAD_DIM)
    widths = [(3 * VISION_DIM, VISION_DIM), (VISION_DIM, VISION_DIM), (2 * VISION_HIDDEN, VISION_DIM), (VISION_DIM, VISION_HIDDEN)]
    layer = sum((linear(kernels, patches, columns, terms) for columns, terms in widths), Time(0.0, ""))
    layer += rms_norm(kernels, patches, VISION_DIM) * 2
    layer += rope(kernels, patches, VISION_HEADS, VISION_HEADS, VISION_HEAD_DIM) + swiglu(kernels, patches, VISION_HIDDEN)
    windows = attention(kernels, patches // 64, 64, *heads, False) * (VISION_LAYERS - VISION_FULL_LAYERS)
    full = attention(kernels, 1, patches, *heads, False) * VISION_FULL_LAYERS
    return (layer * VISION_LAYERS + windows + full + patch_embed(kernels, patches, 1176, VISION_DIM)) * PROMPTS


def step(kernels):
    """Seconds of a step on 32 prompts of 1,000 image and 500 text tokens, 8 answers of 1,024 tokens each, the prompts' keys shared, nothing
    computed twice: what comes before decoding, decoding, and the update."""
    s, prompt = QWEN, IMAGE_TOKENS + TEXT_TOKENS
    attention_heads = (s.heads, s.kv_heads, s.head_dim)
    sequences, drawn = PROMPTS * GROUP, PROMPTS * GROUP * DRAWN
    prefill_layer = layer_rows(kernels, MICRO_BATCH) * (PROMPTS * prompt / MICRO_BATCH) + attention(kernels, PROMPTS, prompt, *attention_heads, True)
    before = vision(kernels) + prefill_layer * s.layers

    layer = layer_rows(kernels, sequences) + decode(kernels, sequences, prompt + DRAWN // 2, *attention_heads)
    token = layer * s.layers + logits(kernels, sequences, s.vocab, s.dim) + sample(kernels, sequences, s.vocab, cuts=0)

    rows = PROMPTS * prompt + drawn
    layer = (layer_rows(kernels, MICRO_BATCH) + layer_rows_backward(kernels, MICRO_BATCH)) * (rows / MICRO_BATCH)
    # An answer's queries see the prompt and what came before: as many pairs as so many causal sequences of their own length.
    pairs = (DRAWN * prompt + DRAWN**2 / 2) / (DRAWN**2 / 2)
    layer += attention(kernels, sequences, DRAWN, *attention_heads, True) * pairs
    layer += attention_backward(kernels, sequences, DRAWN, *attention_heads) * pairs
    head = token_logprob(kernels, MICRO_BATCH, s.vocab, s.dim) + token_logprob_backward(kernels, MICRO_BATCH, s.vocab, s.dim)
    update = layer * s.layers + head * (drawn / MICRO_BATCH) + adamw(kernels, s.parameters)
    return {"vision and prefill": before.seconds, "decode": token.seconds * DRAWN, "update": update.seconds}
