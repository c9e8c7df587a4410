# SPDX-License-Identifier: Apache-2.0
"""Factors that move difficulty between an input and the weights that read it.

The columns of the readers are multiplied by them and what makes the input is divided by them (`inputs.Input`). Three
kinds are tried, each with several strengths: ``rms^a`` gives columns with much energy finer steps (AWQ,
arXiv:2306.00978), ``peak^a / largest weight^(1 - a)`` makes outliers of 8-bit activations small (SmoothQuant,
arXiv:2211.10438), and ``(rms peak)^(a / 2) / largest weight^b`` lies between them. (Descending on what the rounding of
activations costs was tried: it learns the peaks of the rows it sees and is worse on others.)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

_STRENGTHS = (0.15, 0.3, 0.45, 0.6, 0.75)
_BALANCES = (0.35, 0.5, 0.65, 0.8)
_BETWEEN = tuple((strength, share) for strength in (0.35, 0.5, 0.65) for share in (0.0, 0.25, 0.5))
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
    weight = np.where(dead, np.float32(1), largest)
    for balance in _BALANCES:
        yield _around_one(np.power(peak, np.float32(balance)) / np.power(weight, np.float32(1 - balance)), dead)
    for strength, share in _BETWEEN:
        yield _around_one(np.power(rms * peak, np.float32(strength / 2)) / np.power(weight, np.float32(share)), dead)


def _around_one(factors: Float32, dead: NDArray[np.bool_]) -> Float32:
    # Channels that carry nothing keep their size.
    logs = np.log(np.where(dead, np.float32(1), factors), dtype=np.float32)
    alive = logs[~dead]
    middle = np.float32(alive.mean()) if alive.size else np.float32(0)
    centred = np.clip(logs - middle, -np.log(_REACH), np.log(_REACH))
    centred[dead] = 0
    return np.asarray(np.exp(centred), np.float32)
