# SPDX-License-Identifier: Apache-2.0
"""Round to nearest, symmetric: the ``normal`` algorithm.

For each row or group, 4 bits: ``scale = w[argmax |w|] / -8`` (with its sign, so that the code 0 is used and one end of
the codes is met exactly) and ``code = floor(w * (1 / scale) + 8.5)``, each step rounded to float32; 8 bits: ``scale =
max |w| / 127``, ``code = round(w / scale)``, ties to even. Scales that the file keeps as f16 are rounded to it before
the codes are computed.

Ties of 4 bits go up because those of llama.cpp's Q4_0 do, whose codes these are: models that were rounded to a coarse
grid before have many, and their perplexity suffers from ties that go to even.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .._rkllm import Format

_BLOCK = 1 << 18  # weights that are worked on at once, so that intermediate arrays stay small
_F16_MAX = np.float32(65504)
LIMITS = {4: (-8, 7), 8: (-127, 127)}  # of codes around 0, by bits

Float32 = NDArray[np.float32]


def quantize(weights: NDArray[np.float32], format: Format) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize a matrix to a format of 4 or 8 bits.

    Parameters
    ----------
    weights
        float32 [rows, cols], finite; the format's group divides cols.
    format
        A row of `formats()` with scales.

    Returns
    -------
    codes
        int8 [rows, cols]: 0 ... 15 around 8 for 4 bits, -127 ... 127 for 8 bits.
    scales
        float32 [rows, cols / group], or [rows] for formats without groups; representable in the format's scale type.
        A row or group of zeros has the scale 0.
    """
    rows, cols = weights.shape
    group = format.group or cols
    codes = np.empty((rows, cols), np.int8)
    scales = np.empty((rows, cols // group), np.float32)
    step = max(1, _BLOCK // cols)
    for start in range(0, rows, step):
        block = weights[start : start + step].reshape(-1, cols // group, group)
        scale = scales_of(block, format)
        scales[start : start + step] = scale
        codes[start : start + step] = as_stored(signed_codes(block, scale, format), format).reshape(-1, cols)
    return codes, scales if format.group else scales[:, 0]


def scales_of(block: Float32, format: Format) -> Float32:
    """Return the scales [rows, groups] of weights [rows, groups, group]."""
    if format.bits == 4:
        largest = np.abs(block).argmax(axis=2)[..., None]
        return stored_scales(np.take_along_axis(block, largest, axis=2)[..., 0] / np.float32(-8), format)
    return stored_scales(np.abs(block).max(axis=2) / np.float32(127), format)


def stored_scales(scales: Float32, format: Format) -> Float32:
    """Return scales as the file keeps them: rounded to f16 where the format does that."""
    if format.scale_bits != 16:
        return scales
    return np.clip(scales, -_F16_MAX, _F16_MAX).astype(np.float16).astype(np.float32)


def signed_codes(block: Float32, scale: Float32, format: Format) -> Float32:
    """Return the nearest codes, around 0, of weights [rows, groups, group] for scales [rows, groups].

    A scale of zero, and for 4 bits one without a reciprocal, makes every code that of zero.
    """
    low, high = LIMITS[format.bits]
    codes: Float32
    if format.bits == 4:
        with np.errstate(divide="ignore", over="ignore"):
            reciprocal = np.float32(1) / scale
        reciprocal = np.where(np.isfinite(reciprocal), reciprocal, np.float32(0))
        codes = np.floor(block * reciprocal[..., None] + np.float32(8.5)) - np.float32(8)
    else:
        codes = np.rint(block / np.where(scale == 0, np.float32(np.inf), scale)[..., None])
    return np.clip(codes, low, high, out=codes)


def nearest(weights: Float32, scales: Float32, format: Format) -> Float32:
    """Return the nearest codes, around 0, of weights [rows, cols] for scales [rows, cols / group]."""
    return signed_codes(weights.reshape(*scales.shape, -1), scales, format).reshape(weights.shape)


def as_stored(codes: Float32, format: Format) -> NDArray[np.int8]:
    """Return codes around 0 as `_rkllm.pack` takes them: 4-bit codes from 0 to 15."""
    return (codes + 8 if format.bits == 4 else codes).astype(np.int8)
