# SPDX-License-Identifier: Apache-2.0
"""Rotary frequencies with every constant scaling applied.

The formulas are those of the genuine code (transformers, ``modeling_rope_utils``), in float32 as there. Powers are
computed in float64 and rounded, which gives the same float32 on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError, UnsupportedModelError
from .spec import Value

Frequencies = NDArray[np.float32]

_DYNAMIC_REACH = 16  # times the original length, that dynamic NTK may be asked to cover


def inverse_frequencies(base: float, dims: int) -> Frequencies:
    """Return ``1 / base**(2i / dims)`` for i in 0 ... dims/2 - 1, radians per position, float32 [dims / 2]."""
    exponents = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    powers = np.power(np.float64(base), exponents.astype(np.float64))
    inverse: Frequencies = np.reciprocal(powers.astype(np.float32))
    return inverse


def scaled_frequencies(
    base: float, dims: int, scaling: Mapping[str, Any], max_context: int, where: str
) -> tuple[Frequencies, dict[str, Value]]:
    """Return the rotary frequencies, float32 [dims / 2], and the spec fields of a scaling that depends on the length.

    Parameters
    ----------
    base, dims
        Rotary base and number of rotated dimensions of a head.
    scaling
        Parameters as in a Hugging Face configuration; the kind is under ``rope_type`` or, in older files, ``type``.
    max_context
        The model's ``max_position_embeddings``: the length from which dynamic NTK enlarges the base.
    where
        What to call the file in an error.

    Raises
    ------
    UnsupportedModelError
        The kind of scaling is not known here.
    ModelFileError
        A parameter of the scaling is missing or no positive number.
    """
    if not base > 0:
        raise ModelFileError(f"{where}: the rotary base is {base}; a positive number is needed")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    inv_freq = inverse_frequencies(base, dims)

    def number(name: str) -> float:
        value = scaling.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise ModelFileError(f"{where}: rope scaling {kind!r} needs a positive number {name!r}, found {value!r}")
        return float(value)

    if kind in ("default", "none", None):
        return inv_freq, {}
    if kind == "linear":
        return inv_freq / np.float32(number("factor")), {}
    if kind == "dynamic":
        # The base grows with the length, so the original length is no limit; the genuine code sets none at all.
        longest = min(_DYNAMIC_REACH * max_context, 1 << 24)
        factor = number("factor")
        return inv_freq, {
            "rope_dynamic_factor": factor,
            "rope_original_context": max_context,
            "max_context": longest,
        }
    if kind == "llama3":
        low, high = number("low_freq_factor"), number("high_freq_factor")
        return _llama3(inv_freq, number("factor"), low, high, number("original_max_position_embeddings")), {}
    raise UnsupportedModelError(
        f"{where}: rope scaling {kind!r} is not supported; known: default, linear, dynamic, llama3"
    )


def _llama3(inv_freq: Frequencies, factor: float, low: float, high: float, original: float) -> Frequencies:
    # Three bands by wavelength: short waves stay, long ones are divided by factor, those between are blended.
    f32 = np.float32
    wavelength = f32(2 * np.pi) / inv_freq
    long_waves = wavelength > f32(original / low)
    short_waves = wavelength < f32(original / high)
    divided = np.where(long_waves, inv_freq / f32(factor), inv_freq)
    if high == low:
        return divided
    share = (f32(original) / wavelength - f32(low)) / f32(high - low)
    blended = (f32(1) - share) * divided / f32(factor) + share * divided
    return np.where(long_waves | short_waves, divided, blended).astype(np.float32)
