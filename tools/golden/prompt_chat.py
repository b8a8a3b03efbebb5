"""Writes tests/golden/prompt/chat.json: conversations, and what transformers renders from them with the templates there."""

import json
import pathlib

import jinja2
import transformers

ROOT = pathlib.Path(__file__).parents[2] / "tests/golden/prompt"


def image(path="a.png"):
    return {"type": "image", "image": path}


def text(text):
    return {"type": "text", "text": text}


def message(role, content, **other):
    return {"role": role, "content": content, **other}


CROP = {
    "type": "function",
    "function": {
        "name": "crop",
        "description": "Crops <the image> & zooms in, \"quoted\" – größer",
        "parameters": {"type": "object", "properties": {"box": {"type": "array", "default": 1.5}, "deep": {"type": "null"}}, "required": ["box"]},
    },
}
CALL = {"type": "function", "function": {"name": "crop", "arguments": {"box": [1, 2.0, 3], "ok": True, "why": None, "text": "a\n\"b\" ü"}}}
VISION = [
    ([message("user", "Hello")], {}),
    ([message("user", "Hello")], {"add_generation_prompt": True}),
    ([message("system", "Be brief."), message("user", "  Hello \n")], {"add_generation_prompt": True}),
    ([message("user", [text("What is this?")])], {"add_generation_prompt": True}),
    ([message("user", [image(), text("What is this?")])], {"add_generation_prompt": True}),
    ([message("user", [text("Compare "), image("a.png"), text(" and "), image("b.png"), text(".")])], {}),
    ([message("user", [text("Compare "), image("a.png"), text(" and "), image("b.png"), text(".")])], {"add_vision_id": True}),
    ([message("user", [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, text("<b>&</b>")])], {}),
    (
        [
            message("system", "Think."),
            message("user", [image(), text("Which digit?")]),
            message("assistant", [text("<code>crop</code><sandbox_output>"), image("c.png"), text("</sandbox_output>It is 7.")]),
            message("user", "Sure?"),
            message("assistant", "Yes."),
        ],
        {"add_vision_id": True},
    ),
    ([message("user", [image(), image()]), message("assistant", "Two {{ braces }} {% and %} marks")], {"add_generation_prompt": True}),
]
TOOLS = [
    ([message("user", "Hello")], {"add_generation_prompt": True}),
    ([message("system", "Be brief."), message("user", "Hello"), message("system", "Again.")], {}),
    ([message("user", "Crop it")], {"tools": [CROP, CROP], "add_generation_prompt": True}),
    (
        [
            message("system", "Use tools."),
            message("user", "Crop it"),
            message("assistant", "Well:", tool_calls=[CALL, CALL["function"]]),
            message("tool", "done"),
            message("tool", "done again"),
            message("assistant", "Ready."),
        ],
        {"tools": [CROP]},
    ),
    ([message("user", "Crop it"), message("assistant", "", tool_calls=[CALL]), message("tool", "x")], {"add_generation_prompt": True}),
]
THING = {"z": [], "a": {}, "text": "<a href='x'>\u00fc\u4e2d\U0001f600</a>\u0001\t\\", "n": [1, -2.5, 1e20, 1e-7, 0.1, True, None]}
ODD = [
    ([message("user", " one two "), message("skip", "x y"), message("assistant", "three"), message("stop", "q"), message("user", "never")], {"thing": THING}),
    ([message("refuse", "one two")], {"thing": {}}),
]


def main():
    tokenizer = transformers.AutoTokenizer.from_pretrained(ROOT / "checkpoint")
    cases = []
    for name, conversations in [("vision", VISION), ("tools", TOOLS), ("odd", ODD)]:
        template = (ROOT / f"templates/{name}.jinja").read_text()
        for messages, options in conversations:
            case = {"template": name, "messages": messages, "options": options}
            try:
                case["rendered"] = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **options)
            except jinja2.exceptions.TemplateError as error:
                case["error"] = str(error)
            cases.append(case)
    versions = {"transformers": transformers.__version__, "jinja2": jinja2.__version__}
    (ROOT / "chat.json").write_text(json.dumps({"versions": versions, "cases": cases}) + "\n")


main()
