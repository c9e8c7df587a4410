# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters made by tests: PEFT directories and GGUF files, and the weights that a merged model has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter
from numpy.typing import NDArray
from safetensors.numpy import save_file

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]  # A [rank, in], B [out, rank]


def random_pairs(
    weights: Mapping[str, tuple[int, ...]], rank: int, seed: int = 1, size: float = 0.2
) -> dict[str, Pair]:
    """Return A and B for each named module, from the shapes of their weights."""
    draw = np.random.default_rng(seed)

    def values(*shape: int) -> NDArray[np.float32]:
        return (draw.standard_normal(shape) * size).astype(np.float32)

    return {name: (values(rank, cols), values(rows, rank)) for name, (rows, cols) in weights.items()}


def write_peft(folder: Path, pairs: Mapping[str, Pair], **config: Any) -> Path:
    """Write a PEFT adapter; modules are named as the base model names them. Keys of `config` go into its file."""
    folder.mkdir(parents=True, exist_ok=True)
    rank = len(next(iter(pairs.values()))[0]) if pairs else 8
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "somewhere",
        "r": rank,
        "lora_alpha": 2 * rank,
        "bias": "none",
        "target_modules": sorted({name.rpartition(".")[2] for name in pairs}),
        "use_dora": False,
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    tensors = {}
    for name, (a, b) in pairs.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = np.ascontiguousarray(a)
        tensors[f"base_model.model.{name}.lora_B.weight"] = np.ascontiguousarray(b)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def write_gguf(path: Path, pairs: Mapping[str, Pair], alpha: float, architecture: str = "llama", **keys: str) -> Path:
    """Write a GGUF adapter as llama.cpp does; layers are named "blk.0.attn_q"."""
    writer = GGUFWriter(path, architecture)
    for key, value in {"general.type": "adapter", "adapter.type": "lora", **keys}.items():
        writer.add_string(key, value)
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, (a, b) in pairs.items():
        writer.add_tensor(f"{name}.weight.lora_a", np.ascontiguousarray(a))
        writer.add_tensor(f"{name}.weight.lora_b", np.ascontiguousarray(b))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merged(weight: NDArray[np.float32], pair: Pair, scale: float) -> NDArray[np.float32]:
    """Return W + scale * B A, computed in double precision."""
    a, b = (side.astype(np.float64) for side in pair)
    return (weight.astype(np.float64) + scale * (b @ a)).astype(np.float32)
