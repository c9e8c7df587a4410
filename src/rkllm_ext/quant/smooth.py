# SPDX-License-Identifier: Apache-2.0
"""Factors that move difficulty between an input and the weights that read it.

The columns of the readers are multiplied by them and what makes the input is divided by them (`inputs.Input`). Two
kinds are tried, each with several strengths: ``rms^a`` gives columns with much energy finer steps (AWQ,
arXiv:2306.00978), and ``peak^a / largest weight^(1 - a)`` makes outliers of 8-bit activations small (SmoothQuant,
arXiv:2211.10438). For 8-bit activations the best of them is then refined by descent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

_STRENGTHS = (0.15, 0.3, 0.45, 0.6, 0.75)
_BALANCES = (0.35, 0.5, 0.65, 0.8)
_STEPS = 100  # of the descent
_RATE = 0.1
_SHARPNESS = 12  # p of the p-norm that stands for the largest activation
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


def refined(columns: Float32, x: Float32, power: Float32, group: int, share: Callable[[Float32], Float32]) -> Float32:
    """Return factors of columns that make the rounding of 8-bit activations cost less.

    The step of a row's (and group's) activations is their largest magnitude, so what rounding them costs at the outputs
    is ``mean_t max_k (x[t, k] / f[k])^2 * sum_k f[k]^2 power[k]`` in each group. Its logarithm is descended in log f,
    with a p-norm in place of the maximum.

    Parameters
    ----------
    columns
        float32 [cols], where to begin.
    x
        float32 [n, cols], rows of the input.
    power
        float32 [cols], the sum of the squares of the weights that read each column.
    group
        Columns that share a step; 0: all.
    share
        Makes columns that have one factor alike, by their mean.
    """
    logs = np.log(columns)
    size = np.abs(x).reshape(len(x), -1, group or x.shape[1])
    weight = (power + np.float32(1e-30)).reshape(size.shape[1:])
    for step in range(_STEPS):
        factor = np.exp(logs).reshape(weight.shape)
        scaled = size / factor
        peak = scaled.max(axis=2, keepdims=True) + np.float32(1e-30)
        near = np.square(np.square(scaled / peak))
        near *= near * near  # to the power _SHARPNESS
        total = near.sum(axis=2, keepdims=True)
        cost = np.square(peak) * np.power(total, np.float32(2 / _SHARPNESS))
        of_input = (cost * near / total).sum(axis=0) / cost.sum(axis=0)
        of_weights = np.square(factor) * weight
        slope = share((of_weights / of_weights.sum(axis=1, keepdims=True) - of_input).reshape(-1))
        reach = _RATE * (1 - step / _STEPS)
        logs -= np.float32(reach) * np.clip(slope / (np.abs(slope).mean() + np.float32(1e-30)), -1, 1)
    return np.asarray(np.exp(logs - logs.mean()), np.float32)


def _around_one(factors: Float32, dead: NDArray[np.bool_]) -> Float32:
    # Channels that carry nothing keep their size.
    logs = np.log(np.where(dead, np.float32(1), factors), dtype=np.float32)
    alive = logs[~dead]
    middle = np.float32(alive.mean()) if alive.size else np.float32(0)
    centred = np.clip(logs - middle, -np.log(_REACH), np.log(_REACH))
    centred[dead] = 0
    return np.asarray(np.exp(centred), np.float32)
