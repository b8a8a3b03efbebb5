#!/usr/bin/env python3
"""Puts what criterion measured of the kernels beside what gpu_peers.py measured: a Markdown table.

    tools/gpu_table.py target/criterion peers.jsonl
"""

import json
import pathlib
import sys


def measured(folder):
    """(op, case, unit, per second) of every benchmark."""
    for file in sorted(folder.glob("*/*/new/benchmark.json")):
        about = json.loads(file.read_text())
        seconds = json.loads((file.parent / "estimates.json").read_text())["median"]["point_estimate"] / 1e9
        throughput = about.get("throughput") or {}
        for unit, name in (("Bytes", "GB/s"), ("Elements", "TFLOP/s")):
            if unit in throughput:
                yield about["group_id"], about["value_str"] or about["function_id"], name, throughput[unit] / seconds


def main():
    criterion, peers = map(pathlib.Path, sys.argv[1:])
    lines = [json.loads(line) for line in peers.read_text().splitlines()] if peers.exists() else []
    peers = {(line["op"], line["case"]): line["per_second"] for line in lines}
    rows = list(measured(criterion))
    copy = max((rate for op, case, _, rate in rows if (op, case) == ("limits", "copy")), default=None)
    limits = {"GB/s": peers.get(("limits", "copy"), copy), "TFLOP/s": peers.get(("limits", "gemm"))}
    scale = {"GB/s": 1e9, "TFLOP/s": 1e12}
    print("| op | case | here | share of the limit | PyTorch |\n|---|---|---|---|---|")
    for op, case, unit, rate in rows:
        share = f"{rate / limits[unit]:.0%}" if limits[unit] else ""
        peer = peers.get((op, case))
        print(f"| {op} | {case} | {rate / scale[unit]:.1f} {unit} | {share} | {f'{peer / scale[unit]:.1f}' if peer else ''} |")
    print()
    for unit, limit in limits.items():
        if limit:
            print(f"Limit: {limit / scale[unit]:.0f} {unit} ({'a copy' if unit == 'GB/s' else 'cuBLAS, 8192 cubed, bf16'}).")


if __name__ == "__main__":
    main()
