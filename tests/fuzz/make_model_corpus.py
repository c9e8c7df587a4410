# SPDX-License-Identifier: Apache-2.0
"""Write the seeds of the model and adapter fuzzers: `python make_model_corpus.py DIR`; needs the package installed.

DIR/model gets a model of one layer for each family and some formats, DIR/adapter adapters of DIR/base.rkllm.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "unit"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "reference"))

from adapters import random_pairs, write_peft
from family_configs import GEMMA_SHAPES, LLAMA_LIKE, MODELS, Shapes
from tokenizer_file import tiny_sentencepiece

import rkllm_ext

LLAMA: dict[str, Any] = {**LLAMA_LIKE, "model_type": "llama", "tie_word_embeddings": True}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}
LLAMA_SHAPES: Shapes = {
    **GEMMA_SHAPES,
    "model.layers.0.self_attn.q_proj.weight": (24, 24),
    "model.layers.0.self_attn.k_proj.weight": (8, 24),
    "model.layers.0.self_attn.v_proj.weight": (8, 24),
    "model.layers.0.self_attn.o_proj.weight": (24, 24),
}
ADAPTED = ("q_proj", "v_proj", "o_proj")


def small_tokenizer() -> dict[str, Any]:
    """Return a tokenizer.json without bytes, so that files stay small."""
    source = tiny_sentencepiece()
    vocab = {text: rank for rank, text in enumerate(text for text in source["model"]["vocab"] if "<0x" not in text)}
    source["model"] |= {"vocab": vocab, "byte_fallback": False}
    return source


def checkpoint(folder: Path, config: dict[str, Any], shapes: Shapes) -> Path:
    """Write a random checkpoint."""
    draw = np.random.default_rng(1)
    folder.mkdir(parents=True)
    tensors = {name: (draw.standard_normal(shape) * 0.2).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(small_tokenizer()))
    return folder


def main(folder: Path) -> None:
    models, adapters = folder / "model", folder / "adapter"
    for each in (models, adapters):
        each.mkdir(parents=True, exist_ok=True)
    families = {**MODELS, "llama": (LLAMA, LLAMA_SHAPES), "dynamic": ({**LLAMA, "rope_scaling": DYNAMIC}, LLAMA_SHAPES)}
    with tempfile.TemporaryDirectory() as temporary:
        for name, (config, shapes) in families.items():
            rkllm_ext.convert(checkpoint(Path(temporary) / name, config, shapes), models / f"{name}.rkllm", "fp16")
        llama = Path(temporary) / "llama"
        for dtype in ("fp32", "w8a8", "w4a16"):
            rkllm_ext.convert(llama, models / f"llama-{dtype}.rkllm", dtype)
        rkllm_ext.convert(llama, folder / "base.rkllm", "fp16")
        for rank, dtype, modules in ((1, "fp32", ADAPTED), (4, "fp16", ADAPTED[:1]), (2, "fp32", ADAPTED[1:])):
            shapes = {f"model.layers.0.self_attn.{each}": LLAMA_SHAPES[f"model.layers.0.self_attn.{each}.weight"]
                      for each in modules}  # fmt: skip
            source = write_peft(Path(temporary) / f"adapter-{rank}", random_pairs(shapes, rank))
            rkllm_ext.convert_lora(source, llama, adapters / f"rank-{rank}.rkllm", dtype=dtype)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
