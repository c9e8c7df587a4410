# SPDX-License-Identifier: Apache-2.0
"""tokenizer.json: each known structure of normalizer, pre-tokenizer, decoder and post-processor, and its name here."""

from __future__ import annotations

import json
import re
from typing import Any

from ..errors import ModelFileError, UnsupportedModelError
from .vocabulary import (
    BYTE,
    LSTRIP,
    NORMAL,
    NORMALIZED,
    RSTRIP,
    SINGLE_WORD,
    SPECIAL,
    UNUSED,
    Vocabulary,
    check_texts,
    merge_pairs,
)

_MARK = "\u2581"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {_WORDS + r"\p{N}{1,3}" + _REST: "llama3", _WORDS + r"\p{N}" + _REST: "qwen2"}
_AT_SPACES = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
_FLAGS = {"special": SPECIAL, "lstrip": LSTRIP, "rstrip": RSTRIP, "normalized": NORMALIZED, "single_word": SINGLE_WORD}


def vocabulary_of_json(source: dict[str, Any], where: str) -> Vocabulary:
    """Return the vocabulary of a parsed tokenizer.json.

    Raises
    ------
    ModelFileError
        It is damaged: ids, merges or tokens do not fit together.
    UnsupportedModelError
        It has a part that is not known here; the message shows it.
    """
    model = _object(source.get("model"), where, "model")
    by_bytes = _decodes_bytes(source.get("decoder"), where)
    normalizer = _normalizer(source.get("normalizer"), where)
    steps = source.get("pre_tokenizer")
    if normalizer.startswith("mark") and steps == _AT_SPACES:
        steps = None  # every space is a mark by then: nothing is split
    split, marks = _pre_tokenizer(steps, where)
    if marks:
        if normalizer != "none":
            raise _unknown(where, "normalizer beside Metaspace", source.get("normalizer"))
        normalizer = marks
    if (split == "none") == by_bytes or normalizer.startswith("mark") == by_bytes:
        raise _unknown(where, "combination of pre_tokenizer and decoder", source.get("pre_tokenizer"))
    _check_model(model, by_bytes, where)
    ids = _ids(model.get("vocab"), where)
    size = max(ids.values()) + 1
    tokens = [""] * size
    types = [UNUSED] * size
    for text, index in ids.items():
        tokens[index] = text
        types[index] = NORMAL if by_bytes or not _is_byte(text, model, where) else BYTE
    vocabulary = Vocabulary(
        model="byte_bpe" if by_bytes else "rank_bpe",
        normalizer=normalizer,
        split=split,
        tokens=tokens,
        types=types,
        merges=merge_pairs(_pairs(model.get("merges"), where), ids, where),
        unknown=_unknown_id(model.get("unk_token"), ids, where),
        ignore_merges=bool(model.get("ignore_merges")),
        fuse_unknown=bool(model.get("fuse_unk")),
        strip_space=not by_bytes and len(source["decoder"]["decoders"]) == 4,
    )
    if by_bytes and vocabulary.unknown is not None and len({t for t in tokens if len(t) == 1}) < 256:
        raise UnsupportedModelError(f"{where}: a byte-level vocabulary without all bytes, with an unknown token")
    for row in _array(source.get("added_tokens"), where, "added_tokens"):
        index, text, flags = added_token(_object(row, where, "added token"), where)
        vocabulary.add(index, text, flags, where)
    check_texts(vocabulary.tokens, where)
    if marks == "mark" and any(flags & NORMALIZED for flags in vocabulary.added.values()):
        raise _unknown(where, "pre_tokenizer beside added tokens that are normalized", source.get("pre_tokenizer"))
    return vocabulary


def added_token(row: dict[str, Any], where: str, index: Any = None) -> tuple[int, str, int]:
    """Return id, text and flags of an added token as tokenizer.json and tokenizer_config.json describe one."""
    index = row.get("id") if index is None else index
    text = row.get("content")
    if not isinstance(index, int) or isinstance(index, bool) or not isinstance(text, str):
        raise ModelFileError(f"{where}: added token {text!r} has the id {index!r}")
    return index, text, sum(bit for name, bit in _FLAGS.items() if row.get(name))


def begin_token(post_processor: Any, where: str) -> str | None:
    """Return the token that the post-processor puts in front of a text; None when there is none.

    Raises
    ------
    UnsupportedModelError
        It does anything else to a text.
    """
    if post_processor is None:
        return None
    step = _object(post_processor, where, "post_processor")
    if step.get("type") == "ByteLevel":
        return None
    if step.get("type") == "Sequence" and isinstance(step.get("processors"), list):
        found = [text for each in step["processors"] if (text := begin_token(each, where)) is not None]
        if len(found) <= 1:
            return found[0] if found else None
    if step.get("type") == "TemplateProcessing" and isinstance(step.get("single"), list):
        pieces = step["single"]
        kinds = [next(iter(piece), None) if isinstance(piece, dict) else None for piece in pieces]
        if kinds == ["Sequence"]:
            return None
        if kinds == ["SpecialToken", "Sequence"]:
            text = _object(pieces[0]["SpecialToken"], where, "post_processor.single").get("id")
            if isinstance(text, str):
                return text
    raise _unknown(where, "post_processor", post_processor)


def _normalizer(step: Any, where: str) -> str:
    steps = _steps(step, "normalizers")
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _MARK}
    known: list[tuple[list[Any], str]] = [
        ([], "none"),
        ([{"type": "NFC"}], "nfc"),
        ([replace], "mark"),
        ([{"type": "Prepend", "prepend": _MARK}, replace], "mark_prepend"),
    ]
    for form, name in known:
        if steps == form:
            return name
    raise _unknown(where, "normalizer", step)


def _pre_tokenizer(step: Any, where: str) -> tuple[str, str]:
    # The name of the split, and the name of the normalizer where the step does the work of one.
    steps = _steps(step, "pretokenizers")
    if not steps:
        return "none", ""
    first = steps[0] if isinstance(steps[0], dict) else {}
    if len(steps) == 1 and first.get("type") == "Metaspace":
        names = {"first": "mark_first", "never": "mark"}
        if first.get("replacement") == _MARK and first.get("split") is False and first.get("prepend_scheme") in names:
            return "none", names[first["prepend_scheme"]]
    if len(steps) == 1 and _is_byte_level(first, use_regex=True):
        return "gpt2", ""
    if len(steps) == 2 and first == {"type": "Digits", "individual_digits": True}:
        if _is_byte_level(steps[1], use_regex=True):
            return "digits_gpt2", ""
    elif len(steps) == 2 and first.get("type") == "Split" and _is_byte_level(steps[1], use_regex=False):
        pattern = first.get("pattern")
        name = _SPLITS.get(pattern.get("Regex", "")) if isinstance(pattern, dict) else None
        if name and first.get("behavior") == "Isolated" and not first.get("invert"):
            return name, ""
    raise _unknown(where, "pre_tokenizer", step)


def _is_byte_level(step: Any, use_regex: bool) -> bool:
    return (
        isinstance(step, dict)
        and step.get("type") == "ByteLevel"
        and step.get("add_prefix_space") is False
        and step.get("use_regex", True) is use_regex
    )


def _decodes_bytes(step: Any, where: str) -> bool:
    # True: byte-level; False: space marks and byte tokens.
    if isinstance(step, dict) and step.get("type") == "ByteLevel":
        return True
    marks = [
        {"type": "Replace", "pattern": {"String": _MARK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    if isinstance(step, dict) and step.get("type") == "Sequence" and step.get("decoders") in (marks, [*marks, strip]):
        return False
    raise _unknown(where, "decoder", step)


def _check_model(model: dict[str, Any], by_bytes: bool, where: str) -> None:
    if model.get("type", "BPE") != "BPE":
        raise _unknown(where, "model", model.get("type"))
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise _unknown(where, f"model.{name}", model[name])
    if by_bytes and model.get("byte_fallback"):
        raise _unknown(where, "model.byte_fallback of a byte-level model", True)
    if model.get("ignore_merges") and not by_bytes:
        raise _unknown(where, "model.ignore_merges without byte level", True)


def _unknown_id(text: Any, ids: dict[str, int], where: str) -> int | None:
    if text is not None and not isinstance(text, str):
        raise ModelFileError(f"{where}: model.unk_token is {text!r}, not a token")
    return ids.get(text) if text else None


def _is_byte(text: str, model: dict[str, Any], where: str) -> bool:
    if not re.fullmatch(r"<0x[+0-9A-Fa-f][0-9A-Fa-f]>", text):
        return False
    if not model.get("byte_fallback") or text != text[:3] + text[3:5].upper() + ">" or "+" in text:
        raise UnsupportedModelError(f"{where}: the token {text!r} decodes to a byte but does not encode one")
    return True


def _ids(vocab: Any, where: str) -> dict[str, int]:
    ids: dict[str, int] = _object(vocab, where, "model.vocab")
    values = list(ids.values())
    if not values or any(not isinstance(index, int) or isinstance(index, bool) for index in values):
        raise ModelFileError(f"{where}: model.vocab does not map tokens to ids")
    if min(values) < 0 or max(values) > 2 * len(values) + (1 << 16) or len(set(values)) != len(values):
        raise ModelFileError(f"{where}: the ids of model.vocab are not the numbers of its {len(values)} tokens")
    return ids


def _pairs(merges: Any, where: str) -> list[tuple[str, str]]:
    pairs = []
    for rank, row in enumerate(merges if isinstance(merges, list) else []):
        parts = row.split(" ") if isinstance(row, str) else row
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise ModelFileError(f"{where}: merge {rank} is {row!r}, not two tokens")
        pairs.append((parts[0], parts[1]))
    return pairs


def _steps(step: Any, name: str) -> list[Any]:
    if step is None:
        return []
    if isinstance(step, dict) and step.get("type") == "Sequence":
        steps = step.get(name)
        return steps if isinstance(steps, list) else [step]
    return [step]


def _object(value: Any, where: str, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ModelFileError(f"{where}: {name} is a {type(value).__name__}, expected an object")
    return value


def _array(value: Any, where: str, name: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise ModelFileError(f"{where}: {name} is a {type(value).__name__}, expected an array")
    return value or []


def _unknown(where: str, name: str, value: Any) -> UnsupportedModelError:
    shown = json.dumps(value, ensure_ascii=False)
    return UnsupportedModelError(f"{where}: this {name} is not supported: {shown[:300]}")
