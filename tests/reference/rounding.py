# SPDX-License-Identifier: Apache-2.0
"""Round-to-nearest quantization as plain loops over single weights."""

from __future__ import annotations

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
                code = 0 if scale == 0 else round(float(weights[row, col] / scale))
                low, high = (-8, 7) if bits == 4 else (-127, 127)
                codes[row, col] = min(max(code, low), high) + (8 if bits == 4 else 0)
    return codes, scales
