# SPDX-License-Identifier: Apache-2.0
"""Qwen2 and Qwen2.5: LLaMA with biases on query, key and value, and GGUF rows in half-split order as they are."""

from __future__ import annotations

from .llama import LLAMA
from .spec import Slot

_ATTENTION = "model.layers.{i}.self_attn."

QWEN2 = LLAMA.but(
    name="qwen2",
    hf_types=("qwen2",),
    gguf_types=("qwen2",),
    hf_defaults={"max_position_embeddings": 32768},
    # `sliding_window` is set in published files and means nothing unless use_sliding_window is true
    hf_only={"use_sliding_window": (None, False)},
    tensors={
        "blk.{i}.attn_q.weight": Slot("q_dim dim", _ATTENTION + "q_proj.weight"),
        "blk.{i}.attn_q.bias": Slot("q_dim", _ATTENTION + "q_proj.bias"),
        "blk.{i}.attn_k.weight": Slot("kv_dim dim", _ATTENTION + "k_proj.weight"),
        "blk.{i}.attn_k.bias": Slot("kv_dim", _ATTENTION + "k_proj.bias"),
        "blk.{i}.attn_v.bias": Slot("kv_dim", _ATTENTION + "v_proj.bias"),
        "blk.{i}.attn_output.bias": None,
        "blk.{i}.ffn_gate.bias": None,
        "blk.{i}.ffn_up.bias": None,
        "blk.{i}.ffn_down.bias": None,
    },
)
