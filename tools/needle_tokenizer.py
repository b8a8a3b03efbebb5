"""Trains the byte-level BPE tokenizer of the tiny model and writes it beside the model's configuration.

Usage: python tools/needle_tokenizer.py [recipes/tiny]     (needs the `tokenizers` package)

Every word of the needle task becomes one token; the words of the longer think-with-code prompts become a few tokens each.
The pre-tokenizer, the normaliser and the special tokens are those of Qwen2.5-VL, so any byte string can be encoded.
"""
import json
import pathlib
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

VOCABULARY = 768  # config.json's vocab_size; the special tokens take the last ids that are used
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]
QWEN_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
              r"|\s*[\r\n]+|\s+(?!\S)|\s+")

COLOURS = "red green blue yellow cyan pink white orange".split()
NUMBERS = "one two three four".split()


def needle_texts():
    """The texts of src/tasks/needle/mod.rs, each sentence with every word it can hold."""
    texts = [
        "Think in <think>, answer in <answer>. You may run Python in <code>: a ```python fence; <sandbox_output> shows its output.",
        "system\nuser\nassistant\n",
        "Name the colour of every cell.", "Where is each plate?", "Read the digits.",
        " I can tell at a glance: it is 4.</think>\n<answer>4</answer>",
        " Let me look closer.<code>\n```python\nfrom PIL import Image\nx, y = 3*224-144, 2*224-144\n"
        "processed_path = temp_output_dir + \"/crop.png\"\n"
        "Image.open(image_path).crop((x, y, x+64, y+64)).save(processed_path)\nprint(processed_path)\n```\n</code>",
        "<sandbox_output><image></sandbox_output> The plate is red. The digit is 7.</think>\n<answer>7</answer>",
        "Sandbox: Code execution failed, timed out, no output captured.",
    ]
    for colour in COLOURS:
        texts += [f"What digit is on the {colour} plate?", f" one {colour} two none three {colour} four {colour}"]
        for number in NUMBERS:
            texts += [f"<think>The {colour} plate is in row {number}, column {number}.", f"Row {number}: {colour} none\nrow {number}:"]
    return texts


def thyme_texts():
    """The vocabulary of the general think-with-code prompts."""
    return [
        "You are a helpful assistant.\n\nSolve the following problem step by step, and optionally write Python code for image "
        "manipulation to enhance your reasoning process. The Python code will be executed by an external sandbox, and the processed "
        "image or result (wrapped in <sandbox_output></sandbox_output>) can be returned to aid your reasoning and help you arrive "
        "at the final answer.\n\n**Reasoning & Image Manipulation (Optional but Encouraged):**\n",
        "    * You have the capability to write executable Python code to perform image manipulations (e.g., cropping to a Region of "
        "Interest, resizing, rotation, adjusting contrast) or perform calculation for better reasoning.\n    * The code will be "
        "executed in a secure sandbox, and its output will be provided back to you for further analysis.\n    * All Python code "
        "snippets **must** be wrapped as follows:\n<code>\n```python\n# your code.\n```\n</code>\n    * At the end of the code, "
        "print the path of the processed image (processed_path) or the result for further processing in a sandbox environment.",
        "### User Image Path:** \"image.png\"\n### User Image Size:** \"896x896\"\n\n### **Output Format (strict adherence "
        "required):**\n\n<think>Your detailed reasoning process, including any code, should go here.</think>\n<answer>Your final "
        "answer to the user's question goes here.</answer>\n",
    ]


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "recipes/tiny")
    tokenizer = Tokenizer(models.BPE(byte_fallback=False, fuse_unk=False, ignore_merges=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL), min_frequency=1, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(needle_texts() * 50 + thyme_texts(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    assert tokenizer.get_vocab_size() <= VOCABULARY, tokenizer.get_vocab_size()

    added = {str(tokenizer.token_to_id(token)): {
        "content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True,
    } for token in SPECIAL}
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "add_prefix_space": False, "added_tokens_decoder": added, "additional_special_tokens": SPECIAL[1:], "bos_token": None,
        "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 4096,
        "pad_token": "<|endoftext|>", "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    }, indent=2) + "\n")
    for token in SPECIAL:
        print(tokenizer.token_to_id(token), token)
    print("vocabulary", tokenizer.get_vocab_size())
    for text in needle_texts()[:9]:
        print(tokenizer.encode(text).tokens)


if __name__ == "__main__":
    main()
