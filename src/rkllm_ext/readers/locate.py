# SPDX-License-Identifier: Apache-2.0
"""Find out what kind of model a path holds and open it."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from ..errors import ModelFileError
from .checkpoint import Checkpoint, TensorSource
from .json_file import read_object

# Files of a Hugging Face directory, beside the weights, that decide what a conversion writes.
_SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_EXPECTED = "expected a GGUF file or a directory with config.json and safetensors files"


def open_checkpoint(path: str | PathLike[str]) -> Checkpoint:
    """Open a source model: a Hugging Face directory, a GGUF file (or one of its parts), or a directory that holds one.

    Examples
    --------
    >>> with open_checkpoint("tests/data/tiny-llama") as source:
    ...     source.load("model.norm.weight").shape
    (64,)

    Raises
    ------
    ModelFileError
        The path holds no model, or its files are missing or damaged.
    UnsupportedModelError
        The model is there in a form that is not supported.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise ModelFileError(f"{path}: there is no such file or directory")
    if path.suffix == ".rkllm":
        raise ModelFileError(f"{path}: is a converted model already, for 'rkllm-ext run'; {_EXPECTED}")
    if path.suffix == ".safetensors":
        raise ModelFileError(f"{path}: is a single weight file; give the directory that holds it and config.json")
    return _open_gguf(path, path)


def _open_folder(folder: Path) -> Checkpoint:
    from .gguf_parts import whole_name
    from .safetensors import INDEX, SINGLE
    from .torch_bin import INDEX as TORCH_INDEX
    from .torch_bin import SINGLE as TORCH_SINGLE

    names = sorted(entry.name for entry in folder.iterdir())
    has_config = "config.json" in names
    if has_config and (SINGLE in names or INDEX in names):
        return _open_huggingface(folder, names)
    if has_config and (TORCH_SINGLE in names or TORCH_INDEX in names):
        return _open_huggingface(folder, names, pickled=True)
    ggufs = [name for name in names if name.endswith(".gguf")]
    if len(set(map(whole_name, ggufs))) == 1:
        return _open_gguf(folder, folder / ggufs[0])
    if len(ggufs) > 1:
        raise ModelFileError(f"{folder}: holds {len(ggufs)} GGUF files ({_listed(ggufs)}); give one of them")
    loose = [name for name in names if name.endswith(".safetensors")]
    if has_config and loose:
        raise ModelFileError(f"{folder}: holds {_listed(loose)}, but neither {SINGLE} nor {INDEX}; download it again")
    if has_config:
        raise ModelFileError(f"{folder}: holds config.json, but no weights; expected {SINGLE} or {INDEX}")
    raise ModelFileError(f"{folder}: holds {_listed(names)}; {_EXPECTED}")


def _open_huggingface(folder: Path, names: list[str], pickled: bool = False) -> Checkpoint:
    from .prequantized import open_prequantized
    from .safetensors import open_safetensors
    from .torch_bin import open_torch

    config = read_object(folder / "config.json")
    tensors: TensorSource
    if pickled:
        tensors, weights = open_torch(folder)
    else:
        plain, weights = open_safetensors(folder)
        tensors, config = open_prequantized(plain, config)
    sides = [name for name in names if name in _SIDE_FILES or name.endswith(".tiktoken")]
    files = {path.name: path for path in [*(folder / name for name in sides), *weights]}
    return Checkpoint(folder, "huggingface", config, tensors, files)


def _open_gguf(path: Path, file: Path) -> Checkpoint:
    from .gguf_parts import open_gguf

    tensors, files = open_gguf(file)
    return Checkpoint(path, "gguf", tensors.values, tensors, files)


def _listed(names: list[str]) -> str:
    """Return a few names for a sentence."""
    if not names:
        return "nothing"
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
