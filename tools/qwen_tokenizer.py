"""Makes the tokenizer of Qwen2-VL and Qwen2.5-VL, 151,665 tokens, without a checkpoint: the `dashscope` package on PyPI has its ranks.

Usage: pip download --no-deps dashscope && python tools/qwen_tokenizer.py dashscope-*.whl FOLDER     (needs the `tokenizers` package)

FOLDER/tokenizer.json has the released vocabulary, merges, pre-tokenizer, normaliser and special tokens, for whatever depends on their number:
`cargo bench --bench grammar -- FOLDER`.
"""
import base64
import pathlib
import sys
import zipfile

from needle_tokenizer import QWEN_SPLIT, SPECIAL
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

# Tokens of the chat format that stand in texts as they are.
MARKUP = [
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
]


def letters():
    """A printable letter for each byte, as GPT-2's byte-level BPE has them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def parts(token, ranks):
    """The two tokens that merge into `token`: what is left of its bytes when all earlier merges are made."""
    pieces = [bytes([byte]) for byte in token]
    while len(pieces) > 2:
        rank, place = min((ranks.get(a + b, len(ranks)), i) for i, (a, b) in enumerate(zip(pieces, pieces[1:])))
        assert rank < ranks[token], f"{token} is not made of two tokens"
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    return pieces


def main():
    wheel, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    lines = zipfile.ZipFile(wheel).read("dashscope/resources/qwen.tiktoken").split(b"\n")
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
    letter = letters()
    text = lambda token: "".join(letter[byte] for byte in token)
    merges = [tuple(map(text, parts(token, ranks))) for token in ranks if len(token) > 1]
    tokenizer = Tokenizer(models.BPE({text(token): rank for token, rank in ranks.items()}, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKUP])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    print(f"{folder / 'tokenizer.json'}: {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
