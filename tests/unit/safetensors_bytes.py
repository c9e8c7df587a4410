# SPDX-License-Identifier: Apache-2.0
"""Hugging Face directories and safetensors files made byte by byte."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray


def row(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    """Return a tensor's row of the header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a file; `header` may be bytes to be written as they are, `length` is what the file claims for it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def checkpoint(tensors: Mapping[str, NDArray[Any]], dtype: str) -> bytes:
    """Return a file of arrays that are all of one type; bfloat16 is given as uint16."""
    header, data = {}, b""
    for name, values in tensors.items():
        header[name] = row(list(values.shape), len(data), len(data) + values.nbytes, dtype)
        data += values.tobytes()
    return safetensors(header, data)


def folder(path: Path, files: dict[str, object]) -> Path:
    """Make a directory with a config.json and the given files, from bytes, text or what is to be JSON."""
    path.mkdir(exist_ok=True)
    for name, content in {"config.json": {"model_type": "test"}, **files}.items():
        text = content if isinstance(content, (bytes, str)) else json.dumps(content)
        (path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return path
