# SPDX-License-Identifier: Apache-2.0
"""GGUF files made byte by byte, so that a test can say what no well-meaning writer would."""

from __future__ import annotations

import struct
from collections.abc import Sequence

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)

_NUMBERS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}


def text(value: bytes | str) -> bytes:
    """Return a string: its length and its bytes."""
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value)) + value


def scalar(kind: int, value: object) -> bytes:
    """Return a value without its type."""
    return text(value) if kind == STRING else struct.pack("<" + _NUMBERS[kind], value)  # type: ignore[arg-type]


def raw(name: bytes | str, kind: int, payload: bytes) -> bytes:
    """Return a key of any type number with the bytes that follow it."""
    return text(name) + struct.pack("<I", kind) + payload


def key(name: bytes | str, kind: int, value: object) -> bytes:
    """Return a key with a scalar."""
    return raw(name, kind, scalar(kind, value))


def array(name: bytes | str, kind: int, values: Sequence[object], count: int | None = None) -> bytes:
    """Return a key with an array; `count` is what it claims."""
    head = struct.pack("<IQ", kind, len(values) if count is None else count)
    return raw(name, ARRAY, head + b"".join(scalar(kind, value) for value in values))


def tensor(
    name: bytes | str, dims: Sequence[int], kind: int = 0, offset: int = 0, n_dims: int | None = None
) -> bytes:
    """Return a tensor's description; `n_dims` is what it claims."""
    head = struct.pack("<I", len(dims) if n_dims is None else n_dims)
    return text(name) + head + struct.pack(f"<{len(dims)}QIQ", *dims, kind, offset)


def gguf(
    keys: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    n_tensors: int | None = None,
    n_keys: int | None = None,
    alignment: int = 32,
) -> bytes:
    """Return a file; the counts are what its header claims, alignment is where the data really starts."""
    counts = (len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys)
    header = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return header + b"\0" * (-len(header) % alignment if data else 0) + data


def sample() -> bytes:
    """Return a sound file with every kind of value and three tensors."""
    keys = [
        key("general.architecture", STRING, "sample"),
        key("general.alignment", U32, 32),
        *(key(f"number.{kind}", kind, 1) for kind in _NUMBERS),
        array("list.numbers", I32, [3, -4, 5]),
        array("list.texts", STRING, ["", "a", "日本"]),
        array("list.flags", BOOL, [True, False]),
        array("list.empty", F32, []),
    ]
    tensors = [tensor("one", [8], 0, 0), tensor("two", [32, 2], 2, 32), tensor("three", [2, 2, 2, 2], 1, 96)]
    data = struct.pack("<8f", *range(8)) + bytes(range(36)) + bytes(28) + bytes(32)
    return gguf(keys, tensors, data)
