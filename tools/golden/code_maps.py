"""Writes tests/golden/adamw/code_maps.json: the dynamic maps of bitsandbytes, by which it keeps moments in 8 bits.

    pip install torch bitsandbytes && python tools/golden/code_maps.py
"""

import json
import pathlib

import bitsandbytes
import torch
from bitsandbytes.functional import create_dynamic_map

GOLDEN = pathlib.Path(__file__).parents[2] / "tests/golden/adamw/code_maps.json"


def main():
    golden = {"versions": {"bitsandbytes": bitsandbytes.__version__, "torch": torch.__version__}}
    for name, is_signed in [("signed", True), ("unsigned", False)]:
        golden[name] = create_dynamic_map(is_signed, max_exponent_bits=7, total_bits=8).tolist()
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    GOLDEN.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
