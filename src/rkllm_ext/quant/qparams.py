# SPDX-License-Identifier: Apache-2.0
"""The file ``gdq.qparams``: what the algorithm gdq learned, to export from again without learning.

A safetensors file. For each matrix ``<name>.codes``, uint8 [rows, ceil(cols / 2)] (two codes of 0 ... 15 a byte, the
first one in the low nibble) and ``<name>.scales``, float32; for each other tensor that something was divided out of its
values, float32, under its own name; and the factors themselves under the names of `inputs.factor_lengths`. Its metadata
name the model's fingerprint, the weight format, the seed and the algorithm's version.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _rkllm
from ..errors import InvalidArgumentError
from .level1 import Block
from .quantizer import Changed, Facts, Float32, RoundToNearest, Weights, sqnr

if TYPE_CHECKING:
    from .._rkllm import Format

VERSION = "1"
_CODES, _SCALES = ".codes", ".scales"


def save(path: Path, blocks: Iterable[Block], metadata: Mapping[str, str]) -> None:
    """Write the file as a whole, or leave alone what is there.

    Parameters
    ----------
    blocks
        All blocks of a model; they are kept packed until the last one has come.
    metadata
        Texts that say what the file belongs to: ``source``, ``format``, ``seed``.
    """
    from safetensors.numpy import save_file

    tensors: dict[str, NDArray[Any]] = {}
    for block in blocks:
        for name, found in block.quantized.items():
            tensors[name + _CODES] = _in_pairs(found.codes)
            tensors[name + _SCALES] = found.scales
        tensors.update({**block.floats, **block.factors})
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        save_file(tensors, str(temporary), {"algorithm": "gdq", "version": VERSION, **metadata})
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            os.unlink(temporary)


class FromParameters:
    """Packs what a ``gdq.qparams`` file holds (`quantizer.Quantizer`); the other tensors are rounded to nearest.

    Parameters
    ----------
    path
        The file.
    formats
        Tensor name -> format, of all tensors.
    shapes
        Tensor name -> shape.
    lengths
        As `inputs.factor_lengths` returns them.
    source
        Fingerprint of the model that is converted.
    measure
        As for `RoundToNearest`.

    Raises
    ------
    InvalidArgumentError
        The file cannot be read, or belongs to another model or format; both are named.
    """

    def __init__(
        self,
        path: Path,
        formats: Mapping[str, Format | None],
        shapes: Mapping[str, tuple[int, ...]],
        lengths: Mapping[str, int],
        source: str,
        measure: bool = False,
    ) -> None:
        self._path = path
        self._formats = formats
        self._shapes = shapes
        self._lengths = lengths
        self._measure = measure
        self._nearest = RoundToNearest(formats, measure)
        self.folds = True
        self._tensors = _read(path, source)
        self._check()

    def factors(self, name: str) -> Float32 | None:
        return self._tensors.get(name)

    def pack(self, weights: Weights) -> tuple[bytes | bytearray, Facts]:
        name, format = weights.name, self._formats[weights.name]
        if name + _CODES in self._tensors and format is not None:
            _, cols = self._shapes[name]
            codes = _from_pairs(self._tensors[name + _CODES], cols)
            packed = _rkllm.pack(format.name, codes, self._tensors[name + _SCALES])
            facts: Facts = {"method": "gdq"}
            if self._measure:
                facts["sqnr_db"] = sqnr(weights.floats(), format.name, packed)
            return packed, facts
        if name in self._tensors:
            return self._nearest.pack(Changed(weights, self._tensors[name]))
        return self._nearest.pack(weights)

    def _check(self) -> None:
        for stored, values in self._tensors.items():
            if stored in self._lengths:
                if values.shape != (self._lengths[stored],):
                    raise InvalidArgumentError(f"{self._path}: {stored} is of shape {list(values.shape)}; learn anew")
                continue
            name = stored.removesuffix(_CODES).removesuffix(_SCALES)
            if name not in self._shapes:
                raise InvalidArgumentError(f"{self._path}: has {stored}, but the model has no {name}; learn anew")
            format = self._formats[name]
            if self._wanted(name, stored) != values.shape:
                raise InvalidArgumentError(
                    f"{self._path}: {stored} is of shape {list(values.shape)}, which is not that of "
                    f"{format.name if format else 'float32'}; learn anew for this format"
                )

    def _wanted(self, name: str, stored: str) -> tuple[int, ...] | None:
        shape, format = self._shapes[name], self._formats[name]
        if stored == name:
            return shape
        if format is None or format.bits != 4:
            return None
        if stored.endswith(_CODES):
            return shape[0], -(-shape[1] // 2)
        return (shape[0], shape[1] // format.group) if format.group else (shape[0],)


def _read(path: Path, source: str) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("algorithm") != "gdq" or metadata.get("version") != VERSION:
                raise InvalidArgumentError(f"{path}: is no qparams file of gdq, version {VERSION}; learn anew")
            if metadata.get("source") != source:
                raise InvalidArgumentError(
                    f"{path}: belongs to another model: it was learned for the source "
                    f"{metadata.get('source', '')[:16]}..., this one is {source[:16]}...; learn anew"
                )
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    except (SafetensorError, OSError) as error:
        raise InvalidArgumentError(f"{path}: cannot be read as gdq.qparams: {error}") from error


def _in_pairs(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    even = codes.astype(np.uint8)
    if even.shape[1] % 2:
        even = np.pad(even, ((0, 0), (0, 1)))
    return np.ascontiguousarray(even[:, ::2] | even[:, 1::2] << 4)


def _from_pairs(pairs: NDArray[np.uint8], cols: int) -> NDArray[np.int8]:
    codes = np.stack([pairs & 15, pairs >> 4], axis=2).reshape(len(pairs), -1)[:, :cols]
    return np.ascontiguousarray(codes.astype(np.int8))
