"""Writes tests/golden/tool_calls/rendered.json: messages with tool calls, as the chat templates that TRL ships render them.

TRL has the templates byte for byte as the checkpoints have them (`trl/chat_templates/README.md` says which), so this is what models were
trained to write."""

import json
import pathlib

import jinja2
import transformers
import trl

ROOT = pathlib.Path(__file__).parents[2]
TEMPLATES = pathlib.Path(trl.__file__).parent / "chat_templates"
FORMATS = {
    "qwen2_5": "hermes",
    "qwen3": "hermes",
    "qwen3_vl": "hermes",
    "qwen3_5_think": "qwen3_coder",
    "qwen3_6": "qwen3_coder",
}


def tool(name, **properties):
    parameters = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


SCHEMAS = [
    tool("zoom", bbox_2d="array", label="string", factor="number", target_image="integer"),
    tool("note", text="string", options="object", exact="boolean", colour=["string", "null"], count=["integer", "string"]),
    tool("look"),
]
CALLS = [
    [("zoom", {"bbox_2d": [10, 20.5, 300, 400], "label": "the sign", "factor": 2.5, "target_image": 1})],
    [("zoom", {"bbox_2d": [], "label": "", "factor": 1e-7, "target_image": -3}), ("look", {})],
    [("note", {"text": "a \"b\"\n\n  c\\d\te", "options": {"deep": [{"x": None, "y": [True, False]}], "": {}}, "exact": True})],
    [("note", {"text": "größer 中 \U0001f600 <b>&amp;</b> {} [x] 'q'", "exact": False, "colour": None, "count": 7})],
    [("note", {"text": "12", "count": "twelve", "colour": "red"}), ("note", {"text": "True"}), ("note", {"text": "[1, 2]"})],
    [("note", {"text": "\nfirst and last lines are blank\n"}), ("zoom", {"factor": 1e20, "bbox_2d": [0.1, 1e16]})],
]


def main():
    tokenizer = transformers.AutoTokenizer.from_pretrained(ROOT / "tests/golden/prompt/checkpoint")
    cases = []
    for name, form in FORMATS.items():
        template = (TEMPLATES / f"{name}.jinja").read_text()
        for calls in CALLS:
            functions = [{"type": "function", "function": {"name": name, "arguments": arguments}} for name, arguments in calls]
            messages = [{"role": "user", "content": "Look"}, {"role": "assistant", "content": "Well.", "tool_calls": functions}]
            text = tokenizer.apply_chat_template(messages, chat_template=template, tools=SCHEMAS, tokenize=False)
            said = text.rsplit("<|im_start|>assistant\n", 1)[1].removesuffix("<|im_end|>\n")
            cases.append({"template": name, "format": form, "text": said, "calls": calls})
    versions = {"trl": trl.__version__, "transformers": transformers.__version__, "jinja2": jinja2.__version__}
    out = ROOT / "tests/golden/tool_calls/rendered.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"versions": versions, "schemas": SCHEMAS, "cases": cases}) + "\n")


main()
