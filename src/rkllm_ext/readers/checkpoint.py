# SPDX-License-Identifier: Apache-2.0
"""A source model: its configuration and its tensors, loaded one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError, RKLLMError
from .json_file import read_object

Float32 = NDArray[np.float32]
Stored = NDArray[Any]
Codes = tuple[NDArray[np.uint8], NDArray[np.float16]]

_CHUNK = 1 << 20  # of a fingerprint (docs/format.md)


class TensorSource(Protocol):
    """What a file format offers; `Checkpoint` documents the calls."""

    def names(self) -> list[str]: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def dtype(self, name: str) -> str: ...
    def load(self, name: str) -> Float32: ...
    def load_stored(self, name: str) -> Stored: ...
    def load_codes(self, name: str) -> Codes | None: ...
    def close(self) -> None: ...


class Checkpoint:
    """A source model that is open for reading; a context manager.

    Attributes
    ----------
    path : Path
        The directory or file that was opened.
    kind : str
        "huggingface" or "gguf".
    config : dict
        The content of config.json, or the key/values of the GGUF file.
    files : dict
        The source files that decide the result of a conversion: name to path.
    """

    def __init__(
        self, path: Path, kind: str, config: dict[str, Any], tensors: TensorSource, files: dict[str, Path]
    ) -> None:
        self.path = path
        self.kind = kind
        self.config = config
        self.files = files
        self._tensors = tensors
        self._objects: dict[str, dict[str, Any]] = {}

    @property
    def tensor_names(self) -> list[str]:
        """Return the names of all tensors, in file order."""
        return self._tensors.names()

    @property
    def total_bytes(self) -> int:
        """Return the size of all source files: what `fingerprint` reads."""
        return sum(path.stat().st_size for path in self.files.values())

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, slowest dimension first ([rows, cols] of a matrix).

        Raises
        ------
        ModelFileError
            The checkpoint has no such tensor.
        """
        return self._tensors.shape(name)

    def dtype(self, name: str) -> str:
        """Return the type a tensor is stored in, as its format spells it ("BF16", "Q4_0")."""
        return self._tensors.dtype(name)

    def load(self, name: str) -> Float32:
        """Read one tensor as a float32 array of its shape; the caller owns it.

        Raises
        ------
        ModelFileError
            The tensor is absent, of a type that is not a number format for weights, or the file was cut since opening.
        """
        return self._tensors.load(name)

    def load_stored(self, name: str) -> Stored:
        """Read one tensor in the type it is stored in where that is a float of 16 or 32 bits, else as `load`.

        Returns
        -------
        float32 or float16, or bfloat16 as uint16, of the tensor's shape. May be a view of the file that lives as long
        as the checkpoint is open.
        """
        return self._tensors.load_stored(name)

    def load_codes(self, name: str) -> Codes | None:
        """Read a matrix stored in 4 bits with a scale per group, as GGUF Q4_0 is, without dequantizing it.

        Returns
        -------
        codes : uint8 [rows, cols]
            0 ... 15; a weight is `scale * (code - 8)`.
        scales : float16 [rows, cols / group]
            Returned together as a tuple; None for any other tensor.
        """
        return self._tensors.load_codes(name)

    def side_file(self, name: str) -> dict[str, Any]:
        """Return the JSON object in a file beside the weights, {} where there is no such file. Reads it once.

        Raises
        ------
        ModelFileError
            The file cannot be read or holds no JSON object.
        """
        if name not in self._objects:
            self._objects[name] = read_object(self.files[name]) if name in self.files else {}
        return self._objects[name]

    def fingerprint(self, progress: Callable[[int], None] | None = None) -> str:
        """Return a SHA-256, hexadecimal, over names, sizes and checksums of the source files (docs/format.md).

        It tells checkpoints apart and costs a sixth of a hash of their contents; it is no proof against somebody who
        wants two to look the same. Where the directory lies does not count, nor what a GGUF file is called.
        `progress` receives the number of bytes of each step; all steps add up to `total_bytes`.

        Raises
        ------
        ModelFileError
            A file changed its size while it was read.
        """
        from .._rkllm import checksum

        digest = hashlib.sha256()
        buffer = memoryview(bytearray(_CHUNK))
        for name, path in sorted(self.files.items()):
            expected = path.stat().st_size
            digest.update(name.encode() + b"\0" + expected.to_bytes(8, "little"))
            found = 0
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    digest.update(checksum(buffer[:count]).to_bytes(8, "little"))
                    found += count
                    if progress:
                        progress(count)
            if found != expected:
                raise ModelFileError(f"{path}: had {expected} bytes, then {found}: it changed while it was read")
        return digest.hexdigest()

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Let errors raised inside begin with the path."""
        try:
            yield
        except RKLLMError as error:
            if str(self.path) in str(error):
                raise
            raise type(error)(f"{self.path}: {error}") from error

    def close(self) -> None:
        """Release the files. Arrays that were loaded stay valid."""
        self._tensors.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
