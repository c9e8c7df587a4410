# SPDX-License-Identifier: Apache-2.0
"""MiniCPM, up to 4: LLaMA with three scalings, of embeddings, of what each sub-layer adds, and of the logits."""

from __future__ import annotations

from .llama import LLAMA
from .spec import Rule

MINICPM = LLAMA.but(
    name="minicpm",
    hf_types=("minicpm",),
    gguf_types=("minicpm",),
    hf_keys={
        "embed_scale": "scale_emb",
        "residual_scale": Rule(("scale_depth", "num_hidden_layers"), lambda scale, layers: scale / layers**0.5),
        "logit_scale": Rule(("dim_model_base", "hidden_size"), lambda base, dim: base / dim),
    },
    gguf_keys={
        "embed_scale": "embedding_scale",
        "residual_scale": "residual_scale",
        "logit_scale": Rule(("logit_scale",), lambda divisor: 1.0 / divisor),
    },
    hf_defaults={"scale_emb": 1, "scale_depth": 1, "dim_model_base": 1, "tie_word_embeddings": True},
    longrope_by_limit=True,
    hf_only={"num_experts": (None, 0), "sparse_config": (None,)},
    tensors={"blk.{i}.ffn_gate.bias": None, "blk.{i}.ffn_up.bias": None, "blk.{i}.ffn_down.bias": None},
)
