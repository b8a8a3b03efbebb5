#!/usr/bin/env python3
"""Tries a running `thyme-engine serve` with the client of TRL's trainers: sampling, chats with pictures, log-probabilities, weights.

    pip install -r tools/clients/requirements/trl.txt
    tools/clients/trl_check.py http://127.0.0.1:8000 [--weights FOLDER]

TRL's client needs the package vllm for the trainer's end of an NCCL broadcast alone, but refuses to begin without it. That one question is
answered with yes here; no code of vllm is imitated, and the calls that would run it are not made: they are refused before.
"""

import argparse
import math
import sys

import requests
import torch
from PIL import Image
from trl.generation import vllm_client

# The sum behind a log-probability is rounded, so that one of 0 may come out this much above.
ROUNDING = 1e-5
PROMPTS = ["What digit is on the red plate?", "Row one: one red two none"]


def connect(base_url, timeout_seconds=10):
    asked, vllm_client.is_vllm_available = vllm_client.is_vllm_available, lambda: True
    try:
        return vllm_client.VLLMClient(base_url=base_url, connection_timeout=timeout_seconds)
    finally:
        vllm_client.is_vllm_available = asked


def picture(shade):
    return Image.effect_mandelbrot((112, 84), (-2, -1.5, 1, 1.5), shade).convert("RGB")


def conversation(*images):
    parts = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": PROMPTS[0]}]}]


def check_server(client):
    client.check_server()
    assert client.get_world_size() == 1
    info = client.get_server_info()
    assert info["weight_transfer_config"] is not None
    assert info["model_config"]["logprobs_mode"] == "processed_logprobs", "start the server with --logprobs-mode processed_logprobs"


def check_generate(client):
    asked = {"n": 3, "max_tokens": 9, "temperature": 0.9, "top_p": 0.95, "top_k": 40, "min_p": 0.01, "repetition_penalty": 1.05,
             "generation_kwargs": {"seed": 5, "ignore_eos": True}}
    sampled = client.generate(PROMPTS, **asked)
    assert len(sampled["prompt_ids"]) == 2 and len(sampled["completion_ids"]) == 6
    assert all(len(ids) == 9 for ids in sampled["completion_ids"])
    assert sampled["completion_ids"][0] != sampled["completion_ids"][1]
    assert client.generate(sampled["prompt_ids"], **asked) == sampled, "ids must be sampled from as the text is"
    assert client.generate(PROMPTS, **asked | {"logprobs": None})["logprobs"] is None
    for logprobs, tokens, ids in zip(sampled["logprobs"], sampled["logprob_token_ids"], sampled["completion_ids"], strict=True):
        assert tokens == [[id] for id in ids]
        assert all(len(place) == 1 and place[0] <= ROUNDING for place in logprobs)


def placeholder_ids(client, last):
    """The ids of the placeholders of pictures and videos, which stand among the last of the vocabulary."""
    found = {}
    for id in range(last, -1, -1):
        told = requests.post(f"{client.base_url}/detokenize", json={"tokens": [id]}, timeout=10).json()["prompt"]
        found |= {told: id} if told in ("<|image_pad|>", "<|video_pad|>") else {}
        if len(found) == 2:
            return list(found.values())
    raise AssertionError(f"only {found} of the two placeholders are in the vocabulary")


def check_sequence_logprobs(client):
    """The processed log-probabilities of a sample at temperature 1 are those of its sequence, over the tokens that may be sampled: all but the
    placeholders of pictures."""
    sampled = client.generate(PROMPTS, max_tokens=12, generation_kwargs={"seed": 1, "ignore_eos": True})
    pairs = list(zip(sampled["prompt_ids"], sampled["completion_ids"], strict=True))
    vocab = 1 << 20  # more than there are: all
    scored = client.get_sequence_logprobs(
        [prompt + sampled for prompt, sampled in pairs], [len(prompt) for prompt, _ in pairs], top_logprobs=vocab, chunk_size=1)
    placeholders = placeholder_ids(client, max(map(max, scored["logprob_token_ids"][0])))
    for number, (_, ids) in enumerate(pairs):
        assert scored["actual_token_ids"][number] == [[id] for id in ids]
        for place in range(len(ids)):
            top, own = scored["logprobs"][number][place], scored["actual_logprobs"][number][place][0]
            top = [logprob for logprob in top if logprob > -math.inf]
            assert top == sorted(top, reverse=True)
            assert abs(sum(map(math.exp, top)) - 1) < 1e-4
            of = dict(zip(scored["logprob_token_ids"][number][place], top))
            left = 1 - sum(math.exp(of[id]) for id in placeholders)
            assert abs(own - math.log(left) - sampled["logprobs"][number][place][0]) < 1e-4


def check_chat(client):
    asked = {"max_tokens": 8, "generation_kwargs": {"seed": 2, "ignore_eos": True}}
    told = client.chat([conversation(), conversation(picture(10)), conversation(picture(90))], **asked)
    plain, first, second = told["prompt_ids"]
    assert len(plain) < len(first) == len(second)
    assert all(len(ids) == 8 == len(logprobs) for ids, logprobs in zip(told["completion_ids"], told["logprobs"], strict=True))
    assert told["logprobs"][1] != told["logprobs"][2], "pictures that differ are answered alike"
    assert len(client.chat([conversation(picture(10))], **asked, tools=[picture_of])["completion_ids"][0]) == 8


def picture_of(digit: int) -> str:
    """
    Finds the plate with a digit.

    Args:
        digit: The digit.
    """
    raise NotImplementedError(digit)


def check_image_features(client):
    """Token ids with a picture's features, as the GRPO trainer sends them, are answered as the chat is."""
    asked = {"n": 2, "max_tokens": 8, "temperature": 0.7, "generation_kwargs": {"seed": 3, "ignore_eos": True}}
    told = client.chat([conversation(picture(10))], **asked)
    features = client.image_features([[picture(10)], None])
    assert features[1] is None
    (place,) = features[0]["mm_placeholders"]["image"]
    prompt = told["prompt_ids"][0]
    pads = [token for token in set(prompt) if prompt.count(token) == place["length"] and place["length"] > 1]
    assert len(pads) == 1, f"no run of {place['length']} placeholders in {prompt}"
    features[0]["mm_placeholders"]["image"] = [{"offset": prompt.index(pads[0]), "length": place["length"]}]
    assert client.generate([prompt], features=features[:1], **asked) == told
    other = client.generate([prompt], features=client.image_features([[picture(90)]]), **asked)
    assert other["logprobs"] != told["logprobs"]


def check_weights(client, folder):
    """The way over NCCL is refused at its first call, with the way over a folder, which works."""
    model = torch.nn.Linear(2, 2)
    def grouped():
        with client.weight_update():
            raise AssertionError("the server opened a weight update")
    for name, refused in [
        ("update_named_param", lambda: client.update_named_param("weight", model.weight.data)),
        ("update_model_params", lambda: client.update_model_params(model)),
        ("weight_update", grouped),
        ("init_communicator's request", lambda: client._post(f"{client.base_url}/init_weight_transfer_engine", json={"init_info": {}})),
    ]:
        try:
            refused()
        except AssertionError:
            raise
        except Exception as error:
            assert "501" in str(error) and "weight_dir" in str(error) and "/update_weights" in str(error), f"{name}: {error}"
        else:
            raise AssertionError(f"{name} was accepted")
    client.reset_prefix_cache()
    if folder:
        asked = {"max_tokens": 8, "generation_kwargs": {"seed": 2}}
        before = client.generate(PROMPTS, **asked)
        reply = client._post(f"{client.base_url}/update_weights", json={"weight_dir": folder})
        assert reply["weights_version"] > 0
        assert client.generate(PROMPTS, **asked)["logprobs"] != before["logprobs"], "other weights change nothing"


def check_errors(client):
    try:
        client.generate(PROMPTS, temperature=-1.0)
    except Exception as error:
        assert "400" in str(error) and "temperature" in str(error), error
    else:
        raise AssertionError("a temperature of -1 was accepted")
    try:
        connect("http://127.0.0.1:9", timeout_seconds=0)
    except requests.ConnectionError:
        return
    raise AssertionError("nobody answers there")


CHECKS = [check_server, check_generate, check_sequence_logprobs, check_chat, check_image_features, check_errors]


def main():
    parser = argparse.ArgumentParser(description="Tries a running server with TRL's client.")
    parser.add_argument("base_url", help="such as http://127.0.0.1:8000")
    parser.add_argument("--weights", help="a checkpoint of the same shapes with other weights, which the server reads in the end")
    arguments = parser.parse_args()
    client = connect(arguments.base_url)
    for check in CHECKS:
        check(client)
        print(f"{check.__name__}: ok", flush=True)
    check_weights(client, arguments.weights)
    print("check_weights: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
