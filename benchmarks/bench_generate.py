# SPDX-License-Identifier: Apache-2.0
"""How fast are prefill and decode?  RKLLM_BENCH_MODEL=model.rkllm pytest benchmarks/bench_generate.py

Several files may be given, with ":" between them; without one, SmolLM2-135M-Instruct is fetched and converted as
`rkllm-ext demo` does it. "tokens/s" of each row is what to compare; for decode, "GB/s" is the weight bytes
that were read per second, to be held against the memory bandwidth of the machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rkllm_ext

pytestmark = pytest.mark.bench

DECODED = 32  # tokens per round
GREEDY = {"temperature": 0.0, "repeat_penalty": 1.0, "ignore_eos": True, "reuse_prefix": False}


def models() -> list[Path]:
    named = os.environ.get("RKLLM_BENCH_MODEL")
    return [Path(name) for name in named.split(":")] if named else [Path("smollm2-135m")]


@pytest.fixture(scope="module", params=models(), ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    if request.param.exists():
        return request.param
    from rkllm_ext.sources import cached_conversion, packaged_model

    return cached_conversion(packaged_model(quiet=True), "w4a16_g32", None, progress=False)


@pytest.fixture(scope="module", params=[1, 2], ids=lambda n: f"{n}-threads")
def llm(path: Path, request: pytest.FixtureRequest) -> Iterator[rkllm_ext.LLM]:
    with rkllm_ext.LLM(path, max_context_len=2560, n_threads=request.param) as opened:
        yield opened


def some_ids(llm: rkllm_ext.LLM, n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, llm.info.vocab_size, n).astype(np.int32)


@pytest.mark.parametrize("n", [16, 128, 512, 2048])
def test_prefill(llm: rkllm_ext.LLM, n: int, benchmark: Any) -> None:
    ids = some_ids(llm, n)
    benchmark.pedantic(llm.generate, (ids,), {"max_new_tokens": 1, **GREEDY}, rounds=5, warmup_rounds=1)
    benchmark.extra_info["tokens/s"] = round(n / benchmark.stats.stats.median, 1)


@pytest.mark.parametrize("context", [16, 512, 1536])
def test_decode(llm: rkllm_ext.LLM, context: int, benchmark: Any) -> None:
    """Time the decode steps only: the library's own figures of each run, handed to the report as seconds per token."""
    ids = some_ids(llm, context)
    seconds = []

    def decode() -> None:
        perf = llm.generate(ids, max_new_tokens=DECODED, **GREEDY).perf
        seconds.append(perf.generate_ms / 1000 / perf.generate_tokens)

    benchmark.pedantic(decode, rounds=5, warmup_rounds=1)
    per_token = float(np.median(seconds))
    benchmark.extra_info["tokens/s"] = round(1 / per_token, 1)
    benchmark.extra_info["GB/s"] = round(llm.info.weight_bytes / per_token / 1e9, 1)


def test_first_token(llm: rkllm_ext.LLM, benchmark: Any) -> None:
    """Time from the start of a run with a prompt of one token to its first piece, beside a decode step."""
    ids = some_ids(llm, 1)
    firsts, steps = [], []

    def first() -> None:
        begun = time.perf_counter()
        with llm.stream(ids, max_new_tokens=DECODED, **GREEDY) as stream:
            next(stream)
            firsts.append(time.perf_counter() - begun)
            stream.collect()
        perf = stream.perf
        steps.append(perf.generate_ms / 1000 / perf.generate_tokens)

    benchmark.pedantic(first, rounds=20, warmup_rounds=2)
    benchmark.extra_info["decode steps"] = round(float(np.median(firsts) / np.median(steps)), 2)
