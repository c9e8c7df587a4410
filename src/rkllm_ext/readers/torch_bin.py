# SPDX-License-Identifier: Apache-2.0
"""Tensors of PyTorch pickles: one `pytorch_model.bin`, or shards with an index. Needs the extra `torch`.

A pickle is a program. `torch.load(weights_only=True)` runs none of it but what rebuilds tensors, and refuses the rest.
Files are mapped, so that one tensor at a time is read from the disk.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelFileError, UnsupportedModelError
from .checkpoint import Codes, Float32, Stored
from .shards import read_shards

SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"

_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class TorchFiles:
    """The tensors of one pickle or of the shards that an index names."""

    def __init__(self, tensors: dict[str, Any], paths: dict[str, Path]) -> None:
        self._tensors = tensors
        self._paths = paths

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensor(name).shape)

    def dtype(self, name: str) -> str:
        stored = str(self._tensor(name).dtype).rpartition(".")[2]
        return _DTYPES.get(stored, stored)

    def load(self, name: str) -> Float32:
        tensor, dtype = self._tensor(name), self.dtype(name)
        if dtype not in _DTYPES.values():
            raise ModelFileError(
                f"{self._paths[name]}: tensor '{name}' is of type {dtype}; {', '.join(_DTYPES.values())} can be read"
            )
        values: Float32 = tensor.detach().float().contiguous().numpy()
        return np.array(values, dtype=np.float32)  # a copy: the mapping may go

    def load_stored(self, name: str) -> Stored:
        return self.load(name)

    def load_codes(self, name: str) -> Codes | None:
        self._tensor(name)
        return None

    def close(self) -> None:
        self._tensors = {}

    def _tensor(self, name: str) -> Any:
        try:
            return self._tensors[name]
        except KeyError:
            raise ModelFileError(f"tensor '{name}' is not in the checkpoint") from None


def open_torch(folder: Path) -> tuple[TorchFiles, list[Path]]:
    """Open the PyTorch pickles of a directory.

    Returns
    -------
    tensors : TorchFiles
    files : list of Path
        The files it was made from, the index included.

    Raises
    ------
    ModelFileError
        A shard or tensor is missing, or a file is damaged or wants to run code.
    UnsupportedModelError
        PyTorch is not installed.
    """
    single = folder / SINGLE
    if single.exists():
        return read_torch(single), [single]
    index = folder / INDEX
    shards = read_shards(index)
    found = {shard: _load(folder / shard) for shard in dict.fromkeys(shards.values())}
    for name, shard in shards.items():
        if name not in found[shard]:
            raise ModelFileError(f"{folder / shard}: tensor '{name}', which {INDEX} places here, is missing")
    tensors = {name: found[shard][name] for name, shard in shards.items()}
    paths = {name: folder / shard for name, shard in shards.items()}
    return TorchFiles(tensors, paths), [index, *(folder / shard for shard in found)]


def read_torch(path: Path) -> TorchFiles:
    """Open one file. Raises as `open_torch`."""
    tensors = _load(path)
    return TorchFiles(tensors, dict.fromkeys(tensors, path))


def _load(path: Path) -> dict[str, Any]:
    """Return {name: mapped tensor} of one pickle."""
    try:
        import torch
    except ImportError:
        raise UnsupportedModelError(
            f"{path}: PyTorch pickles need the extra 'torch': pip install 'rkllm_ext[torch]'; or save the model as "
            "safetensors (transformers: model.save_pretrained(folder, safe_serialization=True))"
        ) from None
    try:
        # Only files of torch 1.6 and later can be mapped; older ones are read whole.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        raise ModelFileError(
            f"{path}: is damaged, or wants to run code when loaded, which is refused; get the model as safetensors"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise ModelFileError(f"{path}: is not a PyTorch checkpoint, or damaged; download it again") from error
    if not isinstance(state, dict) or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelFileError(f"{path}: is not a dictionary of tensors, as the weights of a model are saved")
    return dict(state)


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"
