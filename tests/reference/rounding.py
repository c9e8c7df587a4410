# SPDX-License-Identifier: Apache-2.0
"""Round-to-nearest quantization as plain loops over single weights."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def quantize(
    weights: NDArray[np.float32], bits: int, group: int, scale_bits: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return codes [rows, cols] and scales [rows, groups]."""
    rows, cols = weights.shape
    group = group or cols
    codes = np.zeros((rows, cols), np.int8)
    scales = np.zeros((rows, cols // group), np.float32)
    for row in range(rows):
        for index in range(cols // group):
            span = range(index * group, (index + 1) * group)
            largest = np.float32(0)
            for col in span:
                if abs(weights[row, col]) > abs(largest):
                    largest = weights[row, col]
            scale = largest / np.float32(-8) if bits == 4 else abs(largest) / np.float32(127)
            if scale_bits == 16:
                scale = np.float32(np.float16(scale))
            scales[row, index] = scale
            for col in span:
                codes[row, col] = (code_4 if bits == 4 else code_8)(weights[row, col], scale)
    return codes, scales


def code_4(weight: np.float32, scale: np.float32) -> int:
    """Ties go up: towards code 15."""
    with np.errstate(divide="ignore", over="ignore"):
        reciprocal = np.float32(1) / scale
    if not np.isfinite(reciprocal):
        return 8
    product = np.float32(weight * reciprocal)
    return min(max(math.floor(np.float32(product + np.float32(8.5))), 0), 15)


def code_8(weight: np.float32, scale: np.float32) -> int:
    """Ties go to even."""
    code = 0 if scale == 0 else round(float(weight / scale))
    return min(max(code, -127), 127)
