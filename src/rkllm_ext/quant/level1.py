# SPDX-License-Identifier: Apache-2.0
"""Level 1 of the ``normal`` algorithm: what costs nothing when the model runs, block by block.

For each input of a block factors are looked for that make its readers easier to quantize (`smooth`), then scales by
clip search (`clip`) and codes that make good each other's errors (`compensate`). Every choice is made by the error of
the outputs, computed by the engine's own kernels on rows of calibration text that the search has not seen; rounding to
the nearest without factors is among the candidates, so what is chosen is never worse on those rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import clip, compensate, rtn, smooth
from .calibration import InputStatistics
from .inputs import Input, in_factors, out_factors, with_rows_divided
from .measure import Reference

if TYPE_CHECKING:
    from .._rkllm import Format

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Quantized:
    """A matrix as `_rkllm.pack` takes it."""

    weights: Float32  # that the codes stand for
    codes: NDArray[np.int8]
    scales: Float32
    method: str  # what found the codes, for reports
    error: float  # of its outputs on held-out rows, relative to their energy


@dataclass(frozen=True)
class Block:
    """What a block is to be stored as: `quantized` matrices, `floats` for tensors that are no such matrix and had
    something divided out, and the `factors` under the names of `inputs.factor_lengths` where they are not all one.
    """

    quantized: dict[str, Quantized]
    floats: dict[str, Float32]
    factors: dict[str, Float32]


def quantize_block(
    inputs: list[Input],
    weights: Mapping[str, Float32],
    formats: Mapping[str, Format | None],
    statistics: Mapping[str, InputStatistics],
    fixed: frozenset[str] = frozenset(),
) -> Block:
    """Find codes and scales for the matrices of a block.

    Parameters
    ----------
    inputs
        As `inputs.block_inputs` returns them.
    weights
        All tensors of the block.
    formats
        The format of each; those without scales stay as they are.
    statistics
        Of each input with a reader to quantize, by the name of the input.
    fixed
        Tensors that must stay as they are stored: their codes come from the source.
    """
    tensors = dict(weights)
    changed: set[str] = set()
    folded: dict[str, Float32] = {}
    for each in inputs:
        if not _is_foldable(each, formats, fixed):
            continue
        factors = _best_factors(each, tensors, formats, statistics[each.name])
        if factors is None:
            continue
        for name in each.makers:
            tensors[name] = with_rows_divided(tensors[name], factors)
            if tensors[name].ndim == 2:
                folded[out_factors(name)] = factors
        for name in each.readers:
            tensors[name] = tensors[name] * each.columns(factors)
            folded[in_factors(name)] = each.columns(factors)
        statistics = {**statistics, each.name: _scaled(statistics[each.name], each.columns(factors))}
        changed.update(each.makers, each.readers)
    quantized: dict[str, Quantized] = {}
    for each in inputs:
        wanted = {name: format for name in each.readers if name not in fixed and (format := _quantizes(formats[name]))}
        if wanted:
            curvature = compensate.curvature(statistics[each.name].gram, statistics[each.name].n_rows)
            for name, format in wanted.items():
                quantized[name] = _quantized(tensors[name], format, statistics[each.name], curvature)
    return Block(quantized, {name: tensors[name] for name in changed if name not in quantized}, folded)


def _is_foldable(each: Input, formats: Mapping[str, Format | None], fixed: frozenset[str]) -> bool:
    involved = (*each.readers, *each.makers)
    if not each.makers or any(name in fixed for name in involved):
        return False
    return any(_quantizes(formats[name]) for name in each.readers)


def _quantizes(format: Format | None) -> Format | None:
    return format if format is not None and format.scale_bits else None


def _scaled(statistics: InputStatistics, factors: Float32) -> InputStatistics:
    """Return the statistics of an input divided by factors [cols]."""
    gram = statistics.gram / factors / factors[:, None]
    return replace(statistics, gram=gram, peak=statistics.peak / factors, held=statistics.held / factors)


def _best_factors(
    each: Input, tensors: Mapping[str, Float32], formats: Mapping[str, Format | None], statistics: InputStatistics
) -> Float32 | None:
    """Return the factors of the maker's rows with the least sum of the readers' relative errors, of those with which no
    reader is worse off than without; None: no factors.
    """
    readers = {
        name: (format, Reference(tensors[name], statistics.held))
        for name in each.readers
        if (format := _quantizes(formats[name]))
    }
    largest = np.max([np.abs(tensors[name]).max(axis=0) for name in readers], axis=0)
    rms, peak = np.sqrt(each.largest(statistics.energy)), each.largest(statistics.peak)
    without = _errors(readers, tensors, statistics.held, None)
    best, least = None, sum(without)
    for factors in smooth.candidates(rms, peak, each.largest(largest)):
        errors = _errors(readers, tensors, statistics.held, each.columns(factors))
        if sum(errors) < least and all(error <= plain for error, plain in zip(errors, without)):
            best, least = factors, sum(errors)
    return best


def _errors(
    readers: Mapping[str, tuple[Format, Reference]],
    tensors: Mapping[str, Float32],
    held: Float32,
    factors: Float32 | None,
) -> list[float]:
    """Return the relative error of each reader, rounded to nearest, with factors of its columns."""
    x = held if factors is None else np.ascontiguousarray(held / factors)
    found = []
    for name, (format, reference) in readers.items():
        weights = tensors[name] if factors is None else tensors[name] * factors
        found.append(reference.error_of_nearest(format, weights, x))
    return found


def _quantized(
    weights: Float32, format: Format, statistics: InputStatistics, curvature: compensate.Curvature
) -> Quantized:
    """Return the best of all methods on the held-out rows."""
    reference = Reference(weights, statistics.held)
    codes, scales = rtn.quantize(weights, format)
    best = Quantized(weights, codes, scales, "nearest", reference.error(format, codes, scales, statistics.held))

    searched = clip.search_scales(weights, format, statistics.energy)
    clipped = ("clip", rtn.nearest(weights, searched, format), searched)
    compensated = ("compensate", *compensate.compensate(weights, searched, curvature, format))
    for method, signed, scale in (clipped, compensated):
        codes, scales = rtn.as_stored(signed, format), scale if format.group else scale[:, 0]
        error = reference.error(format, codes, np.ascontiguousarray(scales), statistics.held)
        if error < best.error:
            best = Quantized(weights, codes, np.ascontiguousarray(scales), method, error)
    return best
