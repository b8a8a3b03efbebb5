#!/usr/bin/env python3
"""Compiles every kernel for both GPUs and holds what ptxas says of it against kernels/resources.md.

    tools/kernel_resources.py NVCC            compares; fails where they differ, and where a hot kernel spills or has a stack frame
    tools/kernel_resources.py NVCC --write    writes the table
"""

import pathlib
import re
import subprocess
import sys
import tempfile

TARGETS = {"sm_80": "arch=compute_80,code=sm_80", "sm_90a": "arch=compute_90a,code=sm_90a"}
KERNELS = pathlib.Path(__file__).resolve().parent.parent / "kernels"
HEAD = """# What the kernels use

Written by `tools/kernel_resources.py NVCC --write` from what ptxas says (nvcc 13.0). Shared memory is the static part. A kernel is *hot* if
the comment above it begins with a line `// hot`; spills and stack frames of those fail CI.

| kernel | target | hot | registers | shared bytes | stack bytes | spill bytes |
|---|---|---|---|---|---|---|
"""


def hot_kernels(source):
    """The names of kernels whose comment begins with `// hot`."""
    pattern = r'// hot\n(?://[^\n]*\n)*extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)'
    return set(re.findall(pattern, source))


def measured(nvcc, source, option):
    """Rows (kernel, registers, shared, stack, spill) of a source."""
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, "-cubin", f"-gencode={option}", "-std=c++17", "-O3", "--fmad=false", "-Xptxas", "-v", "-I", KERNELS]
        command += ["-o", f"{folder}/cubin", source]
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{source.name} does not compile:\n{result.stderr}")
    if "C75" in result.stderr:
        sys.exit(f"{source.name}: ptxas gave up an optimisation:\n{result.stderr}")
    rows = []
    for part in result.stderr.split("Compiling entry function '")[1:]:
        name = part.split("'")[0]
        stack, stores, loads = map(int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part).groups())
        registers = int(re.search(r"Used (\d+) registers", part).group(1))
        shared = re.search(r"(\d+) bytes smem", part)
        rows.append((name, registers, int(shared.group(1)) if shared else 0, stack, stores + loads))
    return rows


def main():
    nvcc, write = sys.argv[1], "--write" in sys.argv[2:]
    lines, faults = [], []
    for source in sorted(KERNELS.glob("*.cu")):
        hot = hot_kernels(source.read_text())
        for target, option in TARGETS.items():
            for name, registers, shared, stack, spill in sorted(measured(nvcc, source, option)):
                mark = "hot" if name in hot else ""
                lines.append(f"| {name} | {target} | {mark} | {registers} | {shared} | {stack} | {spill} |")
                if mark and (stack or spill):
                    faults.append(f"{name} on {target} is hot and has {stack} bytes of stack and {spill} of spills")
    table = HEAD + "\n".join(lines) + "\n"
    path = KERNELS / "resources.md"
    if write:
        path.write_text(table)
    elif path.read_text() != table:
        print(table)
        faults.append("kernels/resources.md is not what was measured; look at the difference, then run this with --write")
    sys.exit("\n".join(faults) if faults else 0)


main()
