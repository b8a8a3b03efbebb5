#!/usr/bin/env python3
"""Runs LMMs-Eval's models for OpenAI's API, one request after the other and many at once, on pictures of the needle task over HTTP, and holds
every answer and the score against what the server says to plain requests.

    pip install -r tools/clients/requirements/lmms_eval.txt
    thyme-engine data needle --out plates --count 16 --seed 0 --split held_out
    tools/clients/lmms_eval_check.py http://127.0.0.1:8000/v1 plates [--api-key KEY]
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import needle

HERE = pathlib.Path(__file__).resolve().parent
MODELS = {"openai": "num_concurrent=1", "async_openai": "num_cpus=4"}


def evaluate(kind, more, model, arguments, work):
    """Texts in the order of the items, and the score, as LMMs-Eval tells them."""
    environment = {**os.environ, "PYTHONPATH": str(HERE), "HF_HOME": str(work / "cache"), "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1,localhost",
                   "OPENAI_API_KEY": arguments.api_key, "OPENAI_API_BASE": arguments.base_url, "LMMS_EVAL_HOME": str(work / "home")}
    command = [sys.executable, "-m", "lmms_eval", "--model", kind, "--tasks", "thyme_needle", "--include_path", str(HERE / "lmms_eval_tasks"),
               "--model_args", f"model_version={model},base_url={arguments.base_url},api_key={arguments.api_key},max_retries=1,timeout=60,{more}",
               "--batch_size", "1", "--log_samples", "--output_path", str(work / kind)]
    ran = subprocess.run(command, cwd=arguments.pictures, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    samples = list((work / kind).rglob("*samples*.jsonl"))
    # LMMs-Eval ends with 0 after errors too.
    assert len(samples) == 1, ran.stdout + ran.stderr
    (results,) = (work / kind).rglob("*results.json")
    records = sorted((json.loads(line) for line in open(samples[0])), key=lambda record: record["doc_id"])
    scores = json.load(open(results))["results"]["thyme_needle"]
    return [record["resps"] for record in records], scores["needle_accuracy,none"]


def main():
    parser = argparse.ArgumentParser(description="Runs LMMs-Eval on a running server.")
    parser.add_argument("base_url", help="such as http://127.0.0.1:8000/v1")
    parser.add_argument("pictures", help="a folder that `thyme-engine data needle` made")
    parser.add_argument("--api-key", default="none")
    arguments = parser.parse_args()
    items = needle.read(arguments.pictures)
    wanted = needle.answers(arguments.base_url, arguments.api_key, items)
    expected = needle.accuracy(wanted, items)
    model = needle.model_name(arguments.base_url, arguments.api_key)
    for kind, more in MODELS.items():
        with tempfile.TemporaryDirectory() as work:
            found, score = evaluate(kind, more, model, arguments, pathlib.Path(work))
        needle.compare(found, wanted)
        assert abs(score - expected) < 1e-9, f"LMMs-Eval's accuracy is {score}, that of plain requests {expected}"
        print(f"{kind}: ok, {len(items)} answers, accuracy {score:.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
