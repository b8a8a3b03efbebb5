#!/usr/bin/env python3
"""Compiles every kernel for each GPU, and every rung of kernels/ladder/ for two, counts what the compiler made of it, and holds the counts against kernels/resources.md.

    tools/kernel_resources.py NVCC              compares; fails where they differ, and where a hot kernel spills or has a stack frame
    tools/kernel_resources.py NVCC --write      writes the tables, unless a hot loop issues 5 % more instructions for a product than before
    tools/kernel_resources.py NVCC --write --more KERNEL...    writes them, as these are meant to issue more
    tools/kernel_resources.py NVCC --json --cache FOLDER       prints what the tables would say of an H200, for `cargo bench --bench kernels`;
                                                               FOLDER keeps what was compiled, so that only changed kernels are again

nvdisasm lies beside NVCC (tools/setup_nvcc.sh).
"""

import argparse
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import kernel_model
import sass


@dataclasses.dataclass(frozen=True)
class Target:
    """A GPU: nvcc's option, and what an SM has: bytes of shared memory, threads."""

    option: str
    shared: int
    threads: int


TARGETS = {
    "sm_80": Target("arch=compute_80,code=sm_80", 164 << 10, 2048),
    "sm_90a": Target("arch=compute_90a,code=sm_90a", 228 << 10, 2048),
    "sm_120": Target("arch=compute_120,code=sm_120", 100 << 10, 1536),
}
PREDICTED = "sm_90a"
RUNGS_ON = ["sm_90a", "sm_80"]
# Vectors of 16 bytes that a thread of a rung copies for one turn of its loop, by the folder.
RUNG_COPIES = {"attention": 16, "decode": 16, "gemm": 4}
# More instructions for a product than this, beside what the table had, is a fault.
GROWTH = 1.05

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS, RUNS = ROOT / "kernels", ROOT / "benches" / "runs"
HEAD = """# What the kernels use, and how long they should take

Written by `tools/kernel_resources.py NVCC --write`, from what nvcc 13.0 made of the sources. A kernel is *hot* if the comment above it begins
with a line `// hot`; spills and stack frames of those fail CI, and so do 5 % more instructions for a product.

## Predicted times on an H200

**Predicted by a model, not measured** (`tools/kernel_model.py`): Qwen2.5-VL-7B's shapes, bf16, one launch or several that follow each other. *Floor*
is what the limits allow, {flop:.0f} TFLOP/s and {memory:.1f} TB/s, and *share* is floor over predicted time.

| kernel | floor us | predicted us | share % | bound by | measured us |
|---|---|---|---|---|---|
{predicted}

{measured}

A step of GRPO on 32 prompts of 1,000 image and 500 text tokens, 8 answers of 1,024 tokens each, prompts shared, no recompute: {step}.

## Counted

*Shared* is a block's, static and dynamic. *Blocks* is how many an SM holds. Of the innermost loop of products: *instructions* are those that a warp
issues for one m16n8k16, on the path of a tile without edges; *in flight* is what a block has on its way to shared memory during the products.

| kernel | target | hot | registers | shared bytes | stack bytes | spill bytes | blocks | instructions | in flight bytes |
|---|---|---|---|---|---|---|---|---|---|
"""

LADDER = """
## The ladder

The rungs of `kernels/ladder/`, counted the same way. A loop within the loop counts as often as it runs.

| rung | registers, sm_90a | instructions, sm_90a | registers, sm_80 | instructions, sm_80 |
|---|---|---|---|---|
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """A kernel on a target."""

    kernel: str
    target: str
    is_hot: bool
    stack: int
    spill: int
    resources: kernel_model.Resources

    def per_product(self):
        hot = self.resources.hot
        return hot.instructions / hot.products if hot else None

    def line(self):
        resources, target = self.resources, TARGETS[self.target]
        ratio = self.per_product()
        of_loop = ["", ""] if ratio is None else [f"{ratio:.2f}", resources.in_flight()]
        blocks = resources.blocks(target.shared, target.threads)
        cells = [self.kernel, self.target, "hot" if self.is_hot else "", resources.registers, resources.shared, self.stack, self.spill, blocks]
        return "| " + " | ".join(str(cell) for cell in cells + of_loop) + " |"


def hot_kernels(source):
    """The names of kernels whose comment begins with `// hot`."""
    pattern = r'// hot\n(?://[^\n]*\n)*extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)'
    return set(re.findall(pattern, source))


def padded(rows, columns):
    """Bytes of a `SharedTile`."""
    return rows * (columns + 8) * 2


def dynamic_shared(kernel):
    """Shared bytes that a launch asks for, at least."""
    product = re.fullmatch(r"(?:linear|token_logprob)_\w+?_(large|wide|few_\d+|unaligned)", kernel)
    if product:
        constants, name = kernel_model.PRODUCT, product.group(1)
        return sum(kernel_model.tile(name)) * constants[f"{name.upper()}_STAGES"] * constants["TILE_K"] * 2
    found = re.fullmatch(r"attention_(forward|forward_paged|backward_queries|backward_keys)_(\d+)", kernel)
    if not found:
        return 0
    form, dim = found.group(1), int(found.group(2))
    if form.startswith("forward"):
        return 4 * padded(64, dim)
    return 2 * padded(64, dim) + 4 * padded(32, dim) + (512 if form == "backward_keys" else 0)


def content(*of):
    """A name for what files and words say."""
    parts = [each.read_bytes() if isinstance(each, pathlib.Path) else str(each).encode() for each in of]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def compiled(nvcc, source, name, folder):
    """The cubin of a source for a target, and what ptxas said. Taken from `folder` where they are there."""
    options = ["-cubin", f"-gencode={TARGETS[name].option}", "-std=c++17", "-O3", "--fmad=false", "-Xptxas", "-v", "-I", str(KERNELS)]
    key = content(nvcc, *options, source.name, source, *sorted(KERNELS.glob("common/*.cuh")))
    cubin, said = folder / f"{key}.cubin", folder / f"{key}.txt"
    if not said.exists():
        result = subprocess.run([nvcc, *options, "-o", cubin, source], capture_output=True, text=True)
        if result.returncode != 0:
            sys.exit(f"{source.name} does not compile:\n{result.stderr}")
        if "C75" in result.stderr:
            sys.exit(f"{source.name}: ptxas gave up an optimisation:\n{result.stderr}")
        said.write_text(result.stderr)
    return cubin, said.read_text()


def measure(tools, source, name, folder):
    """Rows of a source on a target."""
    nvcc, nvdisasm = tools
    cubin, said = compiled(nvcc, source, name, folder)
    code = sass.kernels(nvdisasm, cubin)
    hot, rows = hot_kernels(source.read_text()), []
    for part in said.split("Compiling entry function '")[1:]:
        kernel = part.split("'")[0]
        stack, stores, loads = map(int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part).groups())
        registers = int(re.search(r"Used (\d+) registers", part).group(1))
        static = re.search(r"(\d+) bytes smem", part)
        shared = (int(static.group(1)) if static else 0) + dynamic_shared(kernel)
        of_code = code[kernel]
        resources = kernel_model.Resources(of_code, of_code.threads, registers, shared, of_code.hot_loop(RUNG_COPIES.get(source.parent.name)))
        rows.append(Row(kernel, name, kernel in hot, stack, stores + loads, resources))
    return sorted(rows, key=lambda row: row.kernel)


def measure_all(nvcc, sources, targets, folder):
    tools = (nvcc, pathlib.Path(nvcc).with_name("nvdisasm"))
    if not tools[1].exists():
        sys.exit(f"{tools[1]} is missing; run tools/setup_nvcc.sh")
    wanted = [(source, target) for source in sources for target in targets]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return [row for rows in pool.map(lambda of: measure(tools, *of, folder), wanted) for row in rows]


def kernels():
    return sorted(KERNELS.glob("*.cu"))


def rungs():
    return sorted(KERNELS.glob("ladder/*/*.cu"))


def ladder(rows):
    """The table of rungs."""
    found = {(row.kernel.removeprefix("ladder_"), row.target): row for row in rows}
    lines = []
    for rung in rungs():
        cells = [rung.stem]
        for target in RUNGS_ON:
            row = found[rung.stem, target]
            cells += [row.resources.registers, f"{row.per_product():.2f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return LADDER + "\n".join(lines) + "\n"


def measured():
    """Seconds by op and case of the newest run of tools/gpu_check.sh that is committed, and its folder; nothing and None where there is none."""
    runs = sorted(RUNS.glob("*/results.jsonl"))
    if not runs:
        return {}, None
    lines = [json.loads(line) for line in runs[-1].read_text().splitlines()]
    ours = [line for line in lines if line.get("piece") == "turns" and "seconds" in line and "op" in line and not line.get("peer")]
    return {(line["op"], line["case"]): line["seconds"] for line in ours}, runs[-1].parent.name


def predictions(rows):
    """The head of the file, filled in."""
    kernels = {row.kernel: row.resources for row in rows if row.target == PREDICTED}
    lines, (seconds, run) = [], measured()
    for row in kernel_model.rows(kernels):
        floor, time = row.floor() * 1e6, row.time.seconds * 1e6
        known = [seconds.get(tuple(case)) for case in row.cases]
        on_card = f"{sum(known) * 1e6:,.1f}" if all(known) else ""
        lines.append(f"| {row.name} | {floor:,.1f} | {time:,.1f} | {100 * floor / time:.0f} | {row.time.bound} | {on_card} |")
    parts = kernel_model.step(kernels)
    step = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items()) + f", together **{sum(parts.values()):.0f} s**"
    machine = kernel_model.H200
    said = f"Measured: `benches/runs/{run}/`." if run else "No card has run them yet: the last column is what `tools/gpu_check.sh turns` will say."
    limits = {"flop": machine.flop_limit / 1e12, "memory": machine.memory / 1e12}
    return HEAD.format(**limits, predicted="\n".join(lines), measured=said, step=step)


def tables(text):
    """The tables of a Markdown text: for each, its rows as columns by name."""
    found, columns = [], None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not cells:
            columns = None
        elif columns is None:
            columns = cells
            found.append([])
        elif set(line) - set("|-"):
            found[-1].append(dict(zip(columns, cells)))
    return found


def as_json(nvcc, folder):
    """Both tables for one GPU, as they would be written now."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = sorted([*KERNELS.glob("*.cu"), *KERNELS.glob("common/*.cuh"), *(ROOT / "tools").glob("*.py")])
    known = folder / f"{content(nvcc, *sources)}.json"
    if not known.exists():
        rows = measure_all(nvcc, kernels(), [PREDICTED], folder)
        predicted, counted = tables(predictions(rows) + "\n".join(row.line() for row in rows))
        known.write_text(json.dumps({"predicted": predicted, "counted": counted}))
    return known.read_text()


def faults(rows, before, meant):
    """What may not be: memory behind registers in a hot kernel, and more instructions for a product than the table had."""
    known = {}
    for line in before.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 10 and re.fullmatch(r"[\d.]+", cells[8]):
            known[cells[0], cells[1]] = float(cells[8])
    for row in rows:
        if row.is_hot and (row.stack or row.spill):
            yield f"{row.kernel} on {row.target} is hot and has {row.stack} bytes of stack and {row.spill} of spills"
        earlier, now = known.get((row.kernel, row.target)), row.per_product()
        if row.is_hot and earlier and now and now > GROWTH * earlier and row.kernel not in meant:
            more = 100 * (now / earlier - 1)
            yield f"{row.kernel} on {row.target} issues {now:.2f} instructions for a product, {earlier:.2f} before: {more:.0f} % more"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("nvcc")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--more", nargs="*", default=[], metavar="KERNEL")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cache", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.json:
        print(as_json(arguments.nvcc, arguments.cache))
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        rows = measure_all(arguments.nvcc, kernels(), TARGETS, folder)
        of_rungs = measure_all(arguments.nvcc, rungs(), RUNGS_ON, folder)
    table = predictions(rows) + "\n".join(row.line() for row in rows) + "\n" + ladder(of_rungs)
    path = KERNELS / "resources.md"
    before = path.read_text() if path.exists() else ""
    found = list(faults(rows, before, arguments.more))
    if arguments.write and not found:
        path.write_text(table)
    elif before != table:
        print(table)
        found.append("kernels/resources.md is not what was counted; look at the difference, then run this with --write")
    sys.exit("\n".join(found) if found else 0)


if __name__ == "__main__":
    main()
