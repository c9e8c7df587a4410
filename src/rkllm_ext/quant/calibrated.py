# SPDX-License-Identifier: Apache-2.0
"""Quantizers that look at a whole block at a time, with statistics of its inputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .. import _rkllm
from ..arch.spec import ModelSpec
from .calibration import Calibration
from .inputs import Input, block_inputs
from .level1 import Block, quantize_block
from .quantizer import Changed, Facts, Float32, RoundToNearest, Weights, refuse_non_finite, sqnr

if TYPE_CHECKING:
    from .._rkllm import Format

_LAYER = re.compile(r"blk\.(\d+)\.")


class Calibrated:
    """Level 1: the tensors of a block are found together when the first of them is asked for (`level1`).

    Those outside blocks are rounded to nearest. Keeps the results of one block.

    Parameters
    ----------
    spec
        The model's architecture.
    formats
        Tensor name -> format, of all tensors.
    source
        Gives a tensor of the source by name.
    calibration
        Statistics of the inputs `wanted_inputs` names.
    measure
        As for `RoundToNearest`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        formats: Mapping[str, Format | None],
        source: Callable[[str], Weights],
        calibration: Calibration,
        measure: bool = False,
    ) -> None:
        self._spec = spec
        self._formats = formats
        self._source = source
        self._calibration = calibration
        self._measure = measure
        self._nearest = RoundToNearest(formats, measure)
        self.folds = True
        self._layer = -1
        self._block = Block({}, {}, {})

    def pack(self, weights: Weights) -> tuple[bytes | bytearray, Facts]:
        layer = layer_of(weights.name)
        if layer is None:
            return self._nearest.pack(weights)
        self._enter(layer)
        name, format = weights.name, self._formats[weights.name]
        if name in self._block.quantized and format is not None:
            found = self._block.quantized[name]
            packed = _rkllm.pack(format.name, found.codes, found.scales)
            facts: Facts = {"method": found.method, "output_error": found.error}
            if self._measure:
                facts["sqnr_db"] = sqnr(found.weights, format.name, packed)
            return packed, facts
        if name in self._block.floats:
            return self._nearest.pack(Changed(weights, self._block.floats[name]))
        return self._nearest.pack(weights)

    def factors(self, name: str) -> Float32 | None:
        layer = layer_of(name)
        if layer is None:
            return None
        self._enter(layer)
        return self._block.factors.get(name)

    def _enter(self, layer: int) -> None:
        if layer != self._layer:
            self._block, self._layer = self.block(layer), layer

    def block(self, layer: int) -> Block:
        """Find what a block is to be stored as. Blocks should be asked for in ascending order, for the statistics."""
        names = [name for name in self._formats if layer_of(name) == layer]
        fixed, tensors = set(), {}
        for name in names:
            weights = self._source(name)
            if self._nearest.takes_over(weights):
                fixed.add(name)
            else:
                tensors[name] = weights.floats()
                refuse_non_finite(tensors[name], weights)
        inputs = block_inputs(self._spec, self._formats, layer)
        statistics = self._calibration.block(layer)
        return quantize_block(inputs, tensors, self._formats, statistics, frozenset(fixed))


def layer_of(name: str) -> int | None:
    """Return the number of the block that a tensor belongs to."""
    found = _LAYER.match(name)
    return int(found[1]) if found else None


def wanted_inputs(
    spec: ModelSpec, shapes: Mapping[str, tuple[int, ...]], formats: Mapping[str, Format | None]
) -> list[dict[str, int]]:
    """Return, for each block, the inputs that something quantized reads: tap -> columns."""

    def wanted(each: Input) -> bool:
        return any(format is not None and format.scale_bits for format in map(formats.get, each.readers))

    return [
        {each.name: shapes[each.name][1] for each in block_inputs(spec, shapes, layer) if wanted(each)}
        for layer in range(spec.size("n_layers"))
    ]
