# SPDX-License-Identifier: Apache-2.0
"""The mutator of Python's readers in short: damaged sources are refused, by an error of ours."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "fuzz"))

from fuzz_readers import damaged, disordered, fuzz


def test_damaged_sources_are_refused_by_our_errors() -> None:
    outcomes = fuzz([], 1, lambda cases: cases >= 60)
    assert sum(outcomes.values()) == 360
    refused = {name.split(":")[0] for name in outcomes if name.endswith("Error")}
    assert refused >= {"safetensors", "config", "tokenizer", "gguf", "peft", "gguf-adapter"}
    assert any(name.endswith("opened") for name in outcomes)


def test_a_case_is_its_number() -> None:
    import random

    content = b'{"a": [1, 2, {"b": "text"}], "c": null}' * 3
    assert damaged(content, random.Random(5)) == damaged(content, random.Random(5)) != content
    one = b'{"a": [1, 2, {"b": "text"}], "c": null}'
    assert disordered(one, random.Random(7)) == disordered(one, random.Random(7)) != one
