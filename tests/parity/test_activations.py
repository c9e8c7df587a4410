# SPDX-License-Identifier: Apache-2.0
"""8-bit activations for 4-bit weights, asked for by name: how near they are to 16-bit ones, and as reproducible.

Distances are mean KL divergences of the next-token distributions; bounds are the measured values with a half on top.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models import SHARED, Converter, logits_do_not_depend_on_threads_or_chunks, some_ids
from numpy.typing import NDArray

import rkllm_ext
from rkllm_ext.errors import InvalidArgumentError
from rkllm_ext.session import step_together

SOURCES = ["tiny-w4a16", "tiny-w4a16_g32", "tiny-w4a16_g64", "wide-w4a16_g128"]


@pytest.fixture(params=SOURCES)
def model(request: pytest.FixtureRequest, tiny_llama: Path, converted: Converter) -> Path:
    source, dtype = request.param.split("-")
    if source == "wide" and not SHARED.is_dir():
        pytest.skip("needs the shared data beside the repository")
    return converted(tiny_llama if source == "tiny" else SHARED / "reference" / "qwen2-g512-bf16", dtype)


def test_logits_do_not_depend_on_threads_or_chunks(model: Path) -> None:
    logits_do_not_depend_on_threads_or_chunks(model, "int8")


def test_sessions_decode_with_the_bits_of_a_prefill(model: Path) -> None:
    with rkllm_ext.LLM(model, max_context_len=64, activations="int8") as llm:
        ids = some_ids(llm, 40)
        expected = llm.logits(ids)
        with llm.session() as session, llm.session() as other:
            session.prefill(ids[:30])
            other.prefill(ids[:7])
            for position in range(30, 40):
                step_together([session, other], [int(ids[position]), int(ids[position - 23])])
                assert np.array_equal(session.logits, expected[position])
                assert np.array_equal(other.logits, expected[position - 23])


def test_the_default_is_what_the_format_names(model: Path) -> None:
    rows = {}
    for activations in (None, "auto", "int8"):
        with rkllm_ext.LLM(model, max_context_len=64, activations=activations) as llm:
            rows[activations] = llm.logits(some_ids(llm, 60))
    assert np.array_equal(rows[None], rows["auto"])
    assert not np.array_equal(rows["auto"], rows["int8"])


def test_models_without_4_bit_weights_refuse_it(tiny_llama: Path, converted: Converter) -> None:
    for dtype in ("fp16", "w8a8"):
        with pytest.raises(InvalidArgumentError, match=f"are for 4-bit weights, but .* is in {dtype}"):
            rkllm_ext.LLM(converted(tiny_llama, dtype), activations="int8")
    with pytest.raises(InvalidArgumentError, match="activations is 'int4', but must be auto or int8"):
        rkllm_ext.LLM(converted(tiny_llama, "w4a16"), activations="int4")


def distance(path: Path, ids: NDArray[np.int32]) -> float:
    rows = []
    for activations in ("auto", "int8"):
        with rkllm_ext.LLM(path, max_context_len=len(ids), activations=activations) as llm:
            logits = llm.logits(ids).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        rows.append(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))
    wide, narrow = rows
    return float((np.exp(wide) * (wide - narrow)).sum(axis=1).mean())


@pytest.mark.parametrize(("dtype", "bound"), [("w4a16", 8.5e-4), ("w4a16_g32", 6.0e-4)])
def test_8_bits_stay_near_16(dtype: str, bound: float, tiny_llama: Path, converted: Converter) -> None:
    path = converted(tiny_llama, dtype)
    with rkllm_ext.LLM(path) as llm:
        ids = some_ids(llm, 200)
    found = distance(path, ids)
    assert 0.0 < found < bound, found


def test_8_bits_stay_near_16_in_a_trained_model(shared: Path, converted: Converter) -> None:
    path = converted(shared / "models" / "stories260K", "w4a16")
    with rkllm_ext.LLM(path) as llm:
        ids = llm.tokenize((shared / "text" / "tinystories-sample.txt").read_text(encoding="utf-8"))[:500]
    found = distance(path, ids)
    assert 0.0 < found < 1.6e-3, found
