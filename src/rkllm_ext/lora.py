# SPDX-License-Identifier: Apache-2.0
"""The conversion of a LoRA adapter: open, resolve against the base model, then layer by layer load, pack and write."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import _rkllm
from .arch import find_family, locate_all
from .arch.lora import Pair, resolve_adapter
from .arch.spec import TransposeHeads
from .errors import InvalidArgumentError, ModelFileError
from .metadata import CONTAINER_VERSION, model_name, source_key
from .progress import Progress, Report
from .quant.plan import PER_HEAD
from .readers import Checkpoint, open_adapter
from .source_model import SourceModel, open_model
from .writer import Entry, Key, ModelWriter, check_target

Float32 = NDArray[np.float32]

_DTYPES = ("fp32", "fp16")
_F16_MAX = 65504.0


@dataclass(frozen=True)
class LoraReport:
    """What the conversion of an adapter did."""

    path: Path
    dtype: str
    n_layers: int  # linear layers that the adapter changes
    ranks: tuple[int, ...]  # that occur, ascending
    n_parameters: int
    file_bytes: int
    seconds: float


def convert_lora(
    adapter: str | os.PathLike[str],
    base: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    dtype: str = "fp32",
    progress: Report = None,
) -> LoraReport:
    """Convert a LoRA adapter to a ``.rkllm`` file that `LLM.load_lora` loads beside a model converted from `base`.

    It serves every conversion of that checkpoint, whatever its weight format, and no other model.

    Parameters
    ----------
    adapter
        A PEFT directory (``adapter_config.json`` and ``adapter_model.safetensors`` or ``.bin``) or a GGUF adapter.
    base
        The checkpoint that the model was or will be converted from: a Hugging Face directory or a GGUF file.
    out
        The file to write, by custom ``<model>_lora.rkllm``; replaced as a whole at the end, or left alone.
    dtype
        ``fp32`` keeps the adapter as it is; ``fp16`` halves the file and what a token reads of it.
    progress
        As in `convert`.

    Raises
    ------
    InvalidArgumentError
        An argument is wrong.
    UnsupportedModelError
        The adapter is no plain LoRA adapter (DoRA, trained biases, modules_to_save ...), or the base is not supported.
    ModelFileError
        A file is damaged, the adapter is for another model, or writing failed.

    Examples
    --------
    >>> report = convert_lora("adapter", source, "tiny_lora.rkllm")
    >>> report.ranks
    (8,)
    """
    started = time.monotonic()
    if dtype not in _DTYPES:
        raise InvalidArgumentError(f"the dtype {dtype!r} of an adapter does not exist; known: {', '.join(_DTYPES)}")
    target = check_target(out)
    with open_model(base) as model, open_adapter(adapter) as source:
        check_target(out, [*model.checkpoint.files.values(), *source.files.values()])
        pairs, n_heads = _resolved(source, model), model.spec.size("n_heads")
        entries = [_entry(pair, side, n_heads, dtype) for pair in pairs for side in "ab"]
        work = model.checkpoint.total_bytes + sum(each.n_bytes for each in entries)
        with Progress(progress, work, "converting LoRA") as done:
            keys = _keys(source, model.checkpoint, dtype, model.checkpoint.fingerprint(done.add))
            with ModelWriter(target, keys, entries) as file:
                for pair in pairs:
                    for side, values in zip("ab", _built(pair, source, n_heads)):
                        with source.naming():
                            data = _packed(f"{pair.layer}.lora_{side}", values, dtype)
                        file.write(data)
                        done.add(len(data))
    return LoraReport(
        path=target,
        dtype=dtype,
        n_layers=len(pairs),
        ranks=tuple(sorted({pair.rank for pair in pairs})),
        n_parameters=sum(entry.rows * entry.cols for entry in entries),
        file_bytes=file.n_bytes,
        seconds=time.monotonic() - started,
    )


def adapter_path(model: Path) -> Path:
    """Return where the adapter of a model file goes by custom: ``model_lora.rkllm`` beside ``model.rkllm``."""
    return model.with_name(f"{model.stem}_lora{model.suffix}")


def _resolved(adapter: Checkpoint, model: SourceModel) -> list[Pair]:
    """Return what the adapter does to each layer of the model."""
    family = find_family(model.checkpoint.config, model.checkpoint.kind)
    # A tied head is no tensor of the checkpoint, but a layer nevertheless.
    matrices = {name for name, each in model.tensors.items() if len(each.shape) == 2} | {"output.weight"}
    possible = locate_all(family, adapter.kind, model.spec)
    layers = {name: possible[name] for name in possible if name in matrices and name != "token_embd.weight"}
    with adapter.naming():
        stored = {name: adapter.shape(name) for name in adapter.tensor_names}
        return resolve_adapter(adapter.config, adapter.kind, stored, family, layers)


def _heads(pair: Pair, n_heads: int) -> int:
    # The expanding matrices of latent attention are multiplied head by head, each with a pair of its own.
    return n_heads if f"{pair.layer}.weight".endswith(PER_HEAD) else 1


def _entry(pair: Pair, side: str, n_heads: int, dtype: str) -> Entry:
    rows, cols = pair.shape
    shape = (pair.rank * _heads(pair, n_heads), cols) if side == "a" else (rows, pair.rank)
    return Entry(f"{pair.layer}.lora_{side}", dtype, *shape)


def _built(pair: Pair, adapter: Checkpoint, n_heads: int) -> tuple[Float32, Float32]:
    """Return A and B of one layer, the scale in B."""
    a = adapter.load(pair.a)
    b = (adapter.load(pair.b).astype(np.float64) * pair.scale).astype(np.float32)
    rows = pair.source.build(lambda name: b)
    heads = _heads(pair, n_heads)
    if isinstance(pair.source, TransposeHeads):  # (B_h A)^T = A^T B_h^T for each head
        return rows, np.tile(a.T, (heads, 1))
    return np.tile(a, (heads, 1)), rows


def _packed(name: str, values: Float32, dtype: str) -> bytearray:
    largest = np.abs(values).max(initial=0.0)
    if not np.isfinite(largest):
        raise ModelFileError(f"{name}: holds a NaN or an infinite value; the adapter is damaged")
    if dtype == "fp16" and largest > _F16_MAX:
        raise ModelFileError(f"{name}: holds {largest:g}, but fp16 ends at {_F16_MAX:g}; use fp32")
    return _rkllm.pack(dtype, np.ascontiguousarray(values))


def _keys(adapter: Checkpoint, model: Checkpoint, dtype: str, fingerprint: str) -> list[Key]:
    name = model_name(model)
    return [
        ("general.architecture", "string", "rkllm"),
        ("general.type", "string", "adapter"),
        *([("general.name", "string", name)] if name else []),
        ("adapter.type", "string", "lora"),
        ("rkllm.version", "u32", CONTAINER_VERSION),
        ("rkllm.required", "[string]", []),
        ("rkllm.producer", "string", f"rkllm_ext {_rkllm.version()}"),
        source_key(fingerprint),
        ("rkllm.adapter.source", "string", adapter.fingerprint()),
        ("rkllm.family", "string", find_family(model.config, model.kind).name),
        ("rkllm.format", "string", dtype),
    ]
