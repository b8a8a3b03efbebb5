#!/usr/bin/env python3
"""Writes tests/golden/rewards/{overlong,pixel_reasoner,deepeyes,verifiers,openthinkimg,calls}.json: random rollouts, and what each system's
rewards give for them.

`overlong.json` has what TRL's own `get_soft_overlong_punishment` returns. The others have formulas of papers and repositories, written down here
from their descriptions. tests/golden/rewards/README.md says what the files hold.

    pip install trl && python tools/golden/rewards.py
"""

import json
import pathlib
import random
import re
import statistics

import trl
from trl.rewards import get_soft_overlong_punishment

OUT = pathlib.Path(__file__).parents[2] / "tests/golden/rewards"
# How a call went: ok, error, timeout, denied, malformed, over the limit.
STATUSES = "oetdml"
TOOLS = ["python crop", "python sum", "image_zoom_in_tool", "rotate_image"]


def write(name, cases, **more):
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    head = json.dumps(more)[1:-1]
    (OUT / f"{name}.json").write_text("{" + head + (", " if head else "") + '"cases": [\n' + lines + "\n]}\n")
    print(f"{name}: {len(cases)} cases")


def statuses(random, most=5):
    return "".join(random.choices(STATUSES, weights=[6, 2, 1, 1, 1, 1], k=random.randint(0, most)))


def overlong(random):
    for _ in range(250):
        most = random.randint(1, 400)
        cache = random.choice([0, 1, most, random.randint(0, most)])
        tokens = random.choice([most, most + 1, most - cache, most - cache + 1, random.randint(0, 500)])
        [score] = get_soft_overlong_punishment(most, cache)(completion_ids=[[1] * tokens])
        yield {"max_completion_length": most, "cache": cache, "tokens": tokens, "score": score}


def pixel_reasoner(random):
    for _ in range(60):
        is_video = random.choice([True, False, 1, 0, None])
        few = random.random() < 0.6
        group = []
        for _ in range(random.randint(1, 16)):
            calls = statuses(random) if not few or random.random() < 0.15 else ""
            group.append({"calls": calls, "right": random.randint(0, 1)})
        rate = statistics.fmean(len(member["calls"]) > 0 for member in group)
        for member in group:
            count = len(member["calls"])
            ran = member["calls"].replace("l", "")
            member["validity"] = 0 if ran and ran[-1] != "o" else 1
            member["code"] = max(0.3 - rate, 0.0) / (1.5 if is_video else 2.0) / rate * 0.25 if count else 0.0
            member["paper"] = 0.5 * max(0.3 - rate, 0.0) if count else 0.0
            member["penalty"] = -0.05 * (count - 1) if count else 0.0
            right = 0 if member["right"] and not member["validity"] else member["right"]
            member["total"] = right + member["code"] + member["penalty"]
        yield {"is_video": is_video, "group": group}


def deepeyes(random):
    pieces = ["<think>", "</think>", "<answer>", "</answer>", "so", " 7 ", "\n", "\\boxed{7}", "\\boxed{}", "\\boxed{"]
    answers = ["7", " 7\n", "", "\n", "é" * 999, "é" * 1000, "a {b} c"]
    for _ in range(200):
        parts = [["<think>so</think>"], [], ["<think>so</think>", "<think>x</think> "]][random.choice([0, 0, 1, 2])]
        parts = parts + random.choice([[f"<answer>{random.choice(answers)}</answer>"], ["\\boxed{7}"], []])
        if random.random() < 0.5:
            parts.insert(random.randint(0, len(parts)), random.choice(pieces))
        if random.random() < 0.2:
            parts = random.choices(pieces, k=random.randint(0, 7))
        text = "".join(parts)
        source = random.choice(["vstar", "thinklite_eureka", None])
        behind = text.split("</think>")[-1]
        good = text.count("<think>") == text.count("</think>")
        if source == "thinklite_eureka":
            good = good and len(re.findall(r"\\boxed{([^}]+)}", behind)) == 1
        else:
            found = re.search("<answer>(.*?)</answer>", behind, re.DOTALL)
            answer = found.group(1).strip() if found else ""
            good = good and behind.count("<answer>") == behind.count("</answer>") and 0 < len(answer) < 1000
        form, right, calls = 0 if good else -1, random.randint(0, 1), statuses(random, 2)
        total = 0.8 * right + 0.2 * form + 1.2 * (right == 1 and len(calls) > 0)
        if source == "thinklite_eureka":
            total = 1.2 * right + 0.4 * form
        yield {"text": text, "source": source, "right": right, "calls": calls, "format": form, "total": total}


def verifiers(random):
    pieces = ["<think>", "</think>", "<tool>", "</tool>", "<answer>", "</answer>", "x", "\n", "<think>a</think>", "<tool>{}</tool>"]
    for _ in range(200):
        text = "".join(random.choices(pieces, k=random.randint(0, 7)))
        has = {tag: re.search(f"<{tag}>\\s*(.*?)\\s*</{tag}>", text, re.DOTALL) is not None for tag in ["think", "tool", "answer"]}
        acts = has["tool"] or has["answer"]
        calls = statuses(random, 7)
        ran = calls.replace("l", "")
        rate = ran.count("o") / len(ran) if ran else 0.0
        form = 1.0 if has["think"] and acts else 0.5 if has["think"] or acts else 0.0
        tool = 0.0 if not ran else rate * (1.0 if len(ran) <= 3 else 0.8)
        yield {"text": text, "calls": calls, "format": form, "tool": tool}


def braces(text):
    """The first stretch of balanced braces, at most four levels deep; braces in strings count too."""
    for start in (at for at, letter in enumerate(text) if letter == "{"):
        depth = deepest = 0
        for at in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            deepest = max(deepest, depth)
            if depth == 0:
                if deepest <= 4:
                    return text[start : at + 1]
                break
    return None


def openthinkimg(random):
    action = {"name": "Crop", "arguments": {"image": "img_1", "param": "[1, 2, 3, 4]"}}
    objects = [
        {"thought": "look", "actions": [action]},
        {"thoughts": "look", "actions": []},
        {"actions": [action]},
        {"thought": ""},
        {"answer": {"thought": 1}},
        {},
    ]
    for _ in range(150):
        messages = []
        for _ in range(random.randint(1, 6)):
            message = json.dumps(random.choice(objects))
            message = random.choice(["", "", "So: ", "{ ", "}", "[", "{x} ", "Ünd "]) + message + random.choice(["", " done", "}", "{"])
            if random.random() < 0.2:
                message = random.choice(["no object", message[:-3], message.replace('"', "'"), "[1, 2]"])
            messages.append(message)
        shares = {"any": 0, "all": 0}
        for message in messages:
            try:
                found = json.loads(braces(message) or "null") or {}
            except json.JSONDecodeError:
                found = {}
            thinks, acts = "thought" in found or "thoughts" in found, "actions" in found
            shares["any"] += thinks or acts
            shares["all"] += thinks and acts
        yield {"messages": messages, **{key: count / len(messages) for key, count in shares.items()}}


def calls(random):
    """Turns with calls, each a tool with how it went and how many images it showed."""
    for _ in range(200):
        turns = []
        for _ in range(random.randint(0, 5)):
            went = statuses(random, 3)
            turns.append([[random.choice(TOOLS), status, random.choice([0, 1, 2]) if status == "o" else 0] for status in went])
        # Whether the last turn's calls were answered.
        answered = random.random() < 0.7
        everything = [call for turn in turns for call in turn]
        ran = [call for call in everything if call[1] != "l"]
        crops = [call for call in ran if call[0] in ("python crop", "image_zoom_in_tool")]
        yield {
            "turns": turns,
            "answered": answered,
            "right": random.randint(0, 1),
            "cumulative_tool": 0.1 * sum(any(call[1] in "oet" for call in turn) for turn in turns),
            "only_successful": 0.1 * sum(any(call[1] == "o" for call in turn) for turn in turns),
            "tool_economy": 1 / (len(everything) + 1),
            "tool_success": sum(call[1] == "o" for call in ran) / max(len(ran), 1),
            "crop_validity": sum(call[2] > 0 for call in crops) / max(len(crops), 1),
            "tool_use_if_correct": int(len(everything) > 0),
            "needs_image": int(any(call[2] > 0 for call in everything)),
        }


def main():
    write("overlong", list(overlong(random.Random(1))), trl=trl.__version__)
    for seed, cases in enumerate([pixel_reasoner, deepeyes, verifiers, openthinkimg, calls], 2):
        write(cases.__name__, list(cases(random.Random(seed))))


main()
