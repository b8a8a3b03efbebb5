"""The small benchmark of the evaluation clients: pictures of `thyme-engine data needle`, and what the server says to each when it is asked
without any client. A client that changes a picture, a prompt or a setting on the way gets other answers, and so another score.
"""

import base64
import json
import pathlib
import re
import urllib.request
from dataclasses import dataclass

SETTINGS = {"temperature": 0, "max_tokens": 48}


@dataclass
class Item:
    """A picture with a question."""
    picture: pathlib.Path
    system: str
    question: str
    solution: str


def read(folder):
    """The items of a folder that `thyme-engine data needle` made."""
    folder = pathlib.Path(folder).resolve()
    records = [json.loads(line) for line in open(folder / "data.jsonl")]
    return [Item(folder / record["images"][0], record["messages"][0]["content"], record["question"], record["solution"])
            for record in records]


def data_url(item):
    """The picture as it lies in the folder."""
    return "data:image/png;base64," + base64.b64encode(item.picture.read_bytes()).decode()


def messages(item, url):
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": item.question}]
    return [{"role": "system", "content": item.system}, {"role": "user", "content": content}]


def call(base_url, path, api_key, body=None):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {api_key}"}
    data = None if body is None else json.dumps(body).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(base_url + path, data, headers), timeout=60) as reply:
        return json.load(reply)


def model_name(base_url, api_key):
    return call(base_url, "/models", api_key)["data"][0]["id"]


def answers(base_url, api_key, items, url_of=data_url):
    """What the server says to each item, its picture sent as `url_of` has it."""
    model = model_name(base_url, api_key)
    asked = [{"model": model, "messages": messages(item, url_of(item)), **SETTINGS} for item in items]
    texts = [call(base_url, "/chat/completions", api_key, body)["choices"][0]["message"]["content"] for body in asked]
    assert len(set(texts)) > 1, f"every picture gets the answer {texts[0]!r}: this would not notice a lost picture"
    return texts


def is_right(text, solution):
    """Whether the answer, in its tags, is the solution."""
    answer = re.search(r"<answer>\s*(.*?)\s*</answer>", text)
    return answer is not None and answer.group(1) == solution


def accuracy(texts, items):
    return sum(is_right(text, item.solution) for text, item in zip(texts, items, strict=True)) / len(items)


def compare(found, wanted):
    """Fails with the first answer that is not what the server says without the client."""
    assert len(found) == len(wanted), f"{len(found)} answers to {len(wanted)} questions"
    for number, (own, other) in enumerate(zip(found, wanted, strict=True)):
        assert own.strip() == other.strip(), f"item {number}: the client got {own!r}, a plain request {other!r}"
