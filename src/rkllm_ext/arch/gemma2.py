# SPDX-License-Identifier: Apache-2.0
"""Gemma 2: Gemma with soft caps, norms on what sub-layers add, and a sliding window on every other layer."""

from __future__ import annotations

from .gemma import GEMMA, plus_one
from .spec import Rule

_27B_LAYERS = 46


def _gguf_attn_scale(layers: float, dim: float, heads: float, head_dim: float) -> float:
    # GGUF files do not say. The 27B model scales by dim / heads, the others by the width of a head.
    return float((dim / heads if layers == _27B_LAYERS else head_dim) ** -0.5)


GEMMA2 = GEMMA.but(
    name="gemma2",
    hf_types=("gemma2",),
    gguf_types=("gemma2",),
    hf_keys={
        "attn_scale": Rule(("query_pre_attn_scalar",), lambda width: width**-0.5),
        "attn_softcap": "attn_logit_softcapping",
        "logit_softcap": "final_logit_softcapping",
        "sliding_window": "sliding_window",
    },
    gguf_keys={
        "attn_scale": Rule(
            ("block_count", "embedding_length", "attention.head_count", "attention.key_length"), _gguf_attn_scale
        ),
        "attn_softcap": "attn_logit_softcapping",
        "logit_softcap": "final_logit_softcapping",
        "sliding_window": "attention.sliding_window",
    },
    constants={"post_norms": 1, "global_layer_period": 2},
    hf_defaults={
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
    },
    tensors={
        "blk.{i}.post_attention_norm.weight": plus_one("model.layers.{i}.post_attention_layernorm.weight"),
        "blk.{i}.ffn_norm.weight": plus_one("model.layers.{i}.pre_feedforward_layernorm.weight"),
        "blk.{i}.post_ffw_norm.weight": plus_one("model.layers.{i}.post_feedforward_layernorm.weight"),
    },
)
