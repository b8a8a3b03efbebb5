#!/usr/bin/env python3
"""Writes math-verify's verdict beside each pair of tests/golden/rewards/answers.jsonl: whether it takes `answer` for `solution`.

    pip install math-verify==0.9.0
    tools/golden/answers.py

`right` is a person's judgement and stays as it is; the column `math_verify` is for comparison (null where it fails).
"""

import json
import logging
import pathlib

from math_verify import parse, verify

logging.disable(logging.CRITICAL)
path = pathlib.Path(__file__).parents[2] / "tests/golden/rewards/answers.jsonl"


def verdict(answer, solution):
    if not isinstance(answer, str) or not isinstance(solution, str):
        return None
    try:
        return bool(verify(parse(solution), parse(answer)))
    except Exception:
        return None


rows = [json.loads(line) for line in path.read_text().splitlines()]
for row in rows:
    row["math_verify"] = verdict(row["answer"], row["solution"])
path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
agreed = sum((row["math_verify"] is True) == (row["right"] == 1) for row in rows)
print(f"{len(rows)} pairs; math-verify agrees on {agreed}")
