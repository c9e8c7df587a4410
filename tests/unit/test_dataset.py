# SPDX-License-Identifier: Apache-2.0
"""Calibration datasets: the vendor's JSON list, errors that name the entry, the built-in texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rkllm_ext.errors import InvalidArgumentError
from rkllm_ext.quant.dataset import read_texts
from rkllm_ext.quant.recipe import Recipe


def write(folder: Path, value: Any) -> Path:
    path = folder / "data.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_an_entry_is_its_input_and_its_target(tmp_path: Path) -> None:
    entries = [
        {"input": "Human: 你好！\nAssistant: ", "target": "你好！"},
        {"input": "What is it?", "target": "A test."},
        {"input": "", "target": "alone", "source": "kept out"},
    ]
    assert read_texts(write(tmp_path, entries)) == [
        "Human: 你好！\nAssistant: 你好！",
        "What is it?\nA test.",
        "alone",
    ]


def test_the_built_in_texts_are_of_several_languages_and_code() -> None:
    texts = read_texts()
    whole = "".join(texts)
    assert len(whole) > 8000
    assert sum("\u4e00" <= char <= "\u9fff" for char in whole) > 500
    assert sum("```" in text or "def " in text for text in texts) >= 4
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([], "is an empty list; a list of"),
        ({"input": "a", "target": "b"}, "is a JSON dict; a list of"),
        ([{"input": "a", "target": "b"}, "text"], "entry 1 is a JSON str"),
        ([{"input": "a"}], 'entry 0 has no "target"'),
        ([{"input": "a", "target": 5}], 'entry 0: "target" is a JSON int; text is needed'),
        ([{"input": " ", "target": "\n"}], "entry 0 holds no text"),
        ('[{"input": "a",]', "is not JSON at line 1, column 16"),
        ("[" * 100_000, "is not usable JSON"),
    ],
)
def test_a_wrong_dataset_is_refused_and_the_entry_named(tmp_path: Path, value: Any, sentence: str) -> None:
    path = write(tmp_path, value)
    with pytest.raises(InvalidArgumentError, match=f"dataset {path}: ") as caught:
        read_texts(path)
    assert sentence in str(caught.value)


def test_a_dataset_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"none.json: cannot be read: No such file"):
        read_texts(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'[{"input": "\xe4"}]')
    with pytest.raises(InvalidArgumentError, match="is not UTF-8 at byte 12"):
        read_texts(tmp_path / "latin.json")


def test_a_recipe_is_identified_by_its_arguments_and_the_content_of_its_files(tmp_path: Path) -> None:
    data = write(tmp_path, [{"input": "a", "target": "b"}])
    first = Recipe("w8a8", dataset=data).identity()
    moved = data.rename(tmp_path / "moved.json")
    assert Recipe("w8a8", dataset=str(moved)).identity() == first
    assert Recipe("w8a8").identity() != first
    assert Recipe("w4a16", dataset=moved).identity() != first
    write(tmp_path, [{"input": "a", "target": "c"}]).replace(moved)
    assert Recipe("w8a8", dataset=moved).identity() != first
