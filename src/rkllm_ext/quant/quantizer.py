# SPDX-License-Identifier: Apache-2.0
"""From the weights of one tensor to its packed bytes, and what is known about the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import _rkllm
from ..errors import ModelFileError

if TYPE_CHECKING:
    from .._rkllm import Format

Float32 = NDArray[np.float32]
Facts = dict[str, Any]  # of one tensor, ready for JSON: columns of a conversion's report


class Weights(Protocol):
    """A tensor of the source, read when it is asked for."""

    name: str  # canonical
    origin: str  # the names in the checkpoint, for errors

    def floats(self) -> Float32:
        """Return the tensor, contiguous; the caller owns it."""

    def stored(self) -> NDArray[Any]:
        """Return the tensor in the type it is stored in: float32, float16, or bfloat16 as uint16. Not to be changed."""

    def codes(self) -> tuple[NDArray[np.int8], Float32] | None:
        """Return codes [rows, cols] and scales [rows, cols / group] of a tensor that is stored as 4-bit codes."""


class Changed:
    """A tensor of the source with other values (`Weights`)."""

    def __init__(self, weights: Weights, values: Float32) -> None:
        self.name = weights.name
        self.origin = weights.origin
        self._values = values

    def floats(self) -> Float32:
        return self._values

    def stored(self) -> Float32:
        return self._values

    def codes(self) -> None:
        return None


class Quantizer(Protocol):
    """What an algorithm offers to a conversion, which calls it for the tensors in file order.

    The result may not depend on earlier calls: a conversion that goes on after an interruption leaves them out.

    Attributes
    ----------
    folds : bool
        Whether columns of matrices may be multiplied by factors that what makes their input is divided by.
    """

    folds: bool

    def factors(self, name: str) -> Float32 | None:
        """Return a vector of factors by its name (`inputs.factor_lengths`); None: all are one."""

    def pack(self, weights: Weights) -> tuple[bytes | bytearray, Facts]:
        """Return the bytes of a tensor in the file, and facts about it: ``{"sqnr_db": 31.2}``."""


class RoundToNearest:
    """Round to nearest, and codes that the source has already are taken over. Needs nothing but the tensor itself.

    Parameters
    ----------
    formats
        Tensor name -> format, None for tensors that stay plain float32.
    measure
        Whether to find out how far the packed weights are from the source's.
    """

    def __init__(self, formats: Mapping[str, Format | None], measure: bool = False) -> None:
        self.folds = False
        self._formats = formats
        self._measure = measure

    def factors(self, name: str) -> None:
        return None

    def takes_over(self, weights: Weights) -> bool:
        """Whether the source holds codes and scales that the format can keep."""
        return self._taken(weights) is not None

    def pack(self, weights: Weights) -> tuple[bytes | bytearray, Facts]:
        format = self._formats[weights.name]
        taken = self._taken(weights)
        if format is not None and taken is not None:
            refuse_non_finite(taken[1], weights)
            return _rkllm.pack(format.name, *taken), {"lossless": True}
        if format is None:
            values = weights.floats()
            refuse_non_finite(values, weights)
            return values.astype("<f4", copy=False).tobytes(), {}
        try:
            packed = _rkllm.quantize(format.name, weights.stored())
        except ModelFileError as error:
            raise ModelFileError(f"{weights.name} ({weights.origin}): {error}") from error
        return packed, {"sqnr_db": sqnr(weights.floats(), format.name, packed)} if self._measure else {}

    def _taken(self, weights: Weights) -> tuple[NDArray[np.int8], Float32] | None:
        format = self._formats[weights.name]
        found = weights.codes() if format is not None and format.bits == 4 and format.group else None
        if format is None or found is None:
            return None
        codes, scales = found
        group = codes.shape[1] // scales.shape[1]
        # Smaller groups hold the same scale several times; larger ones cannot.
        return None if group % format.group else (codes, np.repeat(scales, group // format.group, axis=1))


def refuse_non_finite(values: NDArray[Any], weights: Weights) -> None:
    """Refuse NaN and infinity.

    Raises
    ------
    ModelFileError
        The tensor and its names in the checkpoint are given.
    """
    # The extremes are NaN or infinite if any value is; no second array of the tensor's size is made.
    if values.size and not (np.isfinite(values.max()) and np.isfinite(values.min())):
        raise ModelFileError(
            f"{weights.name} ({weights.origin}): holds a NaN or an infinite weight; the checkpoint is damaged"
        )


def sqnr(weights: Float32, format: str, packed: bytes | bytearray) -> float | None:
    """Return the signal-to-noise ratio of packed weights, 10 log10(sum w^2 / sum (w - packed)^2), in dB.

    None: there is no noise, or no signal.
    """
    error = _rkllm.unpack(format, weights.shape[0], weights.shape[1], packed)
    error -= weights
    noise, signal = (float(np.einsum("ij,ij->", each, each, dtype=np.float64)) for each in (error, weights))
    return 10 * float(np.log10(signal / noise)) if noise and signal else None
