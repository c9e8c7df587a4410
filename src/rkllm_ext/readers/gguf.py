# SPDX-License-Identifier: Apache-2.0
"""Tensors of a GGUF file, mapped and validated by the engine, dequantized by the `gguf` package."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError
from .checkpoint import Codes, Float32, Stored

_PLAIN = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
_Q4_0_BLOCK, _Q4_0_BYTES = 32, 18
_AT_ONCE = 1 << 20  # weights that a core dequantizes at a time


class GGUFTensors:
    """The tensors of an open GGUF file, whose mapping this object owns."""

    def __init__(self, path: Path) -> None:
        from .._rkllm import GGUFFile

        self._path = path
        self._file = GGUFFile(str(path))
        self._tensors = self._file.tensors
        self.values: dict[str, Any] = dict(self._file.values)

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(reversed(self._tensor(name).dims))

    def dtype(self, name: str) -> str:
        from gguf import GGMLQuantizationType

        number = self._tensor(name).type
        try:
            return GGMLQuantizationType(number).name
        except ValueError:
            raise ModelFileError(
                f"{self._path}: tensor '{name}' is of type {number}, which the installed gguf package does not know; "
                "upgrade it"
            ) from None

    def load(self, name: str) -> Float32:
        shape, dtype = self.shape(name), self.dtype(name)
        if dtype in _PLAIN:
            return self._bytes(name).view(_PLAIN[dtype]).astype(np.float32).reshape(shape)
        rows = self._bytes(name).reshape(math.prod(shape[:-1]), -1)
        try:
            return _dequantized(rows, dtype, shape[-1]).reshape(shape)
        except NotImplementedError:
            raise ModelFileError(f"{self._path}: tensor '{name}' is of type {dtype}, which holds no weights") from None

    def load_stored(self, name: str) -> Stored:
        views = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
        dtype = self.dtype(name)
        return self._bytes(name).view(views[dtype]).reshape(self.shape(name)) if dtype in views else self.load(name)

    def load_codes(self, name: str) -> Codes | None:
        shape = self.shape(name)
        if len(shape) != 2 or self.dtype(name) != "Q4_0":
            return None
        rows, cols = shape
        blocks = self._bytes(name).reshape(rows, cols // _Q4_0_BLOCK, _Q4_0_BYTES)
        scales = blocks[:, :, :2].copy().view("<f2").astype(np.float16, copy=False)
        # A block is its scale and 16 bytes: the low nibbles are elements 0 ... 15, the high ones 16 ... 31.
        codes = np.concatenate([blocks[:, :, 2:] & 15, blocks[:, :, 2:] >> 4], axis=2)
        return codes.reshape(rows, cols), scales.reshape(rows, cols // _Q4_0_BLOCK)

    def close(self) -> None:
        self._tensors = {}
        self._file.close()

    def _tensor(self, name: str) -> Any:
        try:
            return self._tensors[name]
        except KeyError:
            raise ModelFileError(f"{self._path}: tensor '{name}' is not in the file") from None

    def _bytes(self, name: str) -> NDArray[np.uint8]:
        return np.frombuffer(self._tensor(name).data, dtype=np.uint8)


def _dequantized(rows: NDArray[np.uint8], dtype: str, cols: int) -> Float32:
    """Return blocks of rows as float32 [rows, cols], by all cores, each some rows at a time: that bounds the memory."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    out = np.empty((len(rows), cols), np.float32)
    step = max(1, _AT_ONCE // cols)

    def fill(start: int) -> None:
        with np.errstate(all="ignore"):  # who uses the numbers refuses what is not finite
            out[start : start + step] = dequantize(rows[start : start + step], GGMLQuantizationType[dtype])

    fill(0)  # here, because the tables of some types are made when they are first used
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(fill, range(step, len(rows), step)))
    return out
