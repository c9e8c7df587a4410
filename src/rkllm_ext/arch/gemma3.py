# SPDX-License-Identifier: Apache-2.0
"""Gemma 3, text: Gemma 2 with norms on query and key heads instead of soft caps, and a rotary base of their own for the
layers with a sliding window, which are five of six.
"""

from __future__ import annotations

from .gemma2 import GEMMA2
from .spec import Every, PlusOne, Rule, Slot, Tensor

_27B_LAYERS = 62


def _gguf_attn_scale(layers: float, dim: float, heads: float, head_dim: float) -> float:
    # GGUF files do not say. The 27B model scales by dim / heads, the others by the width of a head.
    return float((dim / heads if layers == _27B_LAYERS else head_dim) ** -0.5)


def _head_norm(name: str) -> Slot:
    return Slot("head_dim", PlusOne(Tensor("model.layers.{i}.self_attn." + name)))


GEMMA3 = GEMMA2.but(
    name="gemma3",
    hf_types=("gemma3_text",),
    gguf_types=("gemma3",),
    hf_keys={
        "attn_softcap": None,
        "global_layer_period": Every("layer_types", "full_attention", "sliding_attention", "sliding_window_pattern"),
    },
    gguf_keys={
        "attn_scale": Rule(
            ("block_count", "embedding_length", "attention.head_count", "attention.key_length"), _gguf_attn_scale
        ),
        "attn_softcap": None,
        "global_layer_period": Rule((), lambda: 6),
    },
    constants={"global_layer_period": None, "qk_norms": 1, "rope_local": 1},
    hf_local_rope_base="rope_local_base_freq",
    hf_defaults={
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "max_position_embeddings": 131072,
        "rope_local_base_freq": 10000.0,
        "rope_theta": 1000000.0,
        "sliding_window_pattern": 6,
    },
    hf_only={"attn_logit_softcapping": (None,)},
    gguf_only={"attention.sliding_window_pattern": (None, 6)},
    tensors={
        "blk.{i}.attn_q_norm.weight": _head_norm("q_norm.weight"),
        "blk.{i}.attn_k_norm.weight": _head_norm("k_norm.weight"),
    },
)
