# SPDX-License-Identifier: Apache-2.0
"""Find out what kind of LoRA adapter a path holds and open it: a PEFT directory or a GGUF file."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from ..errors import ModelFileError
from .checkpoint import Checkpoint
from .json_file import read_object

CONFIG = "adapter_config.json"
SINGLE = "adapter_model.safetensors"
TORCH_SINGLE = "adapter_model.bin"
_EXPECTED = f"expected a GGUF file or a PEFT directory with {CONFIG} and {SINGLE}"


def open_adapter(path: str | PathLike[str]) -> Checkpoint:
    """Open an adapter. Its kind is that of the models it is for; its configuration is adapter_config.json, or the
    key/values of the GGUF file.

    Examples
    --------
    >>> with open_adapter("adapter") as adapter:
    ...     adapter.config["peft_type"]
    'LORA'

    Raises
    ------
    ModelFileError
        The path holds no adapter, or its files are missing or damaged.
    UnsupportedModelError
        The weights are a pickle and PyTorch is not installed.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise ModelFileError(f"{path}: there is no such file or directory")
    if path.suffix == ".safetensors":
        raise ModelFileError(f"{path}: is a single weight file; give the directory that holds it and {CONFIG}")
    return _open_gguf(path, path)


def _open_folder(folder: Path) -> Checkpoint:
    from .safetensors import read_safetensors
    from .torch_bin import read_torch

    if (folder / CONFIG).is_file():
        config = read_object(folder / CONFIG)
        for name in (SINGLE, TORCH_SINGLE):
            weights = folder / name
            if weights.exists():
                tensors = read_safetensors(weights) if name == SINGLE else read_torch(weights)
                return Checkpoint(folder, "huggingface", config, tensors, {CONFIG: folder / CONFIG, name: weights})
        raise ModelFileError(f"{folder}: holds {CONFIG}, but neither {SINGLE} nor {TORCH_SINGLE}")
    ggufs = sorted(folder.glob("*.gguf"))
    if len(ggufs) == 1:
        return _open_gguf(folder, ggufs[0])
    if len(ggufs) > 1:
        raise ModelFileError(f"{folder}: holds {len(ggufs)} GGUF files; give one of them")
    raise ModelFileError(f"{folder}: holds no adapter; {_EXPECTED}")


def _open_gguf(path: Path, file: Path) -> Checkpoint:
    from .gguf import GGUFTensors

    tensors = GGUFTensors(file)
    return Checkpoint(path, "gguf", tensors.values, tensors, {"adapter.gguf": file})
