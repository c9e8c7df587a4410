# SPDX-License-Identifier: Apache-2.0
"""How does a model stand beside the vendor's table?  RKLLM_BENCH_MODEL=m.rkllm pytest benchmarks/bench_vendor_table.py

The vendor's settings: a prompt of 64 tokens, 256 new ones. "TTFT ms", "tokens/s" and "memory GB" of each row are the
columns of the table in docs/performance.md; the last is the most that this process had in memory, so name one model for
each run. Without one, SmolLM2-135M-Instruct is fetched and converted.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rkllm_ext

pytestmark = pytest.mark.bench

PROMPT = 64
NEW = 256


def models() -> list[str]:
    return os.environ.get("RKLLM_BENCH_MODEL", "smollm2-135m").split(":")


@pytest.mark.parametrize("name", models(), ids=lambda name: Path(name).stem)
def test_prompt_of_64_and_256_new_tokens(name: str, benchmark: Any) -> None:
    path = Path(name)
    if name == "smollm2-135m":
        from rkllm_ext.sources import cached_conversion, packaged_model

        path = cached_conversion(packaged_model(quiet=True), "w4a16_g32", None, progress=False)
    prefill_ms, per_token_ms, memory_mb = [], [], []
    with rkllm_ext.LLM(path, max_context_len=PROMPT + NEW, top_k=1, repeat_penalty=1.0) as llm:
        ids = np.random.default_rng(0).integers(0, llm.info.vocab_size, PROMPT).astype(np.int32)

        def run() -> None:
            perf = llm.generate(ids, max_new_tokens=NEW, ignore_eos=True, reuse_prefix=False).perf
            prefill_ms.append(perf.prefill_ms)
            per_token_ms.append(perf.generate_ms / perf.generate_tokens)
            memory_mb.append(perf.peak_memory_mb)

        benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    benchmark.extra_info["TTFT ms"] = round(float(np.median(prefill_ms)), 1)
    benchmark.extra_info["tokens/s"] = round(1000 / float(np.median(per_token_ms)), 2)
    benchmark.extra_info["memory GB"] = round(max(memory_mb) / 1000, 2)
