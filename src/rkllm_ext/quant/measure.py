# SPDX-License-Identifier: Apache-2.0
"""How well a quantized matrix meets the float one: the error of its outputs, computed by the engine's own kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .. import _rkllm

if TYPE_CHECKING:
    from .._rkllm import Format

Float32 = NDArray[np.float32]


class Reference:
    """The outputs of a float matrix on some rows, with which quantized ones are compared.

    Parameters
    ----------
    weights
        float32 [rows, cols].
    x
        float32 [n, cols], inputs.
    """

    def __init__(self, weights: Float32, x: Float32) -> None:
        self._outputs = x @ weights.T
        self.energy = float(np.square(self._outputs, dtype=np.float64).sum()) or 1.0  # without outputs: no division

    def error(self, format: Format, codes: NDArray[np.int8], scales: Float32, x: Float32) -> float:
        """Return the squared error of the outputs for inputs x, relative to the energy of the float ones.

        The quantization of the activations is part of it. `x` may differ from the rows the reference was made with by
        factors that the codes and scales contain.
        """
        return self._error(format, codes.shape, _rkllm.pack(format.name, codes, scales), x)

    def error_of_nearest(self, format: Format, weights: Float32, x: Float32) -> float:
        """Return `error` of weights rounded to the nearest, by the library."""
        return self._error(format, weights.shape, _rkllm.quantize(format.name, weights), x)

    def _error(self, format: Format, shape: tuple[int, ...], packed: bytearray, x: Float32) -> float:
        rows, cols = shape
        missed = _rkllm.matmul(format.name, rows, cols, packed, x) - self._outputs
        return float(np.square(missed, dtype=np.float64).sum()) / self.energy
