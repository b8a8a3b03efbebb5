#!/usr/bin/env python3
"""Runs VLMEvalKit's wrapper of OpenAI's API, whole and streamed, through its own inference on pictures of the needle task over HTTP, and holds
every answer and the score against what the server says to plain requests with the same JPEG pictures.

    pip install -r tools/clients/requirements/vlmeval.txt
    thyme-engine data needle --out plates --count 16 --seed 0 --split held_out
    tools/clients/vlmeval_check.py http://127.0.0.1:8000/v1 plates [--api-key sk-KEY]
"""

import argparse
import base64
import csv
import io
import os
import pathlib
import sys
import tempfile

import needle
from PIL import Image

NAME = "ThymeNeedle"


def jpeg_url(item):
    """The picture as VLMEvalKit sends it: a JPEG of Pillow's own settings."""
    packed = io.BytesIO()
    Image.open(item.picture).save(packed, format="JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()


def write_benchmark(items, folder):
    with open(folder / f"{NAME}.tsv", "w", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(["index", "image_path", "question", "answer"])
        table.writerows([number, item.picture, item.question, item.solution] for number, item in enumerate(items))


def evaluate(arguments, items, work, streamed):
    """Texts in the order of the items, as VLMEvalKit writes them down."""
    from vlmeval.api import OpenAIWrapper
    from vlmeval.dataset import build_dataset
    from vlmeval.inference import infer_data_job
    from vlmeval.smp import load

    model = OpenAIWrapper(
        model=needle.model_name(arguments.base_url, arguments.api_key), api_base=arguments.base_url + "/chat/completions", key=arguments.api_key,
        system_prompt=items[0].system, retry=1, img_size=-1, stream=streamed, verbose=True, **needle.SETTINGS)
    name = "streamed" if streamed else "whole"
    infer_data_job(model, work_dir=str(work), model_name=name, dataset=build_dataset(NAME), api_nproc=4)
    table = load(str(work / f"{name}_{NAME}.tsv"))
    assert list(table["index"]) == list(range(len(items)))
    return [str(text) for text in table["prediction"]]


def main():
    parser = argparse.ArgumentParser(description="Runs VLMEvalKit on a running server.")
    parser.add_argument("base_url", help="such as http://127.0.0.1:8000/v1")
    parser.add_argument("pictures", help="a folder that `thyme-engine data needle` made")
    parser.add_argument("--api-key", default="sk-none", help="begins with sk-")
    arguments = parser.parse_args()
    items = needle.read(arguments.pictures)
    assert len({item.system for item in items}) == 1, "VLMEvalKit has one system prompt for all"
    wanted = needle.answers(arguments.base_url, arguments.api_key, items, jpeg_url)
    with tempfile.TemporaryDirectory() as work:
        os.environ.update(LMUData=work, PRED_FORMAT="tsv", HF_HUB_OFFLINE="1", LITELLM_LOCAL_MODEL_COST_MAP="True", no_proxy="127.0.0.1,localhost")
        write_benchmark(items, pathlib.Path(work))
        for streamed in (False, True):
            found = evaluate(arguments, items, pathlib.Path(work), streamed)
            needle.compare(found, wanted)
            score = needle.accuracy(found, items)
            print(f"{'streamed' if streamed else 'whole'}: ok, {len(items)} answers, accuracy {score:.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
