"""Writes tests/golden/schedule/learning_rates.json: the learning rate of each update as transformers' schedules give it.

    pip install torch transformers && python tools/golden/schedule.py
"""

import json
import pathlib

import torch
import transformers
from transformers import TrainingArguments, get_scheduler

GOLDEN = pathlib.Path(__file__).parents[2] / "tests/golden/schedule/learning_rates.json"
LEARNING_RATE = 3e-4
MIN_LR_RATE = 0.1
# Name in transformers, and its own settings.
SCHEDULES = {
    "constant_with_warmup": None,
    "linear": None,
    "cosine": None,
    "cosine_with_min_lr": {"min_lr_rate": MIN_LR_RATE},
}
TOTALS = [1, 2, 7, 30]
# Whole numbers are updates, fractions are shares of all updates.
WARMUPS = [0, 1, 3, 30, 0.1, 0.25]


def rates(name, settings, total, warmup):
    updates = TrainingArguments(output_dir="/nonexistent", warmup_steps=warmup).get_warmup_steps(total)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LEARNING_RATE)
    scheduler = get_scheduler(name, optimizer, updates, total, scheduler_specific_kwargs=settings)
    found = []
    for _ in range(total):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def main():
    cases = [
        {"schedule": name, "warmup": warmup, "rates": rates(name, settings, total, warmup)}
        for name, settings in SCHEDULES.items()
        for total in TOTALS
        for warmup in WARMUPS
    ]
    golden = {
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "learning_rate": LEARNING_RATE,
        "min_lr_rate": MIN_LR_RATE,
        "cases": cases,
    }
    lines = ",\n".join(json.dumps(case) for case in golden.pop("cases"))
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    GOLDEN.write_text(json.dumps(golden)[:-1] + f', "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
