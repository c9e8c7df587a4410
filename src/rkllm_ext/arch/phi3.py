# SPDX-License-Identifier: Apache-2.0
"""Phi-3 and Phi-3.5: LLaMA with fused projections and a sliding window on every layer."""

from __future__ import annotations

from .llama import LLAMA
from .spec import Part, Rule, Slot

_LAYER = "model.layers.{i}."


def _qkv(index: int) -> Slot:
    rows = ("q_dim", "kv_dim", "kv_dim")
    hf, gguf = _LAYER + "self_attn.qkv_proj.weight", "blk.{i}.attn_qkv.weight"
    return Slot(f"{rows[index]} dim", Part(hf, rows, index), Part(gguf, rows, index))


def _gate_up(index: int) -> Slot:
    rows = ("ffn_dim", "ffn_dim")
    hf, gguf = _LAYER + "mlp.gate_up_proj.weight", "blk.{i}.ffn_up.weight"
    return Slot("ffn_dim dim", Part(hf, rows, index), Part(gguf, rows, index))


PHI3 = LLAMA.but(
    name="phi3",
    hf_types=("phi3",),
    gguf_types=("phi3",),
    hf_keys={
        "rope_dim": Rule(
            ("hidden_size", "num_attention_heads", "partial_rotary_factor"),
            lambda dim, heads, share: int(dim // heads * share),
        ),
        "sliding_window": "sliding_window",
    },
    gguf_keys={"sliding_window": "attention.sliding_window"},
    partial_rotary=True,
    hf_defaults={"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "partial_rotary_factor": 1.0},
    hf_only={"partial_rotary_factor": None, "attention_bias": (None, False)},
    tensors={
        "blk.{i}.attn_q.weight": _qkv(0),
        "blk.{i}.attn_k.weight": _qkv(1),
        "blk.{i}.attn_v.weight": _qkv(2),
        "blk.{i}.ffn_gate.weight": _gate_up(0),
        "blk.{i}.ffn_up.weight": _gate_up(1),
        **{name: None for name in LLAMA.tensors if name.endswith(".bias")},
    },
)
