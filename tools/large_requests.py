#!/usr/bin/env python3
"""Requests and their answers for the piece `large` of tools/gpu_check.sh.

    tools/large_requests.py questions PICTURES                a request line for `batch` for each picture of a needle folder
    tools/large_requests.py answered QUESTIONS ANSWERS        a request line for `score` for each answer: its prompt and itself
    tools/large_requests.py compare ANSWERS SCORES            fails unless both commands gave an answer's tokens the same log-probabilities
"""

import json
import pathlib
import sys


def lines(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def questions(folder):
    for number, picture in enumerate(sorted(pathlib.Path(folder, "images").iterdir())):
        content = [{"type": "image", "image": str(picture)}, {"type": "text", "text": "What digit is on the red plate?"}]
        print(json.dumps({"id": number, "messages": [{"role": "user", "content": content}]}))


def answered(questions, answers):
    for question, answer in zip(lines(questions), lines(answers)):
        picture = question["messages"][0]["content"][0]["image"]
        ids = answer["prompt_token_ids"] + answer["token_ids"]
        print(json.dumps({"id": answer["id"], "token_ids": ids, "images": [picture]}))


def compare(answers, scores):
    tokens = equal = 0
    for answer, score in zip(lines(answers), lines(scores)):
        sampled, scored = answer["logprobs"], score["logprobs"][len(answer["prompt_token_ids"]):]
        tokens += len(sampled)
        equal += sum(a == b for a, b in zip(sampled, scored))
    print(f"{equal} of {tokens} log-probabilities are equal to the bit")
    return tokens == 0 or equal < tokens


if __name__ == "__main__":
    sys.exit({"questions": questions, "answered": answered, "compare": compare}[sys.argv[1]](*sys.argv[2:]))
