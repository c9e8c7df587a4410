# SPDX-License-Identifier: Apache-2.0
"""How near do the matrix products come to what the machine can do?  pytest benchmarks/bench_kernels.py

One thread. One token reads each weight once: "share" is the bytes of weights per second over the memory's speed.
More tokens compute: "share" is the operations per second (two integer ones for each weight where activations have 16
bits) over the peak of the instruction set. Both limits are measured in the same run. RKLLM_EXT_ISA chooses the
instruction set.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rkllm_ext import _rkllm

pytestmark = pytest.mark.bench

FORMATS = [format for format in _rkllm.formats() if format.bits < 32]
COLS = 4096


def packed(format: Any, rows: int) -> bytearray:
    random = np.random.default_rng(0)
    if format.bits == 16:
        return _rkllm.pack(format.name, random.standard_normal((rows, COLS), np.float32), None)
    low, high = (0, 16) if format.bits == 4 else (-127, 128)
    codes = random.integers(low, high, (rows, COLS)).astype(np.int8)
    n_scales = COLS // format.group if format.group else 1
    scales = np.full((rows, n_scales) if format.group else (rows,), 0.01, np.float32)
    return _rkllm.pack(format.name, codes, scales)


@pytest.fixture(scope="module")
def limits() -> tuple[float, float, float]:
    return _rkllm.limits(1)


@pytest.mark.parametrize("n_tokens", [1, 4, 64])
@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_matmul(format: Any, n_tokens: int, limits: tuple[float, float, float], benchmark: Any) -> None:
    rows = 16384 if n_tokens == 1 else 2048
    weights = packed(format, rows)
    x = np.random.default_rng(1).standard_normal((n_tokens, COLS), np.float32)
    benchmark.pedantic(
        _rkllm.matmul, (format.name, rows, COLS, weights, x), {"n_threads": 1}, rounds=15, warmup_rounds=2
    )
    seconds = benchmark.stats.stats.median
    read, integer, floating = limits
    operations = 2 * rows * COLS * n_tokens * (2 if format.bits < 16 and format.activation_bits == 16 else 1)
    giga_bytes, giga_operations = len(weights) / seconds / 1e9, operations / seconds / 1e9
    peak = floating if format.bits == 16 else integer
    share = giga_bytes / read if n_tokens == 1 else giga_operations / peak
    benchmark.extra_info.update(
        {
            "isa": _rkllm.active_isa(),
            "GB/s": round(giga_bytes, 1),
            "Gop/s": round(giga_operations, 1),
            "share": f"{100 * share:.0f} %",
        }
    )
