# SPDX-License-Identifier: Apache-2.0
"""Qwen3: LLaMA with norms on query and key heads, and GGUF rows in half-split order as they are."""

from __future__ import annotations

from .llama import LLAMA
from .spec import Slot

_ATTENTION = "model.layers.{i}.self_attn."

QWEN3 = LLAMA.but(
    name="qwen3",
    hf_types=("qwen3",),
    gguf_types=("qwen3",),
    constants={"qk_norms": 1},
    hf_defaults={"head_dim": 128, "max_position_embeddings": 32768},
    # `sliding_window` is set in published files and means nothing unless use_sliding_window is true
    hf_only={"use_sliding_window": (None, False), "layer_types": (None, "full_attention")},
    tensors={
        "blk.{i}.attn_q.weight": Slot("q_dim dim", _ATTENTION + "q_proj.weight"),
        "blk.{i}.attn_q.bias": Slot("q_dim", _ATTENTION + "q_proj.bias", when="attention_bias"),
        "blk.{i}.attn_q_norm.weight": Slot("head_dim", _ATTENTION + "q_norm.weight"),
        "blk.{i}.attn_k.weight": Slot("kv_dim dim", _ATTENTION + "k_proj.weight"),
        "blk.{i}.attn_k.bias": Slot("kv_dim", _ATTENTION + "k_proj.bias", when="attention_bias"),
        "blk.{i}.attn_k_norm.weight": Slot("head_dim", _ATTENTION + "k_norm.weight"),
        "blk.{i}.ffn_gate.bias": None,
        "blk.{i}.ffn_up.bias": None,
        "blk.{i}.ffn_down.bias": None,
    },
)
