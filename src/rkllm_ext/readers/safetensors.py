# SPDX-License-Identifier: Apache-2.0
"""Tensors of safetensors files: one `model.safetensors`, or shards with an index.

The `safetensors` package judges a file (its header limit, holes, overlaps); the tensors are then read here by their
offsets, because numpy has no bfloat16 for the package to return.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError
from .checkpoint import Codes, Float32, Stored
from .json_file import parse_object
from .shards import read_shards

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_LONGEST_HEADER = 100_000_000  # the package's limit


@dataclass(frozen=True)
class _Entry:
    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int  # from the beginning of the file


class SafetensorsFiles:
    """The tensors of one file or of the shards that an index names. Keeps no file open."""

    def __init__(self, entries: dict[str, _Entry]) -> None:
        self._entries = entries

    def names(self) -> list[str]:
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name).shape

    def dtype(self, name: str) -> str:
        return self._entry(name).dtype

    def load(self, name: str) -> Float32:
        values = self._read(name)
        if self._entry(name).dtype == "BF16":
            values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return values.astype(np.float32, copy=False)

    def load_stored(self, name: str) -> Stored:
        return self.load(name) if self._entry(name).dtype == "F64" else self._read(name)

    def _read(self, name: str, types: Mapping[str, str] = _NUMPY) -> NDArray[Any]:
        """Return the numbers as they are stored, bfloat16 as uint16."""
        entry = self._entry(name)
        where = f"{entry.path}: tensor '{name}'"
        if entry.dtype not in types:
            raise ModelFileError(f"{where} is of type {entry.dtype}; {', '.join(types)} can be read")
        count = math.prod(entry.shape)
        try:
            values = np.fromfile(entry.path, dtype=types[entry.dtype], count=count, offset=entry.start)
        except OSError as error:
            raise ModelFileError(f"{where} cannot be read: {error.strerror}") from error
        if values.size != count:
            raise ModelFileError(f"{where} has {values.size} of {count} elements left: the file was cut since opening")
        return values.reshape(entry.shape)

    def load_i32(self, name: str) -> NDArray[np.int32]:
        """Read a tensor of type I32: packed codes of a quantized checkpoint."""
        return self._read(name, {"I32": "<i4"}).astype(np.int32, copy=False)

    def load_codes(self, name: str) -> Codes | None:
        self._entry(name)
        return None

    def close(self) -> None:
        pass

    def _entry(self, name: str) -> _Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise ModelFileError(f"tensor '{name}' is not in the checkpoint") from None


def open_safetensors(folder: Path) -> tuple[SafetensorsFiles, list[Path]]:
    """Open the safetensors files of a directory.

    Returns
    -------
    tensors : SafetensorsFiles
    files : list of Path
        The files it was made from, the index included.

    Raises
    ------
    ModelFileError
        A shard or tensor is missing, or a file is damaged.
    """
    single = folder / SINGLE
    if single.exists():
        return read_safetensors(single), [single]
    index = folder / INDEX
    shards = read_shards(index)
    found = {shard: _read_header(folder / shard) for shard in dict.fromkeys(shards.values())}
    entries = {}
    for name, shard in shards.items():
        if name not in found[shard]:
            raise ModelFileError(f"{folder / shard}: tensor '{name}', which {INDEX} places here, is missing")
        entries[name] = found[shard][name]
    return SafetensorsFiles(entries), [index, *(folder / shard for shard in found)]


def read_safetensors(path: Path) -> SafetensorsFiles:
    """Open one file. Raises as `open_safetensors`."""
    return SafetensorsFiles(_read_header(path))


def _read_header(path: Path) -> dict[str, _Entry]:
    """Return the tensors of one file, everything about them checked."""
    if not path.is_file():
        raise ModelFileError(f"{path}: is not a regular file")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise ModelFileError(
                f"{path}: claims a header of {length} bytes in a file of {size}: it is cut or not a safetensors file"
            )
        text = file.read(length)
    header = parse_object(text, f"{path}: the header")
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, row, 8 + length, size) for name, row in header.items()}
    _judge(path)
    return entries


def _entry(path: Path, name: str, row: Any, data_start: int, size: int) -> _Entry:
    """Check one row of the header."""
    where = f"{path}: tensor '{name}'"
    try:
        dtype, shape, (begin, end) = row["dtype"], row["shape"], row["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise ModelFileError(f"{where} lacks a dtype, a shape or two data_offsets") from None
    numbers = [*shape, begin, end] if isinstance(shape, list) else [None]
    if not isinstance(dtype, str) or any(type(number) is not int or number < 0 for number in numbers):
        raise ModelFileError(f"{where} has dtype {dtype!r}, shape {shape!r}, data_offsets {[begin, end]!r}")
    if end > size - data_start:
        raise ModelFileError(f"{where} ends {end - (size - data_start)} bytes past the file; download it again")
    if dtype in _BYTES and math.prod(shape) * _BYTES[dtype] != end - begin:
        raise ModelFileError(
            f"{where} of shape {shape} needs {math.prod(shape) * _BYTES[dtype]} bytes, but has {end - begin}"
        )
    return _Entry(path, dtype, tuple(shape), data_start + begin)


def _judge(path: Path) -> None:
    """Let the safetensors package refuse what it does not accept: overlaps, holes, unknown types."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: is not a valid safetensors file: {error}") from error
