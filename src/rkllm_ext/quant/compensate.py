# SPDX-License-Identifier: Apache-2.0
"""Error-compensating rounding: codes for which the output of the matrix, not each weight, is met best.

Minimised is ``trace((W - Q) H (W - Q)^T)`` with ``H = X^T X`` of the inputs, which is the squared error of the output
over those inputs. First the columns are rounded one after the other and what each misses is made good by those behind
it, in closed form (GPTQ, arXiv:2210.17323); columns with much energy come first. Then sweeps of coordinate descent
revisit every code with all others fixed (QuantEase, arXiv:2309.01885), and each scale by least squares. A sweep never
makes a row worse, and a row begins with the better of what rounding in sequence and rounding to nearest give: for the
scales given no row is worse than rounded to nearest, but for the rounding of the sums themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import rtn

if TYPE_CHECKING:
    from .._rkllm import Format

Float32 = NDArray[np.float32]

_DAMPING = (0.05, 0.5)  # least and most share of the mean of H's diagonal that is added to it
_BLOCK = 32  # columns whose corrections are handed on together, by one matrix product
_SPAN = 256  # columns that a sweep changes before all others hear of it


@dataclass(frozen=True)
class Curvature:
    """H of an input, prepared once for all matrices that read it. Made by `curvature`."""

    h: Float32  # [cols, cols], positive definite
    order: NDArray[np.int64]  # columns, those with much energy first
    upper: Float32  # [cols, cols], U^T U = H^-1 with rows and columns in that order


def curvature(gram: Float32, n_rows: int | None = None) -> Curvature:
    """Prepare H of `n_rows` inputs, None: of very many.

    A share of its mean diagonal is added to the diagonal: as much as there are columns for each row, for what few texts
    say about H is not to be trusted to the end.
    """
    h = gram.copy()
    damping = float(np.clip(len(h) / n_rows, *_DAMPING)) if n_rows else _DAMPING[0]
    h[np.diag_indices_from(h)] += np.float32(damping * float(np.diag(gram).mean()) + 1e-30)
    order = np.argsort(-np.diag(h), kind="stable")
    # In float64, because H may be badly conditioned. The Cholesky factor of the reversed H, inverted, is U reversed.
    lower = np.linalg.cholesky(h[np.ix_(order, order)].astype(np.float64)[::-1, ::-1])
    upper = np.ascontiguousarray(_inverse_of_lower(lower)[::-1, ::-1], np.float32)
    return Curvature(h, order, upper)


def _inverse_of_lower(lower: NDArray[np.float64]) -> NDArray[np.float64]:
    # By halves: almost all of the work is matrix products.
    n = len(lower)
    if n <= 64:
        return np.asarray(np.linalg.inv(lower), np.float64)
    half = n // 2
    out = np.zeros_like(lower)
    out[:half, :half] = _inverse_of_lower(lower[:half, :half])
    out[half:, half:] = _inverse_of_lower(lower[half:, half:])
    out[half:, :half] = -out[half:, half:] @ (lower[half:, :half] @ out[:half, :half])
    return out


def output_error(weights: Float32, codes: Float32, scales: Float32, h: Float32) -> NDArray[np.float64]:
    """Return the squared error of each output for H, float64 [rows]; the others as `compensate` returns them."""
    missed = weights - dequantized(codes, scales)
    error: NDArray[np.float64] = np.einsum("ij,ij->i", missed @ h, missed, dtype=np.float64)
    return error


def dequantized(codes: Float32, scales: Float32) -> Float32:
    """Return scale * code, float32 [rows, cols]."""
    group = codes.shape[1] // scales.shape[1]
    return codes * np.repeat(scales, group, axis=1)


def compensate(
    weights: Float32, scales: Float32, curvature: Curvature, format: Format, sweeps: int = 2
) -> tuple[Float32, Float32]:
    """Return codes and scales of a matrix.

    Parameters
    ----------
    weights
        float32 [rows, cols].
    scales
        float32 [rows, cols / group], where the search begins.
    curvature
        Of the matrix's input.
    format
        A format of 4 or 8 bits.
    sweeps
        How often all codes and scales are revisited.

    Returns
    -------
    codes
        float32 [rows, cols], whole numbers around 0 within the format's range.
    scales
        As the file stores them.
    """
    nearest = rtn.nearest(weights, scales, format)
    codes = _in_sequence(weights, scales, curvature, format)
    # Rounding in sequence wins almost always, but nothing makes it.
    worse = output_error(weights, codes, scales, curvature.h) > output_error(weights, nearest, scales, curvature.h)
    codes[worse] = nearest[worse]
    for _ in range(sweeps):
        codes, scales = _sweep(weights, codes, scales, curvature.h, format)
    return codes, scales


def _in_sequence(weights: Float32, scales: Float32, curvature: Curvature, format: Format) -> Float32:
    cols = weights.shape[1]
    order, upper = curvature.order, curvature.upper
    group = cols // scales.shape[1]
    left = np.ascontiguousarray(weights.T[order])  # [cols, rows]: what is still to be rounded
    by_column = np.ascontiguousarray(scales.T)
    codes = np.empty_like(left)
    for start in range(0, cols, _BLOCK):
        end = min(start + _BLOCK, cols)
        missed = np.empty((end - start, left.shape[1]), np.float32)
        for j in range(start, end):
            scale = by_column[order[j] // group]
            codes[j] = _rounded(left[j], scale, format)
            missed[j - start] = (left[j] - codes[j] * scale) / upper[j, j]
            left[j + 1 : end] -= upper[j, j + 1 : end, None] * missed[j - start]
        left[end:] -= upper[start:end, end:].T @ missed
    out = np.empty_like(codes)
    out[order] = codes
    return np.ascontiguousarray(out.T)


def _rounded(values: Float32, scale: Float32, format: Format) -> Float32:
    low, high = rtn.LIMITS[format.bits]
    codes: Float32 = np.clip(np.rint(values / np.where(scale == 0, np.float32(np.inf), scale)), low, high)
    return codes


def _sweep(weights: Float32, codes: Float32, scales: Float32, h: Float32, format: Format) -> tuple[Float32, Float32]:
    """Revisit each code and each scale once; H (W - Q)^T is carried along."""
    cols = weights.shape[1]
    group = cols // scales.shape[1]
    code, scale = codes.T.copy(), scales.T.copy()  # [cols, rows], [groups, rows]
    pull = h @ (weights - dequantized(codes, scales)).T
    for span in _spans(cols, group):
        near, near_h = pull[span], h[span, span]
        before = code[span] * _stretched(scale, group, span)
        for first in range(span.start, span.stop, group):
            members = slice(first - span.start, min(first + group, span.stop) - span.start)
            index = first // group
            _revisit_codes(code[span], scale[index], near, near_h, members, format)
            if group <= _SPAN:
                step = _scale_step(code[span][members], scale[index], near[members], near_h[members, members], format)
                scale[index] += step
                near -= near_h[:, members] @ (code[span][members] * step)
        change = code[span] * _stretched(scale, group, span) - before
        pull[: span.start] -= h[: span.start, span] @ change
        pull[span.stop :] -= h[span.stop :, span] @ change
        if group > _SPAN and span.stop % group == 0:
            members, index = slice(span.stop - group, span.stop), span.start // group
            step = _scale_step(code[members], scale[index], pull[members], h[members, members], format)
            scale[index] += step
            pull -= h[:, members] @ (code[members] * step)
    return np.ascontiguousarray(code.T), np.ascontiguousarray(scale.T)


def _spans(cols: int, group: int) -> Iterator[slice]:
    """Yield columns that are worked on while they are in the cache: several groups, or a part of one."""
    step = _SPAN // group * group or _SPAN
    unit = cols if group <= _SPAN else group
    for first in range(0, cols, unit):
        for start in range(first, first + unit, step):
            yield slice(start, min(start + step, first + unit))


def _stretched(scale: Float32, group: int, span: slice) -> Float32:
    """Return the scales of the columns of a span, [columns, rows], from [groups, rows]."""
    inside = scale[span.start // group : -(-span.stop // group)]
    return np.repeat(inside, min(group, span.stop - span.start), axis=0)


def _revisit_codes(code: Float32, s: Float32, pull: Float32, h: Float32, members: slice, format: Format) -> None:
    """Revisit the codes of some columns of a span, which have one scale; `code`, `pull` and `h` are of the span."""
    diagonal = np.diag(h)
    for start in range(members.start, members.stop, _BLOCK):
        end = min(start + _BLOCK, members.stop)
        change = np.empty((end - start, code.shape[1]), np.float32)
        for j in range(start, end):
            new = _rounded(code[j] * s + pull[j] / diagonal[j], s, format)
            change[j - start] = (new - code[j]) * s
            code[j] = new
            pull[start:end] -= h[start:end, j, None] * change[j - start]
        pull[:start] -= h[:start, start:end] @ change
        pull[end:] -= h[end:, start:end] @ change


def _scale_step(code: Float32, s: Float32, pull: Float32, h: Float32, format: Format) -> Float32:
    """Return what to add to a scale for its least squares, rounded as it is stored, or 0 where that is worse."""
    curvature = np.einsum("ij,ij->j", code, h @ code)
    slope = np.einsum("ij,ij->j", code, pull)
    step = rtn.stored_scales(s + slope / np.where(curvature <= 0, np.float32(np.inf), curvature), format) - s
    return np.where(step * (step * curvature - 2 * slope) < 0, step, np.float32(0))
