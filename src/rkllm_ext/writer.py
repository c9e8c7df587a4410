# SPDX-License-Identifier: Apache-2.0
"""Write a ``.rkllm`` file (docs/format.md) one tensor at a time.

The header is written here, not by the `gguf` package: its writer finds out the element type of an array by itself
(int32 where the format says u32) and cannot write an empty array, and the bytes must depend on nothing but the content.
"""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
import secrets
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import _rkllm
from .errors import InvalidArgumentError, ModelFileError
from .journal import Journal, Piece, would_fail_again

if TYPE_CHECKING:
    from ._rkllm import Format

ALIGNMENT = 64
Key = tuple[str, str, Any]  # name, type ("u32", "f32", "string", "bool", ... or "[u32]" for an array), value

_VALUE_TYPES = {
    "u8": (0, "B"),
    "i8": (1, "b"),
    "u16": (2, "H"),
    "i16": (3, "h"),
    "u32": (4, "I"),
    "i32": (5, "i"),
    "f32": (6, "f"),
    "bool": (7, "?"),
    "string": (8, ""),
    "u64": (10, "Q"),
    "i64": (11, "q"),
    "f64": (12, "d"),
}
_ARRAY = 9
_TENSOR_TYPES = {"f32": (0, 4), "i8": (24, 1), "i64": (27, 8)}  # GGML type and bytes of an element
_HUGE_PAGE = 2 << 20  # bytes, of the processors and kernels that have such pages
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


@dataclass(frozen=True)
class Entry:
    """One tensor of the file: a packed matrix (`format` not ""), or plain float32 numbers (rows 1)."""

    name: str
    format: str
    rows: int
    cols: int

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], format: Format | None) -> Entry:
        """Return the entry of a tensor; without a format it is plain."""
        return cls(name, "", 1, math.prod(shape)) if format is None else cls(name, format.name, *shape)

    @property
    def type(self) -> str:
        return "i8" if self.format else "f32"

    @property
    def n_elements(self) -> int:
        return _rkllm.packed_size(self.format, self.rows, self.cols) if self.format else self.cols

    @property
    def n_bytes(self) -> int:
        return self.n_elements * _TENSOR_TYPES[self.type][1]


class ModelWriter:
    """A file being written: a context manager.

    It is written under another name beside `path` and renamed at the end, so that `path` is either what it was before
    or the whole new file. Used by one thread.

    Parameters
    ----------
    path
        Where the file is to be. Its folder must exist; a file that is there is replaced.
    keys
        The key/values, without those that follow from the tensors (``general.alignment``, ``rkllm.tensor.*``).
    entries
        The tensors, in the order in which `write` will get them.
    resume
        What the tensors' bytes depend on beside the keys. A file that was interrupted is then kept (`journal`), and a
        writer of the same keys, entries and `resume` goes on where it ended. None: nothing is kept.

    Attributes
    ----------
    kept : list
        The facts that `write` was given for the tensors which an earlier writer has written; `write` expects the next.

    Raises
    ------
    InvalidArgumentError
        `path` cannot be written to: it is a folder, its folder is missing, or another process is writing it.
    ModelFileError
        Writing failed, for example because the disk is full. Nothing is left behind.
    """

    def __init__(
        self, path: str | os.PathLike[str], keys: Iterable[Key], entries: Sequence[Entry], resume: str | None = None
    ) -> None:
        self.path = check_target(path)
        self.kept: list[dict[str, Any]] = []
        self._entries = list(entries)
        self._header, self._offsets = _header(list(keys), self._entries)
        self._sums: list[int] = []
        self._journal = None if resume is None else Journal(self.path)
        self._identity = f"{resume} {_rkllm.checksum(self._header):016x}"
        self._temporary = self._journal.partial if self._journal else _temporary(self.path)
        self._fd = -1
        self._claimed = 0  # up to here the file holds data, or zeros that were written for it

    @property
    def n_bytes(self) -> int:
        """Size of the whole file, bytes."""
        return _size(self._header, self._offsets)

    def __enter__(self) -> ModelWriter:
        try:
            pieces = self._journal.open(self._identity) if self._journal else []
            exclusive = 0 if self._journal else os.O_EXCL
            self._fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | exclusive | os.O_CLOEXEC, 0o666)
            self._take_up(pieces)
            self._reserve()
            self._put(self._header, 0)
        except InvalidArgumentError:  # another process has the file
            raise
        except BaseException as error:
            self._discard()
            raise self._told(error) from error
        return self

    def write(self, data: bytes | bytearray | memoryview, facts: dict[str, Any] | None = None) -> None:
        """Write the next tensor's bytes. `facts`, ready for JSON, are what `kept` tells a writer that goes on."""
        entry = self._entries[len(self._sums)]
        if len(data) != entry.n_bytes:
            raise InvalidArgumentError(f"{entry.name}: {len(data)} bytes were given, {entry.n_bytes} are needed")
        try:
            self._put(data, len(self._header) + self._offsets[len(self._sums)])
            self._sums.append(_rkllm.checksum(data))
            if self._journal:
                self._journal.add((self._sums[-1], facts or {}))
        except OSError as error:
            raise self._told(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._discard() if would_fail_again(error) or not self._sums else self._let_go()
            return
        try:
            self._finish()
        except BaseException as failure:
            self._discard()
            raise self._told(failure) from failure

    def _take_up(self, pieces: Sequence[Piece]) -> None:
        """Find out which tensors are in the file already; without any, empty it."""
        if pieces and os.fstat(self._fd).st_size == self.n_bytes:
            with mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as whole:
                for (checksum, facts), entry, offset in zip(pieces, self._entries, self._offsets):
                    start = len(self._header) + offset
                    with whole[start : start + entry.n_bytes] as data:
                        if _rkllm.checksum(data) != checksum:
                            break
                    self._sums.append(checksum)
                    self.kept.append(facts)
                    self._claimed = start + entry.n_bytes
        if not self._sums:
            os.ftruncate(self._fd, 0)
        for piece in zip(self._sums, self.kept):
            assert self._journal is not None
            self._journal.add(piece)

    def _finish(self) -> None:
        if len(self._sums) != len(self._entries):
            raise InvalidArgumentError(f"{len(self._sums)} of {len(self._entries)} tensors were written")
        sums = [*self._sums, _rkllm.checksum(self._header)]
        self._put(struct.pack(f"<{len(sums)}Q", *sums), len(self._header) + self._offsets[-1])
        os.fsync(self._fd)
        os.replace(self._temporary, self.path)
        os.close(self._fd)
        self._fd = -1
        if self._journal:
            self._journal.remove()
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _reserve(self) -> None:
        # A disk that is too small is found out now rather than after minutes of quantizing.
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._fd, 0, self.n_bytes)
            except OSError as error:
                if error.errno in _FULL:
                    raise
        os.ftruncate(self._fd, self.n_bytes)

    def _put(self, data: bytes | bytearray | memoryview, position: int) -> None:
        rest = memoryview(data).cast("B")
        self._claim(position + len(rest))
        while rest:
            written = os.pwrite(self._fd, rest[: 1 << 30], position)
            rest, position = rest[written:], position + written

    def _claim(self, end: int) -> None:
        """Write zeros to each new huge page that data up to end begins to fill.

        Linux keeps a file in memory in pages as large as its first writes were, up to huge ones. From these, a model
        that is run after its conversion is opened and read faster (docs/performance.md).
        """
        first = -(-self._claimed // _HUGE_PAGE) * _HUGE_PAGE
        for page in range(first, end, _HUGE_PAGE):
            if end < page + _HUGE_PAGE:  # else the data itself is one write
                os.pwrite(self._fd, bytes(min(_HUGE_PAGE, self.n_bytes - page)), page)
        self._claimed = max(self._claimed, end)

    def _let_go(self) -> None:
        """Keep what was written, if there is a journal that says what it is."""
        if not self._journal:
            self._discard()
            return
        os.close(self._fd)
        self._fd = -1
        self._journal.close()

    def _discard(self) -> None:
        if self._fd >= 0:  # else the file is not ours
            os.close(self._fd)
            self._fd = -1
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
        if self._journal:
            self._journal.remove()

    def _told(self, error: BaseException) -> BaseException:
        if not isinstance(error, OSError):
            return error
        advice = f"; {self.n_bytes / 1e6:.1f} MB are needed" if error.errno in _FULL else ""
        return ModelFileError(f"{self.path}: cannot be written: {error.strerror}{advice}; nothing was changed")


def check_target(path: str | os.PathLike[str], sources: Iterable[Path] = ()) -> Path:
    """Return the path if a file can be put there; of a symbolic link, that of the file it stands for.

    Parameters
    ----------
    sources
        Files that are read and must stay.

    Raises
    ------
    InvalidArgumentError
        It is a folder, a device or one of the sources, or its folder does not exist.
    """
    target = Path(path)
    if target.is_dir():
        raise InvalidArgumentError(f"{target}: is a folder; name a file to write, for example {target / 'model.rkllm'}")
    if target.exists():
        if not target.is_file():  # a rename would put a file in the place of /dev/null for every program
            raise InvalidArgumentError(f"{target}: is not a regular file and cannot be replaced; name a file to write")
        if any(source.exists() and target.samefile(source) for source in sources):
            raise InvalidArgumentError(f"{target}: is what is to be converted, and would be lost; name another file")
    if target.is_symlink():
        target = Path(os.path.realpath(target))
    if not target.parent.is_dir():
        raise InvalidArgumentError(f"{target}: the folder {target.parent} does not exist; make it first")
    return target


def file_bytes(keys: Iterable[Key], entries: Sequence[Entry]) -> int:
    """Return the size of the file that a writer of these keys and tensors makes."""
    return _size(*_header(list(keys), list(entries)))


def put_file(file: Path, target: Path) -> None:
    """Put a file at `target`, too: as a second name of it where the file system allows that, else as a copy.

    Raises
    ------
    ModelFileError
        Writing failed. `target` is what it was before, or the whole file.
    """
    with _in_place_of(target) as temporary:
        try:
            os.link(file, temporary)
        except OSError:  # another file system, or one without links
            shutil.copyfile(file, temporary)
            with open(temporary, "rb") as copy:
                os.fsync(copy.fileno())


def put_text(text: str, target: Path) -> None:
    """Write a text in UTF-8 to `target`; otherwise as `put_file`."""
    with _in_place_of(target) as temporary, open(temporary, "x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _in_place_of(target: Path) -> Iterator[Path]:
    """Give a name beside `target` for a file that takes its place at the end, and that failures leave nothing of."""
    temporary = _temporary(target)
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise ModelFileError(f"{target}: cannot be written: {error.strerror}; nothing was changed") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.tmp")


def _header(keys: list[Key], entries: list[Entry]) -> tuple[bytes, list[int]]:
    """Return the bytes before the data section, and the offset of each tensor in it (the checksums last)."""
    checksums = len(entries) + 1
    keys = [
        *keys,
        ("general.alignment", "u32", ALIGNMENT),
        ("rkllm.tensor.format", "[string]", [*(entry.format for entry in entries), ""]),
        ("rkllm.tensor.rows", "[u32]", [*(entry.rows for entry in entries), 1]),
        ("rkllm.tensor.cols", "[u32]", [*(entry.cols for entry in entries), checksums]),
    ]
    names = [name for name, _, _ in keys]
    if len(set(names)) != len(names):
        raise InvalidArgumentError(f"keys are given twice: {sorted({name for name in names if names.count(name) > 1})}")
    out = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, checksums, len(keys)))
    for key in keys:
        out += _packed_key(key)
    offsets, offset = [], 0
    tensors = [(entry.name, entry.type, entry.n_elements, entry.n_bytes) for entry in entries]
    for name, kind, n_elements, n_bytes in [*tensors, ("checksums", "i64", checksums, 8 * checksums)]:
        out += _packed_text(name) + struct.pack("<IQIQ", 1, n_elements, _TENSOR_TYPES[kind][0], offset)
        offsets.append(offset)
        offset += -(-n_bytes // ALIGNMENT) * ALIGNMENT
    return bytes(out) + bytes(-len(out) % ALIGNMENT), offsets


def _size(header: bytes, offsets: Sequence[int]) -> int:
    return len(header) + offsets[-1] + 8 * len(offsets)  # the checksums are last: one for each tensor and the header


def _packed_key(key: Key) -> bytes:
    name, kind, value = key
    element = kind.strip("[]")
    if element not in _VALUE_TYPES:
        raise InvalidArgumentError(f"key {name!r}: the type {kind!r} does not exist")
    number = _VALUE_TYPES[element][0]
    if kind == element:
        return _packed_text(name) + struct.pack("<I", number) + _packed_values(name, element, [value])
    return _packed_text(name) + struct.pack("<IIQ", _ARRAY, number, len(value)) + _packed_values(name, element, value)


def _packed_values(name: str, element: str, values: Sequence[Any]) -> bytes:
    try:
        if element == "string":
            return b"".join(map(_packed_text, values))
        return struct.pack(f"<{len(values)}{_VALUE_TYPES[element][1]}", *values)
    except (struct.error, OverflowError, AttributeError, TypeError) as error:
        raise InvalidArgumentError(f"key {name!r}: a value is no {element}: {error}") from error


def _packed_text(text: str | bytes) -> bytes:
    # surrogateescape: text read from a file that was no UTF-8 goes back as the bytes it was
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw
