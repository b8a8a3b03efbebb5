"""Logs to Weights & Biases what comes on stdin, a JSON object a line: first the run, then the numbers of each step. Answers are lines too."""

import json
import os
import sys

answers = os.fdopen(os.dup(1), "w")
# What the client prints is no answer.
os.dup2(2, 1)
# The folder that a run is started in may hold one of this name.
sys.path[:] = [folder for folder in sys.path if folder]


def tell(kind, value):
    answers.write(json.dumps({kind: value}) + "\n")
    answers.flush()


def log_all(wandb):
    first = sys.stdin.readline()
    if not first:
        return
    start = json.loads(first)
    known = os.environ.get("WANDB_RUN_ID") or start["id"]
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or "thyme-engine",
        name=os.environ.get("WANDB_NAME") or start["name"],
        dir=os.environ.get("WANDB_DIR") or start["dir"],
        config=start["config"],
        id=known,
        resume="allow" if known else None,
        settings=wandb.Settings(console="off"),
    )
    tell("run", {"id": run.id, "place": run.url or run.dir})
    for line in sys.stdin:
        message = json.loads(line)
        run.log(message["values"], step=message["step"])
    run.finish()


try:
    import wandb

    tell("ready", wandb.__version__)
    log_all(wandb)
except BaseException as error:
    tell("error", f"{type(error).__name__}: {error}")
    sys.exit(1)
