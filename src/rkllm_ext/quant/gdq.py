# SPDX-License-Identifier: Apache-2.0
"""The ``gdq`` algorithm, for 4-bit formats: rounding and scales learned by gradient, block by block, in torch.

A block begins with what level 1 finds for it (`level1`). Then an offset for each weight before it is rounded, and a
factor for each scale, are learned by signed gradient descent (SignRound, arXiv:2309.05516), so that the output of the
block, for the inputs that the blocks before it, quantized already, give, comes near to that of the float model;
gradients pass the rounding as if it were not there. (Learning the norms and biases as well was tried: it is worse on
held-out sequences.) Products are of bfloat16 numbers where the processor multiplies those faster: their errors are far
below those of 4 bits. Everything else is float32. What has the least error on held-out sequences is kept: what was
learned, level 1, or rounding to the nearest.

Reproducible: the same seed, texts and device give the same codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..arch.spec import ModelSpec
from . import rtn
from .calibration import Ids, split
from .compensate import dequantized
from .level1 import Block, Quantized
from .quantizer import Float32, Weights
from .torch_block import Tensors, block_forward, refuse_unknown_features

if TYPE_CHECKING:
    from .._rkllm import Format

_BLOCK = 1 << 16  # weights that are worked on at once on a processor
_CELL = 0.4  # how far from its code, in codes, a weight begins at most: at the edge of its cell any step would move it


@dataclass(frozen=True)
class Settings:
    """How long and how fast to learn."""

    steps: int = 50  # of each block
    batch: int = 4  # sequences of a step
    seed: int = 0
    reach: float = 0.3  # how far an offset can move in all steps together, in codes
    scale_reach: float = 0.03  # how far the factor of a scale can


class Learner:
    """Learns the blocks of a model one after the other.

    Parameters
    ----------
    spec, formats, source
        As for `calibrated.Calibrated`.
    start
        Gives what level 1 finds for a block; asked in ascending order.
    sequences
        Token ids, int32 arrays; they are cut to the shortest of them.
    settings
        How to learn.
    progress
        Called after each step.

    Raises
    ------
    UnsupportedModelError
        The model has features that `torch_block` does not compute.
    """

    def __init__(
        self,
        spec: ModelSpec,
        formats: Mapping[str, Format | None],
        source: Callable[[str], Weights],
        start: Callable[[int], Block],
        sequences: Sequence[Ids],
        settings: Settings,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        refuse_unknown_features(spec)
        self._spec = spec
        self._formats = formats
        self._source = source
        self._start = start
        self._settings = settings
        self._progress = progress
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._halves = multiplies_halves(self._device)
        self._random = torch.Generator().manual_seed(settings.seed)
        length = min(map(len, sequences))
        ids = np.stack([each[:length] for each in sequences])
        self._fitted, self._held = split(len(ids))
        self._float = self._tensor(source("token_embd.weight").floats()[ids] * np.float32(spec.get("embed_scale", 1)))
        self._given = self._float  # what the quantized blocks before give
        self._tables = {n: self._tensor(source(n).floats()) for n in formats if n.startswith("rope_inv_freq")}

    @property
    def arithmetic(self) -> str:
        """What computes: with another one, the same arguments may give other codes."""
        return f"torch {torch.__version__} {self._device.type} {'bfloat16' if self._halves else 'float32'}"

    def blocks(self, known: Callable[[int], Block | None] = lambda layer: None) -> Iterator[Block]:
        """Yield the blocks of the model in order. `known` gives the first ones from an earlier learner, then None."""
        n_layers = self._spec.size("n_layers")
        if known(n_layers - 1) is not None:  # all of them: nothing needs to be computed
            yield from filter(None, map(known, range(n_layers)))
            return
        for layer in range(n_layers):
            names = [name for name in self._formats if name.startswith(f"blk.{layer}.")]
            weights = {name: self._source(name).floats() for name in names}
            with torch.no_grad():
                self._float = self._outputs(layer, self._float, self._tensors(layer, weights))
            block = known(layer)
            if block is None:
                block = self._best(layer, weights, self._start(layer))
            else:
                self._pass_over(block)
            with torch.no_grad():
                tensors = self._tensors(layer, stored(weights, block, self._formats))
                self._given = self._outputs(layer, self._given, tensors)
            yield block

    def _pass_over(self, block: Block) -> None:
        """Go on with the sequences that learning the block would have left."""
        for _ in range(self._settings.steps if block.quantized else 0):
            self._picked()
            self._progress()

    # ---- one block --------------------------------------------------------------------------------------------------

    def _best(self, layer: int, weights: Mapping[str, Float32], first: Block) -> Block:
        """Return the best of rounding to nearest, level 1 and what is learned from there."""
        if not first.quantized:  # all codes come from the source
            return first
        candidates = [nearest(weights, first, self._formats), first, self._learned(layer, weights, first)]
        with torch.no_grad():
            errors = [self._error(layer, stored(weights, each, self._formats)) for each in candidates]
        best = int(np.argmin(errors))
        method = ("nearest", "level 1", "learned")[best]
        quantized = {
            name: replace(each, method=method if method == "learned" else each.method, error=errors[best])
            for name, each in candidates[best].quantized.items()
        }
        return replace(candidates[best], quantized=quantized)

    def _error(self, layer: int, weights: Mapping[str, Float32]) -> float:
        """Return the error of the block's outputs on held-out sequences, relative to the energy of what it adds."""
        found = self._outputs(layer, self._given[self._held], self._tensors(layer, weights))
        target = self._float[self._held]
        weight = _tamed(target)
        signal = ((target - self._given[self._held]).pow(2) * weight).sum()
        return float(((found - target).pow(2) * weight).sum() / signal)

    def _learned(self, layer: int, weights: Mapping[str, Float32], first: Block) -> Block:
        matrices = {name: _Matrix(each, self._formats[name], self._device) for name, each in first.quantized.items()}
        tensors = self._tensors(layer, stored(weights, first, self._formats))
        target, steps = self._float, self._settings.steps
        scale = float((target - self._given).pow(2).mean()) or 1.0
        for step in range(steps):
            picked = self._picked()
            rounded = {name: each.weights(self._halves).requires_grad_() for name, each in matrices.items()}
            short = {name.split(".", 2)[2]: each for name, each in rounded.items()}
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._halves):
                found = self._forward(layer, self._given[picked], {**tensors, **short})
            loss = ((found - target[picked]).pow(2) * _tamed(target[picked])).mean() / scale
            gradients = torch.autograd.grad(loss, list(rounded.values()))
            share = 2 * (1 - step / steps) / steps  # falls to 0; all steps together make 1
            for each, gradient in zip(matrices.values(), gradients):
                each.descend(gradient, self._settings.reach * share, self._settings.scale_reach * share)
            self._progress()
        quantized = {name: each.quantized(first.quantized[name]) for name, each in matrices.items()}
        return replace(first, quantized=quantized)

    def _picked(self) -> torch.Tensor:
        order = torch.randperm(len(self._fitted), generator=self._random)[: self._settings.batch]
        return torch.tensor(self._fitted)[order].to(self._device)

    # ---- running a block --------------------------------------------------------------------------------------------

    def _outputs(self, layer: int, x: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        return torch.cat([self._forward(layer, each, tensors) for each in x.split(self._settings.batch)])

    def _forward(self, layer: int, x: torch.Tensor, tensors: Tensors) -> torch.Tensor:
        return block_forward(self._spec, layer, x, tensors, lambda name, rows: _linear(tensors, name, rows))

    def _tensors(self, layer: int, weights: Mapping[str, Float32]) -> dict[str, torch.Tensor]:
        """Return the tensors of a block; matrices as bfloat16 where products are of such numbers."""
        short = {name.split(".", 2)[2]: self._tensor(values) for name, values in weights.items()}
        if self._halves:
            short = {name: each.bfloat16() if each.ndim == 2 else each for name, each in short.items()}
        return {**short, **self._tables}

    def _tensor(self, values: Float32) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(self._device)


class _Matrix:
    """A matrix that is learned: code = round(start / factor + offset), weight = scale * factor * code."""

    def __init__(self, found: Quantized, format: Format | None, device: torch.device) -> None:
        assert format is not None
        self._format = format
        codes, scales = signed(found, format)
        low, high = rtn.LIMITS[format.bits]
        self._limits = float(low), float(high)
        group = codes.shape[1] // scales.shape[1]
        wide = np.repeat(np.where(scales == 0, np.float32(1), scales), group, axis=1)
        start = codes + np.clip(found.weights / wide - codes, -_CELL, _CELL)
        self._start = torch.from_numpy(start.astype(np.float32)).to(device)
        self._scales = torch.from_numpy(scales).to(device)
        self._offset = torch.zeros_like(self._start)
        self._factor = torch.ones_like(self._scales)

    def weights(self, halves: bool = False) -> torch.Tensor:
        """Return the weights, as bfloat16 if `halves`."""
        out = torch.empty_like(self._start, dtype=torch.bfloat16 if halves else torch.float32)
        for rows in _row_blocks(self._start):
            scale = self._scales[rows] * self._factor[rows]
            out[rows] = (self._grouped(self._codes(rows)) * scale[..., None]).flatten(1)
        return out

    def descend(self, gradient: torch.Tensor, reach: float, scale_reach: float) -> None:
        """Move each offset and each factor against the sign of its gradient, for that of the weights."""
        for rows in _row_blocks(self._start):
            scale, factor = self._scales[rows, :, None], self._factor[rows, :, None]
            begun = self._grouped(self._start[rows]) / factor
            exact = (begun + self._grouped(self._offset[rows])).round_()
            codes = exact.clamp(*self._limits)
            slope = self._grouped(gradient[rows].float()) * scale
            # As if nothing were rounded; what is cut off at the ends of the codes does not move.
            of_codes = (slope * factor).mul_(codes == exact)
            of_factor = (slope * codes).sum(-1) - (of_codes * begun).sum(-1) / factor[..., 0]
            self._offset[rows] -= reach * of_codes.sign_().flatten(1)
            self._factor[rows] -= scale_reach * of_factor.sign_()

    def _codes(self, rows: slice = slice(None)) -> torch.Tensor:
        begun = (self._grouped(self._start[rows]) / self._factor[rows, :, None]).flatten(1)
        return begun.add_(self._offset[rows]).round_().clamp_(*self._limits)

    def _grouped(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(1, (self._scales.shape[1], -1))

    def quantized(self, first: Quantized) -> Quantized:
        with torch.no_grad():
            codes = self._codes().cpu().numpy()
            scales = rtn.stored_scales((self._scales * self._factor).cpu().numpy(), self._format)
        kept = scales if self._format.group else scales[:, 0]
        return replace(first, codes=rtn.as_stored(codes, self._format), scales=np.ascontiguousarray(kept))


def _row_blocks(x: torch.Tensor) -> Iterator[slice]:
    """Yield rows that are worked on while they are in a processor's cache."""
    step = len(x) if x.device.type == "cuda" else max(1, _BLOCK // x.shape[1])
    return (slice(first, first + step) for first in range(0, len(x), step))


def multiplies_halves(device: torch.device) -> bool:
    """Whether the device has instructions for products of bfloat16 numbers."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return False
    flags = {flag for line in text.splitlines() if line.startswith(("flags", "Features")) for flag in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def nearest(weights: Mapping[str, Float32], like: Block, formats: Mapping[str, Format | None]) -> Block:
    """Return the block with the matrices that are quantized in `like` rounded to nearest instead, without factors."""
    found = {}
    for name, each in like.quantized.items():
        format = formats[name]
        assert format is not None
        codes, scales = rtn.quantize(weights[name], format)
        found[name] = replace(each, weights=weights[name], codes=codes, scales=scales, method="nearest")
    return Block(found, {}, {})


def stored(weights: Mapping[str, Float32], block: Block, formats: Mapping[str, Format | None]) -> dict[str, Float32]:
    """Return all tensors of a block with the values that a model file would give them."""
    known = {name: dequantized(*signed(each, formats[name])) for name, each in block.quantized.items()}
    return {**weights, **block.floats, **known}


def signed(found: Quantized, format: Format | None) -> tuple[Float32, Float32]:
    """Return codes around 0, float32 [rows, cols], and scales [rows, cols / group]."""
    assert format is not None
    codes = found.codes.astype(np.float32) - np.float32(8 if format.bits == 4 else 0)
    return codes, found.scales.reshape(len(codes), -1)


def _linear(tensors: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    weight = tensors[name + ".weight"]
    y = (x.to(weight.dtype) @ weight.T).float()
    bias = tensors.get(name + ".bias")
    return y if bias is None else y + bias


def _tamed(x: torch.Tensor) -> torch.Tensor:
    """Return a weight for each row: 1, less for those with more than the median energy, as `InputStatistics` has it."""
    energy = x.pow(2).sum(dim=-1, keepdim=True)
    median = energy.flatten().median()
    return median / torch.maximum(energy, median)
