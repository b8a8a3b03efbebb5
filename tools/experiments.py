#!/usr/bin/env python3
"""Runs the experiments of recipes/experiments/experiments.toml, and draws them.

    cargo build --release
    python3 tools/experiments.py [NAME ...] [--engine target/release/thyme-engine] [--seeds 0 1 2] [--draw-only]

Trains the starts that are missing under runs/, then each arm with each seed; evaluates the start and each result. Writes
recipes/experiments/NAME.json (held-out figures, seconds, curves) and NAME.png. All experiments take about an hour on
two cores. Drawing needs matplotlib.
"""

import argparse
import json
import pathlib
import platform
import subprocess
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "recipes/experiments"
TASKS, ANSWERS = 256, 2


def run(engine, *arguments):
    """Runs the engine; its seconds."""
    began = time.monotonic()
    done = subprocess.run([engine, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return time.monotonic() - began


def run_name(recipe):
    """The `name` that a recipe gives its run."""
    return tomllib.loads(recipe.read_text())["name"]


def checkpoint(name):
    """The last checkpoint of a run, if it has one."""
    found = (ROOT / "runs" / name).glob("checkpoint-*")
    return max(found, key=lambda path: int(path.name.split("-")[1]), default=None)


def evaluate(engine, experiment, model, out):
    """What held-out answers of a checkpoint are like."""
    # Greedy answers to a task are all the same.
    samples = ANSWERS if experiment["temperature"] > 0 else 1
    run(engine, "eval", "--model", model, "--recipe", FOLDER / experiment["evaluate_in"], "--data", experiment["data"],
        "--limit", TASKS, "--samples-per-task", samples, "--temperature", experiment["temperature"], "--output", out)
    report = json.loads((out / "results.json").read_text())
    return {"accuracy": report["accuracy"], "tool_use": report["tool_use"], "calls": report["calls"]["mean"],
            "tokens": report["tokens"]["mean"]}


def curves(folder, columns):
    """Columns of a run's metrics, step by step: 0 where a step has no such column, None where it was not measured."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    values = {column: [line.get(column, 0.0) for line in steps] for column in columns}
    return {column: [None if value is None else round(value, 4) for value in row] for column, row in values.items()}


def conduct(engine, experiment, seeds):
    """Runs an experiment; what came out."""
    for start in experiment["starts"]:
        recipe = FOLDER / start
        if checkpoint(run_name(recipe)) is None:
            print(f"{experiment['name']}: {start}", flush=True)
            run(engine, "train", recipe)
    start = checkpoint(run_name(FOLDER / experiment["starts"][-1]))
    results = ROOT / "runs" / f"experiment_{experiment['name']}"
    before = evaluate(engine, experiment, start, results / "start")
    print(f"{experiment['name']}: start {before}", flush=True)
    runs = []
    for seed in seeds:
        for arm, settings in experiment["arms"].items():
            name = f"experiment_{experiment['name']}_{arm}_{seed}"
            changes = [f"seed={seed}", f"name={name}", *experiment.get("common", []), *settings]
            seconds = run(engine, "train", FOLDER / experiment["recipe"], "--overwrite",
                          *(word for change in changes for word in ("--set", change)))
            after = evaluate(engine, experiment, checkpoint(name), results / f"{arm}_{seed}")
            tokens = curves(ROOT / "runs" / name, ["completion_tokens"])["completion_tokens"]
            runs.append({"arm": arm, "seed": seed, "seconds": round(seconds, 1), "held_out": after,
                         "mean_completion_tokens": round(sum(tokens) / len(tokens), 1),
                         "curves": curves(ROOT / "runs" / name, experiment["plot"])})
            print(f"{experiment['name']}: {arm} {seed} {seconds:.0f} s {after}", flush=True)
    return {"experiment": experiment["name"], "date": time.strftime("%Y-%m-%d"), "machine": machine(), "start": before,
            "runs": runs}


def machine():
    """The processor, and the number of its cores that are used."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{len(models)} cores, {models[0] if models else platform.machine()}, {' '.join(wide)}"


def draw(experiment, outcome):
    """Draws training curves, a line for each run, and held-out accuracy before and after."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    columns = experiment["plot"]
    figure, axes = pyplot.subplots(1, len(columns) + 1, figsize=(4.2 * (len(columns) + 1), 3.4), layout="constrained")
    colours = dict(zip(experiment["arms"], ["tab:blue", "tab:orange", "tab:green"]))
    for axis, column in zip(axes, columns):
        for arm, colour in colours.items():
            lines = [run["curves"][column] for run in outcome["runs"] if run["arm"] == arm]
            lines = [line for line in lines if None not in line]
            for line in lines:
                axis.plot(range(1, len(line) + 1), line, color=colour, alpha=0.25, linewidth=0.8)
            mean = [sum(values) / len(values) for values in zip(*lines)]
            if mean:
                axis.plot(range(1, len(mean) + 1), mean, color=colour, linewidth=2, label=arm)
        axis.set(title=column, xlabel="step")
        axis.legend()
    last = axes[-1]
    last.axhline(outcome["start"]["accuracy"], color="grey", linestyle="--", label="start")
    for place, (arm, colour) in enumerate(colours.items()):
        values = [run["held_out"]["accuracy"] for run in outcome["runs"] if run["arm"] == arm]
        last.plot([place] * len(values), values, "o", color=colour)
    last.set(title="held-out accuracy", xticks=range(len(colours)), xticklabels=list(colours), ylim=(0, 1.05),
             xlim=(-0.5, len(colours) - 0.5))
    last.legend()
    figure.savefig(FOLDER / f"{experiment['name']}.png", dpi=80)
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--engine", default=str(ROOT / "target/release/thyme-engine"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--draw-only", action="store_true")
    arguments = parser.parse_args()
    experiments = tomllib.loads((FOLDER / "experiments.toml").read_text())["experiment"]
    unknown = set(arguments.names) - {experiment["name"] for experiment in experiments}
    if unknown:
        raise SystemExit(f"there is no experiment {', '.join(sorted(unknown))} in experiments.toml")
    for experiment in experiments:
        if arguments.names and experiment["name"] not in arguments.names:
            continue
        file = FOLDER / f"{experiment['name']}.json"
        if not arguments.draw_only:
            outcome = conduct(arguments.engine, experiment, arguments.seeds)
            file.write_text(json.dumps(outcome, indent=1) + "\n")
        if file.exists():
            draw(experiment, json.loads(file.read_text()))


if __name__ == "__main__":
    main()
