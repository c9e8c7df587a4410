# SPDX-License-Identifier: Apache-2.0
"""How far each format is from float: mean KL divergence of the next-token distributions, with a bound per format.

The bounds are the measured values with a quarter on top; a better algorithm tightens them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models import SHARED, Converter
from numpy.typing import NDArray

import rkllm_ext

#: Trained weights, text of the model's own kind; formats without groups, since its feed-forward is 172 wide.
STORIES = {"fp16": 6e-6, "w8a8": 0.0023, "w4a16": 0.24}

#: Random weights, 512 wide, so that every group fits.
WIDE = {
    "fp16": 1.4e-6,
    "w8a8": 0.0107,
    "w8a8_g512": 0.0108,
    "w8a8_g256": 0.0097,
    "w8a8_g128": 0.0078,
    "w4a16": 0.88,
    "w4a16_g128": 0.69,
    "w4a16_g64": 0.60,
    "w4a16_g32": 0.48,
}


def log_probabilities(path: Path, ids: NDArray[np.int32]) -> NDArray[np.float64]:
    with rkllm_ext.LLM(path, max_context_len=len(ids)) as llm:
        logits = llm.logits(ids).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def mean_kl(reference: Path, path: Path, ids: NDArray[np.int32]) -> float:
    p, q = log_probabilities(reference, ids), log_probabilities(path, ids)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


@pytest.mark.parametrize("dtype", STORIES)
def test_a_trained_model_stays_near_float(dtype: str, shared: Path, converted: Converter) -> None:
    source = SHARED / "models" / "stories260K"
    reference = converted(source, "fp32")
    with rkllm_ext.LLM(reference) as llm:
        ids = llm.tokenize((SHARED / "text" / "tinystories-sample.txt").read_text(encoding="utf-8"))[:500]
    assert mean_kl(reference, converted(source, dtype), ids) < STORIES[dtype]


@pytest.mark.parametrize("dtype", WIDE)
def test_every_group_size_stays_near_float(dtype: str, shared: Path, converted: Converter) -> None:
    source = SHARED / "reference" / "qwen2-g512-bf16"
    ids = np.random.default_rng(2).integers(0, 1000, 300).astype(np.int32)
    assert mean_kl(converted(source, "fp32"), converted(source, dtype), ids) < WIDE[dtype]


def test_more_bits_and_smaller_groups_are_nearer_to_float(shared: Path, converted: Converter) -> None:
    source = SHARED / "reference" / "qwen2-g512-bf16"
    ids = np.random.default_rng(2).integers(0, 1000, 300).astype(np.int32)
    kl = {dtype: mean_kl(converted(source, "fp32"), converted(source, dtype), ids) for dtype in WIDE}
    worst_first = ["w4a16", "w4a16_g128", "w4a16_g64", "w4a16_g32", "w8a8", "w8a8_g128", "fp16"]
    assert sorted(worst_first, key=kl.__getitem__, reverse=True) == worst_first
