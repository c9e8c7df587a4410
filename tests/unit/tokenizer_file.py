# SPDX-License-Identifier: Apache-2.0
"""Tokenizer-only files for tests, two tiny tokenizers in the form of tokenizer.json, and texts that try everything."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gguf_bytes import BOOL, F32, I32, STRING, U32, array, gguf, key

_KINDS = {"u32": U32, "i32": I32, "f32": F32, "bool": BOOL, "string": STRING}
HEAD = [
    ("general.architecture", "string", "rkllm"),
    ("general.type", "string", "tokenizer"),
    ("rkllm.version", "u32", 1),
    ("rkllm.required", "[string]", []),
]


def tokenizer_bytes(rows: Iterable[tuple[str, str, Any]]) -> bytes:
    """Return a file that holds these keys and no tensors."""
    keys = []
    for name, kind, value in [*HEAD, *rows]:
        make = array if kind.startswith("[") else key
        keys.append(make(name, _KINDS[kind.strip("[]")], value))
    return gguf(keys)


def write_tokenizer(path: Path, rows: Iterable[tuple[str, str, Any]]) -> Path:
    """Write a file that holds these keys and no tensors."""
    path.write_bytes(tokenizer_bytes(rows))
    return path


def byte_alphabet() -> list[str]:
    """Return the printable character of each byte in byte-level BPE."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def added(index: int, content: str, **flags: bool) -> dict[str, Any]:
    """Return an added token of tokenizer.json."""
    names = ("special", "lstrip", "rstrip", "normalized", "single_word")
    return {"id": index, "content": content, **{name: flags.get(name, False) for name in names}}


def tiny_byte_level() -> dict[str, Any]:
    """Return a byte-level tokenizer.json: ids are bytes, then the merges, then <|end|> as 260."""
    merges = [["h", "e"], ["l", "l"], ["Ġ", "he"], ["Ġhe", "ll"]]
    vocab = {text: index for index, text in enumerate([*byte_alphabet(), *("".join(pair) for pair in merges)])}
    return {
        "added_tokens": [added(260, "<|end|>", special=True)],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "vocab": vocab, "merges": merges},
    }  # fmt: skip


def tiny_sentencepiece() -> dict[str, Any]:
    """Return a SentencePiece-style tokenizer.json: <unk> <s> </s>, bytes from 3, pieces from 259."""
    pieces = ["▁", "a", "b", "▁a", "ab", "▁ab", "▁▁"]
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    return {
        "added_tokens": [added(index, texts[index], special=True) for index in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing", "single": single, "pair": pair,
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                  "vocab": {text: index for index, text in enumerate(texts)},
                  "merges": [["▁", "a"], ["a", "b"], ["▁", "ab"], ["▁a", "b"], ["▁", "▁"]]},
    }  # fmt: skip


# ---- random texts ----

_SPACES = " \t\n\r\x0b\x0c\x85\xa0\u2028\u3000\u200b\u200d\ufeff\x00\x1c\x1f"
_LINES = ("\r\n", "\n\n", " \n", "\n ", "  ", "   ", " \r\n ")
_BASES = "aeouAEOn\u1100\u1112\u0915\u09c7\u1e9b\u0f71\u03b1"
_MARKS = "\u0323\u0307\u0345\u0334\u3099\u093c\u1161\u11a8\u0f72\u0f71\u0f80\u09be\u1dce\u20d0\ufe20\u1df5\u0301\u0308"
_DIGITS = "0123456789\u0660\u0966\u2160\u00bd\u00b2\U0001d7d8\uff11"
_SUFFIXES = ("s", "S", "t", "re", "RE", "Ve", "ll", "lL", "d", "D", "m", "\u017f", "l", "v", "x")


def _any_character(rng: random.Random) -> str:
    # Unassigned characters of the lower planes are left out: the versions of `tokenizers` know different ones.
    while True:
        code = rng.randrange(rng.choice((0x80, 0x3000, 0x30000, 0x110000)))
        if 0xD800 <= code < 0xE000 or (code < 0x40000 and unicodedata.category(chr(code)) == "Cn"):
            continue
        return chr(code)


def _part(rng: random.Random, special: list[str], words: list[str]) -> str:
    kind = rng.randrange(16)
    if kind == 0:
        return rng.choice(_SPACES) * rng.choice((1, 1, 2, 3, 7))
    if kind == 1:
        return rng.choice(_LINES)
    if kind <= 3:
        return _any_character(rng)
    if kind == 4:
        return chr(rng.randrange(0xAC00, 0xD7A4)) + rng.choice(("", "\u11a8", "\u1161"))
    if kind == 5:
        return rng.choice(_BASES) + "".join(rng.choice(_MARKS) for _ in range(rng.randrange(1, 5)))
    if kind == 6:
        return "".join(rng.choice(_DIGITS) for _ in range(rng.randrange(1, 9)))
    if kind == 7:
        return rng.choice("'\u2019") + rng.choice(_SUFFIXES)
    if kind == 8:
        return rng.choice(special)[: rng.choice((1, 3, 99, 99))]
    if kind == 9:
        return rng.choice("ab \u2581_") * rng.randrange(1, 60)
    if kind == 10:
        return rng.choice(("\u2581", "<0x0A>", "<0xE6>", "\U0001f468\u200d\U0001f469", "\U0001f3fd\ufe0f"))
    return rng.choice(words)


def random_text(rng: random.Random, special: list[str], words: list[str]) -> str:
    """Return a text of any planes: marks, zero-width characters, line ends, digit runs, long words, special tokens."""
    return "".join(_part(rng, special, words) for _ in range(rng.choice((1, 2, 3, 5, 8, 13, 30, 80))))


def words_of(text: str, count: int = 5000) -> list[str]:
    """Return pieces of a text, the same ones each time."""
    rng = random.Random(1)
    starts = [rng.randrange(max(1, len(text) - 30)) for _ in range(count)]
    return [text[start : start + rng.randrange(1, 30)] for start in starts]
