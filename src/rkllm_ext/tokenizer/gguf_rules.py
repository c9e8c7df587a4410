# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of a GGUF file, from its tokenizer.ggml keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ModelFileError, UnsupportedModelError
from .vocabulary import (
    CONTROL,
    IN_MODEL,
    NORMAL,
    SPECIAL,
    UNKNOWN,
    USER_DEFINED,
    Vocabulary,
    check_texts,
    merge_pairs,
)

# tokenizer.ggml.pre: split, normalizer, whether a word that is a token ignores the merges.
_PRE = {
    "gpt-2": ("gpt2", "none", False),
    "phi-2": ("gpt2", "none", False),
    "smollm": ("digits_gpt2", "none", False),
    "llama-bpe": ("llama3", "none", True),
    "llama3": ("llama3", "none", True),
    "llama-v3": ("llama3", "none", True),
    "qwen2": ("qwen2", "nfc", False),
}
_WHERE = "the GGUF file"


def vocabulary_of_gguf(values: Mapping[str, Any]) -> tuple[Vocabulary, bool]:
    """Return the vocabulary, and whether a begin token is put first where the file does not say.

    Raises
    ------
    ModelFileError
        Keys are missing or do not fit together.
    UnsupportedModelError
        The tokenizer is of a kind that is not known here.
    """
    kind = values.get("tokenizer.ggml.model")
    if kind is None:
        raise ModelFileError(f"{_WHERE} has no tokenizer (tokenizer.ggml.model is missing)")
    if kind == "gpt2":
        return _byte_level(values), values.get("tokenizer.ggml.pre") in ("llama-bpe", "llama3", "llama-v3")
    if kind == "llama":
        return _sentencepiece(values), True
    raise UnsupportedModelError(f"{_WHERE}: a tokenizer of the kind {kind!r} is not supported; gpt2 and llama are")


def _byte_level(values: Mapping[str, Any]) -> Vocabulary:
    pre = values.get("tokenizer.ggml.pre")
    if pre not in _PRE:
        raise UnsupportedModelError(
            f"{_WHERE}: tokenizer.ggml.pre is {pre!r}; known are {', '.join(_PRE)}. "
            "Without it the words of the text cannot be told apart; convert the original checkpoint instead"
        )
    split, normalizer, ignore_merges = _PRE[pre]
    tokens, types = _tokens(values)
    ids = {text: index for index, text in enumerate(tokens)}
    merges = _list(values, "tokenizer.ggml.merges", str)
    pairs = []
    for rank, row in enumerate(merges):
        parts = row.split(" ")
        if len(parts) != 2:
            raise ModelFileError(f"{_WHERE}: merge {rank} is {row!r}, not two tokens")
        pairs.append((parts[0], parts[1]))
    vocabulary = Vocabulary(
        model="byte_bpe",
        normalizer=normalizer,
        split=split,
        tokens=tokens,
        types=types,
        merges=merge_pairs(pairs, ids, _WHERE),
        ignore_merges=ignore_merges,
    )
    # Whether an added token is in the model's own vocabulary, too, is not on record. It matters only where merges lead
    # to one, or where they are ignored.
    vocabulary.added = _added(types, 0 if ignore_merges else IN_MODEL)
    return vocabulary


def _sentencepiece(values: Mapping[str, Any]) -> Vocabulary:
    if values.get("tokenizer.ggml.remove_extra_whitespaces"):
        raise UnsupportedModelError(f"{_WHERE}: removing extra whitespaces is not supported")
    if len(values.get("tokenizer.ggml.precompiled_charsmap", ())):
        raise UnsupportedModelError(f"{_WHERE}: a SentencePiece normalizer is not supported")
    tokens, types = _tokens(values)
    scores = _list(values, "tokenizer.ggml.scores", float)
    if len(scores) != len(tokens):
        raise ModelFileError(f"{_WHERE}: tokenizer.ggml.scores has {len(scores)} elements for {len(tokens)} tokens")
    prefix = bool(values.get("tokenizer.ggml.add_space_prefix", True))
    added = _added(types, 0)
    if not prefix:  # there it makes no difference to other tokens, and the spaces of user-defined ones are marks
        added = {index: flags for index, flags in added.items() if types[index] != USER_DEFINED}
    return Vocabulary(
        model="score_bpe",
        normalizer="mark_prepend" if prefix else "mark",
        split="none",
        tokens=tokens,
        types=types,
        scores=scores,
        added=added,
        unknown=optional_id(values, "unknown", len(tokens)) if "tokenizer.ggml.unknown_token_id" in values
        else next((index for index, kind in enumerate(types) if kind == UNKNOWN), None),
        fuse_unknown=True,
        strip_space=prefix,
    )  # fmt: skip


def optional_id(values: Mapping[str, Any], name: str, size: int) -> int | None:
    """Return the id that tokenizer.ggml.<name>_token_id holds, None when the file has no such key.

    Raises
    ------
    ModelFileError
        It is outside the vocabulary.
    """
    index = values.get(f"tokenizer.ggml.{name}_token_id")
    if index is not None and (isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < size):
        raise ModelFileError(f"{_WHERE}: tokenizer.ggml.{name}_token_id is {index!r}, the vocabulary has {size} tokens")
    return index


def _tokens(values: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    tokens = _list(values, "tokenizer.ggml.tokens", str)
    types = _list(values, "tokenizer.ggml.token_type", int) if "tokenizer.ggml.token_type" in values else []
    types = types or [NORMAL] * len(tokens)
    if not tokens or len(types) != len(tokens):
        raise ModelFileError(f"{_WHERE}: tokenizer.ggml.token_type has {len(types)} elements for {len(tokens)} tokens")
    check_texts(tokens, _WHERE)
    return tokens, types


def _added(types: list[int], flags: int) -> dict[int, int]:
    kinds = {CONTROL: SPECIAL, UNKNOWN: SPECIAL, USER_DEFINED: 0}
    return {index: kinds[kind] | flags for index, kind in enumerate(types) if kind in kinds}


def _list(values: Mapping[str, Any], key: str, element: type) -> list[Any]:
    if key not in values:
        raise ModelFileError(f"{_WHERE}: the key {key} is missing")
    found = values[key].tolist() if hasattr(values[key], "tolist") else values[key]
    if not isinstance(found, list) or not all(isinstance(item, element) for item in found):
        raise ModelFileError(f"{_WHERE}: {key} is not an array of {element.__name__}")
    return found
