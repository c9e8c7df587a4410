# SPDX-License-Identifier: Apache-2.0
"""The file ``gdq.qparams``: what the algorithm gdq learned, to export from again without learning.

A safetensors file. For each matrix ``<name>.codes``, uint8 [rows, ceil(cols / 2)] (two codes of 0 ... 15 a byte, the
first one in the low nibble) and ``<name>.scales``, float32; for each other tensor that something was divided out of its
values, float32, under its own name; and the factors themselves under the names of `inputs.factor_lengths`. Its metadata
name the model's fingerprint, the weight format, the seed and the algorithm's version.

While blocks are being learned, each is kept as such a file of its own, one behind the other in
``.gdq.qparams.partial``, with a journal beside it (`journal`).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _rkllm
from ..errors import InvalidArgumentError, ModelFileError
from ..journal import Journal, Piece, would_fail_again
from .level1 import Block, Quantized
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

    Raises
    ------
    ModelFileError
        Writing failed, for example because the disk is full.
    """
    from safetensors.numpy import save_file

    tensors: dict[str, NDArray[Any]] = {}
    for block in blocks:
        tensors.update(_tensors(block))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _writing(path):
            save_file(tensors, str(temporary), {"algorithm": "gdq", "version": VERSION, **metadata})
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            os.unlink(temporary)


class Unfinished:
    """The first blocks of a file that is not whole yet, for a learner that goes on after an interruption.

    A context manager. What was noted is kept when an error ends it that need not come again, and deleted otherwise.
    One process at a time has it open.

    Parameters
    ----------
    path
        Where the whole file is to be.
    identity
        What the blocks depend on; those of another identity are deleted.
    shapes
        Tensor name -> shape.
    lengths
        As `inputs.factor_lengths` returns them.

    Raises
    ------
    InvalidArgumentError
        Another process is writing the file.
    ModelFileError
        Writing failed.
    """

    def __init__(
        self, path: Path, identity: str, shapes: Mapping[str, tuple[int, ...]], lengths: Mapping[str, int]
    ) -> None:
        self._path = path
        self._identity = identity
        self._shapes = shapes
        self._lengths = lengths
        self._journal = Journal(path)
        self._places: list[tuple[int, int]] = []  # of the blocks: first byte, number of bytes

    def __enter__(self) -> Unfinished:
        try:
            with _writing(self._path):
                self._take_up(self._journal.open(self._identity))
        except BaseException:
            self._journal.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Unlike a model's file, what took hours to learn stays when the disk is full.
        may_go_on = error is not None and (not would_fail_again(error) or isinstance(error.__cause__, OSError))
        if may_go_on and self._places:
            self._journal.close()
            return
        with suppress(OSError):
            os.unlink(self._journal.partial)
        self._journal.remove()

    def block(self, layer: int) -> Block | None:
        """Read a block that was noted, without the weights that its codes stand for. None: it was not."""
        from safetensors.numpy import load

        if layer >= len(self._places):
            return None
        start, size = self._places[layer]
        with open(self._journal.partial, "rb") as file:
            file.seek(start)
            return self._block(load(file.read(size)))

    def noted(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Yield blocks that begin with those that are here, and note each further one before it is yielded."""
        from safetensors.numpy import save

        for layer, block in enumerate(blocks):
            if layer >= len(self._places):
                data = save(_tensors(block))
                with _writing(self._path):
                    with open(self._journal.partial, "ab") as file:
                        place = file.tell(), file.write(data)
                    self._journal.add((_rkllm.checksum(data), {"bytes": len(data)}))
                self._places.append(place)
            yield block

    def _take_up(self, pieces: Sequence[Piece]) -> None:
        """Find out which blocks are whole, and drop what is behind them."""
        end = 0
        with open(self._journal.partial, "a+b") as file:
            file.seek(0)
            for checksum, facts in pieces:
                data = file.read(int(facts["bytes"]))
                if len(data) < facts["bytes"] or _rkllm.checksum(data) != checksum:
                    break
                self._places.append((end, len(data)))
                self._journal.add((checksum, facts))
                end += len(data)
            file.truncate(end)

    def _block(self, tensors: Mapping[str, NDArray[Any]]) -> Block:
        quantized, floats, factors = {}, {}, {}
        for stored, values in tensors.items():
            name = stored.removesuffix(_CODES)
            if name != stored:
                codes = _from_pairs(values, self._shapes[name][1])
                quantized[name] = Quantized(np.empty((0, 0), np.float32), codes, tensors[name + _SCALES], "gdq", 0.0)
            elif stored in self._lengths:
                factors[stored] = values
            elif not stored.endswith(_SCALES):
                floats[stored] = values
        return Block(quantized, floats, factors)


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


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelFileError(f"{path}: cannot be written: {reason}") from error


def _tensors(block: Block) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = {}
    for name, found in block.quantized.items():
        tensors[name + _CODES] = _in_pairs(found.codes)
        tensors[name + _SCALES] = found.scales
    return {**tensors, **block.floats, **block.factors}


def _in_pairs(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    even = codes.astype(np.uint8)
    if even.shape[1] % 2:
        even = np.pad(even, ((0, 0), (0, 1)))
    return np.ascontiguousarray(even[:, ::2] | even[:, 1::2] << 4)


def _from_pairs(pairs: NDArray[np.uint8], cols: int) -> NDArray[np.int8]:
    codes = np.stack([pairs & 15, pairs >> 4], axis=2).reshape(len(pairs), -1)[:, :cols]
    return np.ascontiguousarray(codes.astype(np.int8))
