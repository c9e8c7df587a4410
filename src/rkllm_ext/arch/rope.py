# SPDX-License-Identifier: Apache-2.0
"""Rotary frequencies with every constant scaling applied.

The formulas are those of the genuine code (transformers, ``modeling_rope_utils``), in float32 as there. Powers are
computed in float64 and rounded, which gives the same float32 on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError, UnsupportedModelError
from .spec import Value

Frequencies = NDArray[np.float32]

LONGROPE = ("longrope", "su")  # the kind's name and an older one
_REACH = 16  # times the original length, that a scaling without limit may be asked to cover


def inverse_frequencies(base: float, dims: int) -> Frequencies:
    """Return ``1 / base**(2i / dims)`` for i in 0 ... dims/2 - 1, radians per position, float32 [dims / 2]."""
    inverse: Frequencies = np.reciprocal(_powers(base, dims))
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
        value: Any = scaling.get(name)
        if not _is_positive(value):
            raise ModelFileError(f"{where}: rope scaling {kind!r} needs a positive number {name!r}, found {value!r}")
        return float(value)

    if kind in ("default", "none", None):
        return inv_freq, {}
    if kind == "linear":
        return inv_freq / np.float32(number("factor")), {}
    if kind == "dynamic":
        # The base grows with the length, so the original length is no limit; the genuine code sets none at all.
        longest = min(_REACH * max_context, 1 << 24)
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
        f"{where}: rope scaling {kind!r} is not supported; known: default, linear, dynamic, llama3, longrope"
    )


def longrope(
    base: float, dims: int, scaling: Mapping[str, Any], max_context: int, original: Any, where: str
) -> tuple[tuple[Frequencies, Frequencies], dict[str, Value]]:
    """Return the frequencies of longrope up to its original length and beyond it, float32 [dims / 2], and spec fields.

    `original` is the configuration's own ``original_max_position_embeddings``; None: it is among the scaling's
    parameters. The other arguments, and errors, are those of `scaled_frequencies`.
    """
    unknown = sorted(set(scaling) & {"short_mscale", "long_mscale"})
    if unknown:
        raise UnsupportedModelError(f"{where}: longrope with {', '.join(unknown)} is not supported")
    original = original or scaling.get("original_max_position_embeddings")
    fields = longrope_fields(original, max_context, scaling.get("attention_factor"), where)
    short, long = (_divided(base, dims, scaling, name, where) for name in ("short_factor", "long_factor"))
    return (short, long), fields


def longrope_fields(original: Any, max_context: int, magnitude: Any, where: str) -> dict[str, Value]:
    """Return the spec fields of longrope; a `magnitude` of None follows from the lengths."""
    if isinstance(original, bool) or not isinstance(original, int) or not 1 < original <= max_context:
        raise ModelFileError(f"{where}: longrope needs its original length, 2 to {max_context}, found {original!r}")
    if magnitude is None:
        magnitude = math.sqrt(1 + math.log(max_context / original) / math.log(original))
    if not _is_positive(magnitude):
        raise ModelFileError(f"{where}: longrope has the attention factor {magnitude!r}; a positive number is needed")
    fields: dict[str, Value] = {"rope_long": 1, "rope_original_context": original, "rope_magnitude": float(magnitude)}
    if max_context == original:  # the long factors are there to go beyond it
        fields["max_context"] = min(_REACH * max_context, 1 << 24)
    return fields


def _divided(base: float, dims: int, scaling: Mapping[str, Any], name: str, where: str) -> Frequencies:
    factors = scaling.get(name)
    if not isinstance(factors, list) or len(factors) != dims // 2 or not all(map(_is_positive, factors)):
        raise ModelFileError(f"{where}: longrope needs {dims // 2} positive numbers under {name!r}")
    inverse: Frequencies = np.reciprocal(np.asarray(factors, np.float32) * _powers(base, dims))
    return inverse


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")


def _powers(base: float, dims: int) -> Frequencies:
    exponents = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    powers: Frequencies = np.power(np.float64(base), exponents.astype(np.float64)).astype(np.float32)
    return powers


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
