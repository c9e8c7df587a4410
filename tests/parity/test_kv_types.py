# SPDX-License-Identifier: Apache-2.0
"""How far a KV cache of halves or bytes is from one of floats, and that its results are as reproducible.

Distances are mean KL divergences of the next-token distributions; bounds are the measured values with a half on top.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models import SHARED, Converter
from numpy.typing import NDArray

import rkllm_ext

#: Reference folder -> bounds on the mean KL divergence from floats of halves and of bytes.
BOUNDS = {
    "qwen2": {"f16": 3.3e-6, "int8": 1.7e-3},
    "gemma2": {"f16": 6.8e-7, "int8": 4.9e-4},
    "minicpm3": {"f16": 6.4e-7, "int8": 5.0e-4},
    "phi3": {"f16": 7.2e-7, "int8": 3.9e-4},
}
STORIES = {"f16": 6.5e-6, "int8": 4.0e-3}
TINY = {"f16": 2.8e-7, "int8": 1.1e-4}


def log_probabilities(path: Path, kv_type: str, ids: NDArray[np.int32]) -> NDArray[np.float64]:
    with rkllm_ext.LLM(path, max_context_len=len(ids), kv_type=kv_type) as llm:
        logits = llm.logits(ids).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def distances(path: Path, ids: NDArray[np.int32]) -> dict[str, float]:
    exact = log_probabilities(path, "f32", ids)
    others = {kv_type: log_probabilities(path, kv_type, ids) for kv_type in ("f16", "int8")}
    return {kv_type: float((np.exp(exact) * (exact - other)).sum(axis=1).mean()) for kv_type, other in others.items()}


def check(path: Path, ids: NDArray[np.int32], bounds: dict[str, float]) -> None:
    found = distances(path, ids)
    assert found["f16"] < bounds["f16"] and found["int8"] < bounds["int8"], found
    assert found["f16"] < found["int8"], "bytes cannot be nearer than halves: is the type ignored?"


def some_ids(path: Path, n: int) -> NDArray[np.int32]:
    with rkllm_ext.LLM(path) as llm:
        return np.random.default_rng(8).integers(0, llm.info.vocab_size, n).astype(np.int32)


def test_bytes_stay_near_floats_in_a_small_model(tiny_llama: Path, converted: Converter) -> None:
    path = converted(tiny_llama, "fp32")
    check(path, some_ids(path, 200), TINY)


@pytest.mark.parametrize("family", BOUNDS)
def test_bytes_stay_near_floats_in_every_kind_of_attention(family: str, shared: Path, converted: Converter) -> None:
    path = converted(SHARED / "reference" / family, "fp32")
    check(path, some_ids(path, 200), BOUNDS[family])


def test_a_trained_model_stays_near_floats(shared: Path, converted: Converter) -> None:
    path = converted(SHARED / "models" / "stories260K", "fp32")
    with rkllm_ext.LLM(path) as llm:
        ids = llm.tokenize((SHARED / "text" / "tinystories-sample.txt").read_text(encoding="utf-8"))[:500]
    check(path, ids, STORIES)


@pytest.mark.parametrize("kv_type", ["f16", "f32", "int8"])
def test_logits_do_not_depend_on_threads_or_chunks(kv_type: str, tiny_llama: Path, converted: Converter) -> None:
    path = converted(tiny_llama, "w8a8")
    with rkllm_ext.LLM(path, max_context_len=320, n_threads=1, kv_type=kv_type) as llm:
        ids = np.random.default_rng(3).integers(0, llm.info.vocab_size, 300).astype(np.int32)
        expected = llm.logits(ids)
        for threads in (1, 2, 4):
            for chunk in (1, 7, 64, 300):
                llm._handle.set_options({"n_threads": threads, "prefill_chunk": chunk})
                assert np.array_equal(llm.logits(ids), expected), f"{threads} threads, chunks of {chunk}"


def test_smaller_types_take_less_memory(tiny_llama: Path, converted: Converter) -> None:
    sizes = {}
    for kv_type in ("f16", "f32", "int8"):
        with rkllm_ext.LLM(converted(tiny_llama, "w8a8"), max_context_len=512, kv_type=kv_type) as llm:
            sizes[kv_type] = llm.info.kv_bytes
    assert sizes["f32"] == 2 * sizes["f16"]
    assert sizes["f16"] > sizes["int8"] > sizes["f16"] / 2
