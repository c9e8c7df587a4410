# SPDX-License-Identifier: Apache-2.0
"""Statistics of the inputs of a model's matrices, taken by running the engine over calibration text.

The engine hands out the inputs of every matrix while it computes (`rkllm_ext_set_tap`); no other program is needed. A
model that is not quantized runs. H = X^T X of one block may be as large as its weights, so that only some blocks are
watched in a pass, as many as the memory that may be used holds, and each further pass computes the model again:
passes are `ceil(bytes of all H / budget)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import _rkllm
from ..errors import InvalidArgumentError

Float32 = NDArray[np.float32]
Ids = NDArray[np.int32]

_HELD_EVERY = 4  # of so many sequences one is held out
_ROWS = 512  # that are kept of the held-out sequences
_BUDGET = 1 << 30
_SEQUENCES = 128
LENGTH = 256  # tokens


@dataclass(frozen=True)
class InputStatistics:
    """What is known about an input with `cols` columns.

    Rows whose energy is above the median of their pass are scaled down to it: the few positions that models make
    thousands of times larger than all others would else be all that counts, although the next norm takes that away.
    """

    gram: Float32  # [cols, cols], the mean of x x^T over the rows that are not held out; empty where it was not wanted
    peak: Float32  # [cols], the largest |x| of those rows
    held: Float32  # [n, cols], rows of sequences that are held out
    n_rows: int  # that gram and peak are of

    @property
    def energy(self) -> Float32:
        """Mean square of each column."""
        return np.ascontiguousarray(np.diag(self.gram))


def sequences(model: _rkllm.Handle, texts: Sequence[str], n: int = _SEQUENCES, length: int = LENGTH) -> list[Ids]:
    """Return at most n sequences of at most `length` tokens, evenly spread over the texts, one behind the other.

    Each begins as a prompt of the model begins.

    Raises
    ------
    InvalidArgumentError
        The texts are shorter than two tokens.
    """
    begin = model.tokenize("", add_bos=True)
    ids = np.concatenate([model.tokenize(text, parse_special=True) for text in texts])
    step = length - len(begin)
    pieces = [ids[start : start + step] for start in range(0, len(ids), step)]
    if len(pieces) > _HELD_EVERY and len(pieces[-1]) < step:
        del pieces[-1]  # all of one length, where there is enough
    picked = np.linspace(0, len(pieces) - 1, min(n, len(pieces))).astype(np.int64)
    found = [np.concatenate([begin, pieces[i]]).astype(np.int32) for i in picked]
    if not found or len(found[0]) < 2:
        raise InvalidArgumentError(f"the calibration text has {len(ids)} tokens; some hundred are needed at least")
    return found


def split(n: int) -> tuple[list[int], list[int]]:
    """Return which of n sequences serve to fit, and which are held out to choose by: every fourth.

    Where there are too few all serve for both.
    """
    held = list(range(_HELD_EVERY - 1, n, _HELD_EVERY)) or list(range(n))
    return [i for i in range(n) if i not in held] or held, held


class Calibration:
    """Statistics of a model's blocks; they should be asked for in ascending order.

    Parameters
    ----------
    model
        The model, not quantized, with a context that the longest sequence fits. Nobody else may use it meanwhile.
    sequences
        Token ids, int32 arrays, at least one. Every fourth is held out; where there are fewer all serve for both.
    inputs
        For each block the inputs that are wanted: name of the tap -> columns.
    grams
        Whether H is wanted.
    budget
        Bytes that the statistics may take; those of one block are taken in any case.
    """

    def __init__(
        self,
        model: _rkllm.Handle,
        sequences: Sequence[Ids],
        inputs: Sequence[Mapping[str, int]],
        grams: bool = True,
        budget: int = _BUDGET,
    ) -> None:
        self._model = model
        self._sequences = list(sequences)
        self._inputs = list(inputs)
        self._grams = grams
        self._budget = budget
        self._known: dict[int, dict[str, InputStatistics]] = {}

    def block(self, layer: int) -> dict[str, InputStatistics]:
        """Return the statistics of a block's inputs by name."""
        if layer not in self._known:
            self._known = self._passed(self._window(layer))
        return self._known[layer]

    def _window(self, layer: int) -> list[int]:
        """Return the blocks to watch in the next pass."""
        window, size = [layer], self._bytes(layer)
        while window[-1] + 1 < len(self._inputs) and size + self._bytes(window[-1] + 1) <= self._budget:
            window.append(window[-1] + 1)
            size += self._bytes(window[-1])
        return window

    def _bytes(self, layer: int) -> int:
        return sum(4 * cols * (cols * self._grams + _ROWS) for cols in self._inputs[layer].values())

    def _passed(self, window: list[int]) -> dict[int, dict[str, InputStatistics]]:
        fitted, held = split(len(self._sequences))
        collected = {
            name: Collected(cols, len(held), self._grams)
            for layer in window
            for name, cols in self._inputs[layer].items()
        }
        for i in fitted:
            self._model.watch(self._sequences[i], collected, lambda name, x: collected[name].fit(x), {})
        for i in held:
            self._model.watch(self._sequences[i], collected, lambda name, x: collected[name].hold(x), {})
        return {layer: {name: collected[name].statistics() for name in self._inputs[layer]} for layer in window}


class Collected:
    """What is kept of one input with `cols` columns while a pass runs, in which `held` sequences are held out."""

    def __init__(self, cols: int, held: int, grams: bool) -> None:
        self._gram = np.zeros((cols, cols) if grams else (0, 0), np.float32)
        self._peak = np.zeros(cols, np.float32)
        self._held: list[Float32] = []
        self._n_held = -(-_ROWS // held)
        self._n = 0

    def fit(self, x: Float32) -> None:
        x = _tamed(x)
        if self._gram.size:
            self._gram += x.T @ x
        np.maximum(self._peak, np.abs(x).max(axis=0), out=self._peak)
        self._n += len(x)

    def hold(self, x: Float32) -> None:
        self._held.append(_spread(_tamed(x), self._n_held))

    def statistics(self) -> InputStatistics:
        gram = self._gram / np.float32(max(self._n, 1))
        return InputStatistics(gram, self._peak, np.concatenate(self._held), self._n)


def _tamed(x: Float32) -> Float32:
    energy = np.square(x).sum(axis=1, keepdims=True)
    tamed: Float32 = x * np.sqrt(np.median(energy) / np.maximum(energy, np.median(energy) + np.float32(1e-30)))
    return tamed


def _spread(x: Float32, n: int) -> Float32:
    """Return at most n rows, evenly spread, the first one among them."""
    return x[np.linspace(0, len(x) - 1, min(n, len(x))).astype(np.int64)]
