# SPDX-License-Identifier: Apache-2.0
"""Tokenizer keys that lie: each is refused with a sentence, none crashes the runtime."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Callable

import pytest
from tokenizer_file import tiny_byte_level, tiny_sentencepiece, tokenizer_bytes, write_tokenizer

from rkllm_ext._rkllm import Tokenizer
from rkllm_ext.errors import ModelFileError, UnsupportedModelError
from rkllm_ext.tokenizer import TokenTable

Row = tuple[str, str, Any]
PARTS = ("model", "normalizer", "split")


def rows_of(folder: Path, source: dict[str, Any]) -> list[Row]:
    (folder / "tokenizer.json").write_text(json.dumps(source), "utf-8")
    return TokenTable.from_directory(folder).metadata()


def score_rows(folder: Path) -> list[Row]:
    rows = [row for row in rows_of(folder, tiny_sentencepiece()) if row[0] != "rkllm.tokenizer.merges"]
    return [*changed(rows, "rkllm.tokenizer.model", "score_bpe"), ("tokenizer.ggml.scores", "[f32]", [0.0] * 266)]


def changed(rows: list[Row], name: str, value: Any) -> list[Row]:
    """Return the rows with another value for a key; a function changes the one that is there."""
    assert name in [row[0] for row in rows]
    return [(n, k, (value(v) if callable(value) else value) if n == name else v) for n, k, v in rows]


def at(index: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    """Return a function that replaces one element of a list."""
    return lambda old: [*old[:index], value, *old[index + 1 :]]


REFUSED: dict[str, tuple[str, Any, str]] = {
    "ids below zero": ("tokenizer.ggml.token_type", at(7, 0), "token 7 has type 0, 1 to 6 exist"),
    "types missing": ("tokenizer.ggml.token_type", [1], "token_type has 1 elements for 266 tokens"),
    "no tokens": ("tokenizer.ggml.tokens", [], "tokenizer.ggml.tokens has 0 tokens"),
    "negative byte": ("tokenizer.ggml.tokens", at(5, "<0x-1>"), "byte token 5 is '<0x-1>', not of the form <0x0A>"),
    "lower-case byte": ("tokenizer.ggml.tokens", at(5, "<0x0a>"), "byte token 5 is '<0x0a>'"),
    "byte cut short": ("tokenizer.ggml.tokens", at(5, "<0x0>"), "byte token 5 is '<0x0>'"),
    "byte twice": ("tokenizer.ggml.tokens", at(5, "<0x01>"), "tokens 4 and 5 are both byte 1"),
    "token twice": ("tokenizer.ggml.tokens", at(260, "b"), "tokens 260 and 261 are the same"),
    "merge beyond": ("rkllm.tokenizer.merges", at(0, 266), "merge 0 joins tokens 266 and 260 of a vocabulary of 266"),
    "merge of 2^32-1": ("rkllm.tokenizer.merges", at(3, 2**32 - 1), "merge 1 joins tokens 260 and 4294967295"),
    "half a merge": ("rkllm.tokenizer.merges", [259], "merges has 1 elements, not pairs"),
    "merge to nothing": ("rkllm.tokenizer.merges", [261, 261], "merge 0 joins tokens 261 and 261 to one that the voca"),
    "added beyond": ("rkllm.tokenizer.added_ids", at(2, 266), "added token 266 is outside the vocabulary of 266"),
    "added without flags": ("rkllm.tokenizer.added_flags", [1], "added_flags has 1 elements for 3 added tokens"),
    "unknown flags": ("rkllm.tokenizer.added_flags", at(0, 64), "added token 0 has unknown flags 64"),
    "added twice": ("rkllm.tokenizer.added_ids", at(2, 1), "added tokens 1 and 1 have the same text"),
    "empty added token": ("tokenizer.ggml.tokens", at(1, ""), "added token 1 has 0 bytes, 1 to 4096 can be used"),
    "long added token": ("tokenizer.ggml.tokens", at(1, "x" * 5000), "added token 1 has 5000 bytes"),
    "begin token beyond": ("tokenizer.ggml.bos_token_id", 266, "bos_token_id is 266, the vocabulary has 266 tokens"),
    "unknown token beyond": ("tokenizer.ggml.unknown_token_id", 2**31, "unknown_token_id is 2147483648"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_lies_are_refused(tmp_path: Path, name: str) -> None:
    key, value, sentence = REFUSED[name]
    file = write_tokenizer(tmp_path / "t.rkllm", changed(rows_of(tmp_path, tiny_sentencepiece()), key, value))
    with pytest.raises(ModelFileError) as caught:
        Tokenizer(file)
    assert sentence in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("part", PARTS)
def test_kinds_of_a_later_version_are_refused(tmp_path: Path, part: str) -> None:
    rows = changed(rows_of(tmp_path, tiny_byte_level()), f"rkllm.tokenizer.{part}", "unigram2")
    with pytest.raises(UnsupportedModelError, match=f"rkllm.tokenizer.{part} is 'unigram2', which this version"):
        Tokenizer(write_tokenizer(tmp_path / "t.rkllm", rows))
    rows = changed(rows_of(tmp_path, tiny_byte_level()), "rkllm.tokenizer.normalizer", "mark")
    with pytest.raises(UnsupportedModelError, match="do not go together"):
        Tokenizer(write_tokenizer(tmp_path / "t.rkllm", rows))


@pytest.mark.parametrize("make", [tiny_byte_level, tiny_sentencepiece])
def test_each_needed_key_is_asked_for_by_name_and_each_other_one_may_be_absent(tmp_path: Path, make: Any) -> None:
    rows = rows_of(tmp_path, make())
    needed = {f"rkllm.tokenizer.{part}" for part in PARTS} | {"tokenizer.ggml.tokens", "tokenizer.ggml.token_type"}
    for name, _, _ in rows:
        file = write_tokenizer(tmp_path / "t.rkllm", [row for row in rows if row[0] != name])
        if name not in needed | {"rkllm.tokenizer.added_flags"}:
            Tokenizer(file).close()
            continue
        with pytest.raises(ModelFileError, match=name):
            Tokenizer(file)


@pytest.mark.parametrize("make", [tiny_byte_level, tiny_sentencepiece])
def test_a_key_of_another_type_is_refused(tmp_path: Path, make: Any) -> None:
    rows = rows_of(tmp_path, make())
    for index, (name, kind, _) in enumerate(rows):
        if name == "tokenizer.ggml.model" or name == "tokenizer.ggml.eos_token_id":
            continue  # for viewers
        wrong: Row = (name, "string", "x") if kind != "string" else (name, "[f32]", [0.5])
        with pytest.raises((ModelFileError, UnsupportedModelError), match=name):
            Tokenizer(write_tokenizer(tmp_path / "t.rkllm", [*rows[:index], wrong, *rows[index + 1 :]]))


def test_scores_are_checked(tmp_path: Path) -> None:
    rows = score_rows(tmp_path)
    with Tokenizer(write_tokenizer(tmp_path / "t.rkllm", rows)) as tokenizer:
        assert tokenizer.encode("ab").tolist() == [264]
    for scores, sentence in (([0.0], "scores has 1 elements for 266"), ([float("nan")] * 266, "token 0 has no number")):
        with pytest.raises(ModelFileError, match=sentence):
            Tokenizer(write_tokenizer(tmp_path / "t.rkllm", changed(rows, "tokenizer.ggml.scores", scores)))


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (("rkllm.tokenizer.prefix_ids", "[u32]", [1, 266]), "prefix_ids has 266, the vocabulary has 266 tokens"),
        (("rkllm.tokenizer.alias_ids", "[u32]", [266]), "renamed token 266 is outside the vocabulary of 266"),
        (("rkllm.tokenizer.alias_ids", "[u32]", [1, 2]), "alias_texts has 1 elements for 2 tokens"),
        (("rkllm.tokenizer.alias_texts", "[string]", [""]), "user-defined token 5 has 0 bytes, 1 to 4096"),
        (("rkllm.tokenizer.alias_texts", "[string]", ["x" * 5000]), "user-defined token 5 has 5000 bytes"),
        (("rkllm.tokenizer.alias_texts", "[string]", ["x", "x"]), "alias_texts has 2 elements for 1 tokens"),
    ],
)
def test_prefixes_and_aliases_are_checked(tmp_path: Path, row: Row, sentence: str) -> None:
    more: list[Row] = [("rkllm.tokenizer.alias_ids", "[u32]", [5]), ("rkllm.tokenizer.alias_texts", "[string]", ["x"])]
    rows = [*score_rows(tmp_path), *more, ("rkllm.tokenizer.prefix_ids", "[u32]", [1, 2])]
    with Tokenizer(write_tokenizer(tmp_path / "t.rkllm", rows)) as tokenizer:
        assert tokenizer.encode("bx", add_bos=True).tolist() == [1, 2, 259, 261, 5]
    with pytest.raises(ModelFileError, match=sentence):
        Tokenizer(write_tokenizer(tmp_path / "t.rkllm", [row if row[0] == old[0] else old for old in rows]))


def test_infinite_scores_do_not_go_into_a_unigram_model(tmp_path: Path) -> None:
    rows = changed(score_rows(tmp_path), "rkllm.tokenizer.model", "unigram")
    with Tokenizer(write_tokenizer(tmp_path / "t.rkllm", rows)) as tokenizer:
        assert tokenizer.decode(tokenizer.encode("abab \u6c34")) == "abab \u6c34"
    rows = changed(rows, "tokenizer.ggml.scores", [0.0] * 261 + [float("inf")] * 5)
    with pytest.raises(ModelFileError, match="token 261 has no finite number as its score"):
        Tokenizer(write_tokenizer(tmp_path / "t.rkllm", rows))


def test_infinite_and_equal_scores_merge_from_the_left(tmp_path: Path) -> None:
    infinite = [float("-inf"), -0.0, 0.0, float("inf")] * 66 + [0.0, -0.0]
    rows = changed(score_rows(tmp_path), "tokenizer.ggml.scores", infinite)
    with Tokenizer(write_tokenizer(tmp_path / "t.rkllm", rows)) as tokenizer:
        assert tokenizer.decode(tokenizer.encode("abab  ba é")) == "abab  ba é"


def test_another_version_of_the_format_is_refused(tmp_path: Path) -> None:
    data = tokenizer_bytes(rows_of(tmp_path, tiny_byte_level()))
    name = b"rkllm.version"
    start = data.index(name) + len(name) + 4
    (tmp_path / "t.rkllm").write_bytes(data[:start] + b"\2" + data[start + 1 :])
    with pytest.raises(UnsupportedModelError, match=r"rkllm\.version is 2, this runtime reads 1"):
        Tokenizer(tmp_path / "t.rkllm")


@pytest.mark.parametrize("kind", ["bytes", "pieces", "scores", "unigram"])
def test_altered_bytes_are_refused_or_give_a_tokenizer_that_works(tmp_path: Path, kind: str) -> None:
    makers = {"bytes": tiny_byte_level, "pieces": tiny_sentencepiece}
    rows = rows_of(tmp_path, makers[kind]()) if kind in makers else score_rows(tmp_path)
    if kind == "unigram":
        rows = changed(rows, "rkllm.tokenizer.model", "unigram")
    data = tokenizer_bytes(rows)
    rng = random.Random(5)
    file = tmp_path / "t.rkllm"
    opened = 0
    for _ in range(1500):
        broken = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            broken[rng.randrange(len(broken))] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        file.write_bytes(broken)
        try:
            with Tokenizer(file) as tokenizer:
                opened += 1
                ids = tokenizer.encode(" hello <s>ab\u0301\u6c34 12\n", add_bos=True)
                assert all(0 <= index < tokenizer.vocab_size for index in ids)
                tokenizer.decode(ids)
        except (ModelFileError, UnsupportedModelError) as error:
            assert str(file) in str(error)
    assert opened > 20
