#!/usr/bin/env python3
"""Tries a running `thyme-engine serve` with OpenAI's own Python client: chat, streams, pictures, log-probabilities, tools, errors.

    pip install openai
    tools/clients/openai_check.py http://127.0.0.1:8000/v1 [--api-key KEY]
"""

import argparse
import base64
import struct
import sys
import zlib

import openai

TOOLS = [{"type": "function", "function": {
    "name": "crop", "description": "Cuts a piece out of the picture.",
    "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}}}]


def png(width, height):
    """A picture of one colour as a data URL."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + bytes((200, 60, 60)) * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


def user(*content):
    return [{"role": "user", "content": list(content) if len(content) > 1 else content[0]}]


def check_chat(client, model):
    reply = client.chat.completions.create(
        model=model, messages=user("Hello"), max_tokens=12, n=2, seed=1, temperature=0.8, extra_body={"ignore_eos": True})
    assert len(reply.choices) == 2
    assert all(choice.message.role == "assistant" and choice.finish_reason for choice in reply.choices)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def check_stream(client, model):
    asked = {"model": model, "messages": user("Hello"), "max_completion_tokens": 12, "seed": 1}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole, (text, whole)
    assert chunks[-1].usage.completion_tokens > 0


def check_completions(client, model):
    reply = client.completions.create(
        model=model, prompt=["One two", "Three"], max_tokens=6, logprobs=0, extra_body={"return_token_ids": True, "ignore_eos": True})
    assert [choice.index for choice in reply.choices] == [0, 1]
    for choice in reply.choices:
        assert len(choice.logprobs.token_logprobs) == len(choice.token_ids) > 0
    text = "".join(chunk.choices[0].text for chunk in client.completions.create(
        model=model, prompt="One two", max_tokens=6, temperature=0, stream=True))
    assert text == client.completions.create(model=model, prompt="One two", max_tokens=6, temperature=0).choices[0].text


def check_images(client, model):
    def tokens(*parts):
        reply = client.chat.completions.create(model=model, messages=user(*parts), max_tokens=1)
        return reply.usage.prompt_tokens
    text = {"type": "text", "text": "What is it?"}
    picture = {"type": "image_url", "image_url": {"url": png(112, 112), "detail": "auto"}}
    assert tokens(picture, picture, text) > tokens(picture, text) > tokens(text, text)


def check_logprobs(client, model):
    choice = client.chat.completions.create(
        model=model, messages=user("Hello"), max_tokens=5, logprobs=True, extra_body={"ignore_eos": True}).choices[0]
    assert choice.logprobs.content and all(token.logprob <= 0 for token in choice.logprobs.content)
    assert all(bytes(token.bytes).decode(errors="replace") == token.token for token in choice.logprobs.content)


def check_tools(client, model):
    reply = client.chat.completions.create(model=model, messages=user("Look"), max_tokens=8, tools=TOOLS, tool_choice="auto")
    assert reply.choices[0].finish_reason in ("stop", "length", "tool_calls")
    call = {"id": "call_1", "type": "function", "function": {"name": "crop", "arguments": "{\"x\": 1}"}}
    history = user("Look") + [{"role": "assistant", "content": None, "tool_calls": [call]},
                              {"role": "tool", "tool_call_id": "call_1", "content": "A red plate."}]
    reply = client.chat.completions.create(model=model, messages=history, max_tokens=8, tools=TOOLS)
    assert reply.choices[0].finish_reason


def check_errors(client, model):
    for arguments, kind in [
        ({"model": "no-such-model"}, openai.NotFoundError),
        ({"temperature": -1}, openai.BadRequestError),
        ({"messages": []}, openai.BadRequestError),
    ]:
        asked = {"model": model, "messages": user("Hello"), "max_tokens": 1} | arguments
        try:
            client.chat.completions.create(**asked)
        except kind as error:
            assert error.body["message"], error
        else:
            raise AssertionError(f"{arguments} was accepted")


CHECKS = [check_chat, check_stream, check_completions, check_images, check_logprobs, check_tools, check_errors]


def main():
    parser = argparse.ArgumentParser(description="Tries a running server with OpenAI's Python client.")
    parser.add_argument("base_url", help="such as http://127.0.0.1:8000/v1")
    parser.add_argument("--api-key", default="none")
    arguments = parser.parse_args()
    client = openai.OpenAI(base_url=arguments.base_url, api_key=arguments.api_key, max_retries=0)
    model = client.models.list().data[0].id
    for check in CHECKS:
        check(client, model)
        print(f"{check.__name__}: ok", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
