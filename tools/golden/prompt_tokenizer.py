"""Trains the small tokenizer of tests/golden/prompt/checkpoint and writes what it makes of difficult texts (tokens.json).

Byte-level BPE with Qwen's regex, NFC and special tokens, trained on the texts below. Run after any change to the texts.
"""

import json
import pathlib
import random

import tokenizers
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = pathlib.Path(__file__).parents[2] / "tests/golden/prompt"
CHECKPOINT = ROOT / "checkpoint"
QWEN_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
).split()
PLAIN = ["<tool_call>", "</tool_call>", "<|fim_prefix|>"]
CORPUS = """
You are a helpful assistant. What digit is on the red plate? The picture shows a grid of coloured plates; each bears a digit.
I can't read it, so I'll crop the image and zoom in. Let's see: it's in row 2, column 3. They've done what we'd do; don't you're I'm.
<think>The plate is small.</think><code>
```python
from PIL import Image
image = Image.open(image_path)
crop = image.crop((100, 200, 300, 400)).resize((448, 448))
processed_path = "/mnt/data/temp_processed_images/crop.png"
crop.save(processed_path)
print(processed_path)
```
</code><sandbox_output></sandbox_output><answer>7</answer>
图片里有一个红色的盘子。上面的数字是多少?请先裁剪图像再回答问题。 Привет, как дела? Größe Übung naïve café
""" * 3

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "What digit is on the red plate?",
    "I'LL say it'S what they'Ve done; don't, we'd, I'm, you're",
    "  two  spaces   three\ttab\t\ttabs \n newline\n\n\nlines\r\ncrlf \r\n \n end  ",
    "trailing spaces   ",
    "\n\n  indented = 12345678901 + 3.14e-10\n",
    "图片里有一个红色的盘子。上面的数字是多少?",
    "Привет, как дела? Größe",
    "cafe\u0301 nai\u0308ve A\u030angstro\u0308m \u212b \u2126 \ufb01 \u1e9b\u0323",
    "\u1112\u1161\u11ab \u1100\u116e\u11a8 한국",
    "\u0958 \u09dc \u2adc \U0001d15e",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽 \U0001f9ff",
    "שלום عليكم नमस्ते ไทย",
    "½ ² Ⅷ ٣ ೪ 𝟜",
    "\u00a0nbsp\u2003em\u200bzero\u3000wide\u2028line\u0085nel\u000bvt\u000cff\u001fus",
    "\u0000\u0001\u007f\u00ad\ufeff\ufffd\U0010ffff",
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>\n<|im_start|>assistant\n",
    "<|image_pad|><|image_pad|> <|image_pad|>x<|image_pad",
    "<|endoftext|>\u0301 <|im_end|>e\u0301",
    "<tool_call>\n{\"name\": \"crop\"}\n</tool_call> <|fim_prefix|> <|vision_pad|> <|IM_END|>",
    "x" * 300,
    "a" + "\u0301" * 20,
    "ﷺ ㎏ ｶﾞ ①",
    "don’t “quote” — dash… • bullet",
    "for i in range(10):\n    if i % 2 == 0:\n        print(f\"{i:>3}\")\n",
]


def random_texts(count):
    """Texts of mixed scripts, marks, spaces and special tokens."""
    draw = random.Random(7)
    blocks = [(32, 126), (0xC0, 0x24F), (0x300, 0x36F), (0x400, 0x4FF), (0x1100, 0x11FF), (0x4E00, 0x4EFF), (0x1F300, 0x1F64F)]
    for _ in range(count):
        pieces = []
        for _ in range(draw.randrange(1, 25)):
            kind = draw.random()
            if kind < 0.1:
                pieces.append(draw.choice(SPECIAL + PLAIN))
            elif kind < 0.3:
                pieces.append(draw.choice([" ", "  ", "\n", "\r\n", "\t", " \n", "'s", "'LL", "12"]))
            else:
                low, high = draw.choice(blocks)
                pieces.append("".join(chr(draw.randint(low, high)) for _ in range(draw.randrange(1, 5))))
        yield "".join(pieces)


def train():
    tokenizer = Tokenizer(models.BPE(dropout=None, unk_token=None, fuse_unk=False, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_REGEX), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False, special_tokens=[])
    tokenizer.train_from_iterator([CORPUS], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in PLAIN])
    return tokenizer


def main():
    CHECKPOINT.mkdir(parents=True, exist_ok=True)
    train().save(str(CHECKPOINT / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 131072,
        "chat_template": (ROOT / "templates/tools.jinja").read_text(),
    }
    write_json(CHECKPOINT / "tokenizer_config.json", config, indent=2)
    write_json(CHECKPOINT / "chat_template.json", {"chat_template": (ROOT / "templates/vision.jinja").read_text()}, indent=2)
    preprocessor = {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }
    write_json(CHECKPOINT / "preprocessor_config.json", preprocessor, indent=2)

    tokenizer = transformers.AutoTokenizer.from_pretrained(CHECKPOINT)
    cases = []
    for text in TEXTS + list(random_texts(60)):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        plain = tokenizer.decode(ids, skip_special_tokens=True)
        cases.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids), "decoded_plain": plain})
    draw = random.Random(11)
    for _ in range(30):
        ids = [draw.randrange(len(tokenizer)) for _ in range(draw.randrange(1, 40))]
        plain = tokenizer.decode(ids, skip_special_tokens=True)
        cases.append({"text": None, "ids": ids, "decoded": tokenizer.decode(ids), "decoded_plain": plain})
    versions = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
    write_json(ROOT / "tokens.json", {"versions": versions, "len": len(tokenizer), "cases": cases})


def write_json(path, value, indent=None):
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=indent is None) + "\n")


main()
