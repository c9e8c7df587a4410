# SPDX-License-Identifier: Apache-2.0
"""Factors that move difficulty between an input and the weights that read it.

The columns of the readers are multiplied by them and what makes the input is divided by them (`inputs.Input`). Two kinds
are tried, each with several strengths: ``rms^a`` gives columns with much energy finer steps (AWQ, arXiv:2306.00978), and
``peak^a / largest weight^(1 - a)`` makes outliers of 8-bit activations small (SmoothQuant, arXiv:2211.10438).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

_STRENGTHS = (0.15, 0.3, 0.45, 0.6, 0.75)
_BALANCES = (0.35, 0.5, 0.65, 0.8)
_REACH = 1e3  # the most that one factor may be above or below the middle


def candidates(rms: Float32, peak: Float32, largest: Float32) -> Iterator[Float32]:
    """Yield factors to try, float32 [n], around 1; no factor at all is not among them.

    Parameters
    ----------
    rms, peak
        float32 [n], root mean square and largest magnitude of each channel of the input.
    largest
        float32 [n], largest magnitude of the weights that read each channel.
    """
    dead = (peak <= 0) | (largest <= 0)
    for strength in _STRENGTHS:
        yield _around_one(np.power(rms, np.float32(strength)), dead)
    for balance in _BALANCES:
        weight = np.power(np.where(dead, np.float32(1), largest), np.float32(1 - balance))
        yield _around_one(np.power(peak, np.float32(balance)) / weight, dead)


def _around_one(factors: Float32, dead: NDArray[np.bool_]) -> Float32:
    # Channels that carry nothing keep their size.
    logs = np.log(np.where(dead, np.float32(1), factors), dtype=np.float32)
    alive = logs[~dead]
    middle = np.float32(alive.mean()) if alive.size else np.float32(0)
    centred = np.clip(logs - middle, -np.log(_REACH), np.log(_REACH))
    centred[dead] = 0
    return np.exp(centred, dtype=np.float32)
