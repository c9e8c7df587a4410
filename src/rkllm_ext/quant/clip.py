# SPDX-License-Identifier: Apache-2.0
"""Clip search: for each row or group the scale with the least rounding error, weighted by the energy of the inputs.

The largest weights of a group may be clipped where finer steps for the others are worth more. Minimised is
``sum_k energy[k] * (w[k] - scale * code[k])^2``. The scales tried begin as fractions of the one that meets the largest
weight, with either sign for 4 bits (codes reach from -8 to 7), each improved once by least squares over the codes it
gives; the scale of rounding to the nearest is among them, so the result is never worse than that one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import rtn

if TYPE_CHECKING:
    from .._rkllm import Format

_RATIOS = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75, 0.7)
_BLOCK = 1 << 18  # weights that are worked on at once


def search_scales(weights: NDArray[np.float32], format: Format, energy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return scales for a matrix.

    Parameters
    ----------
    weights
        float32 [rows, cols].
    format
        A format of 4 or 8 bits whose group divides cols.
    energy
        float32 [cols], not negative: how much an error in a column counts, as the mean square of its input.

    Returns
    -------
    float32 [rows, cols / group] ([rows, 1] without groups), as the file stores them
    """
    rows, cols = weights.shape
    group = format.group or cols
    out = np.empty((rows, cols // group), np.float32)
    step = max(1, _BLOCK // cols)
    # Where no input was ever seen errors still count a little: other texts may reach there.
    weight = (energy + energy.mean() * 1e-4 + np.float32(1e-30)).astype(np.float32).reshape(1, -1, group)
    for start in range(0, rows, step):
        block = weights[start : start + step].reshape(-1, cols // group, group)
        out[start : start + step] = _best(block, weight, format)
    return out


def _best(block: NDArray[np.float32], energy: NDArray[np.float32], format: Format) -> NDArray[np.float32]:
    best = rtn.scales_of(block, format)
    least = _error(block, energy, best, format)
    for start in _starts(block, format):
        codes = rtn.signed_codes(block, start, format)
        power = (energy * codes * codes).sum(axis=2)
        refined = (energy * codes * block).sum(axis=2) / np.where(power == 0, np.float32(np.inf), power)
        for scale in (start, rtn.stored_scales(refined, format)):
            error = _error(block, energy, scale, format)
            better = error < least
            best, least = np.where(better, scale, best), np.where(better, error, least)
    return best


def _starts(block: NDArray[np.float32], format: Format) -> list[NDArray[np.float32]]:
    full = rtn.scales_of(block, format)
    signs = (1.0, -1.0) if format.bits == 4 else (1.0,)
    return [rtn.stored_scales(full * np.float32(sign * ratio), format) for sign in signs for ratio in _RATIOS]


def _error(
    block: NDArray[np.float32], energy: NDArray[np.float32], scale: NDArray[np.float32], format: Format
) -> NDArray[np.float32]:
    missed = block - rtn.signed_codes(block, scale, format) * scale[..., None]
    error: NDArray[np.float32] = (energy * missed * missed).sum(axis=2)
    return error
