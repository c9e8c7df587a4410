# SPDX-License-Identifier: Apache-2.0
"""MiniCPM3: MiniCPM with multi-head latent attention."""

from __future__ import annotations

from .minicpm import MINICPM
from .spec import Part, Rule, Slot, TransposeHeads

_ATTENTION = "model.layers.{i}.self_attn."


def _kv_b(index: int, name: str = _ATTENTION + "kv_b_proj.weight") -> Part:
    rows = ("head_dim-rope_dim", "v_head_dim")
    return Part(name, rows, index, groups="n_heads")


_GGUF_KV_B = "blk.{i}.attn_kv_b.weight"


MINICPM3 = MINICPM.but(
    name="minicpm3",
    hf_types=("minicpm3",),
    gguf_types=("minicpm3",),
    hf_keys={
        "head_dim": Rule(("qk_nope_head_dim", "qk_rope_head_dim"), lambda nope, rope: int(nope + rope)),
        "rope_dim": "qk_rope_head_dim",
        # whatever v_head_dim says
        "v_head_dim": Rule(("hidden_size", "num_attention_heads"), lambda dim, heads: int(dim // heads)),
        "q_lora_rank": "q_lora_rank",
        "kv_lora_rank": "kv_lora_rank",
    },
    gguf_keys={
        "v_head_dim": Rule(("embedding_length", "attention.head_count"), lambda dim, heads: int(dim // heads)),
        "q_lora_rank": "attention.q_lora_rank",
        "kv_lora_rank": "attention.kv_lora_rank",
        # GGUF files do not record the scalings; they are those of the published model
        "embed_scale": Rule(("embedding_length",), lambda dim: 12.0),
        "residual_scale": Rule(("block_count",), lambda layers: 1.4 / layers**0.5),
        "logit_scale": Rule(("embedding_length",), lambda dim: 256.0 / dim),
    },
    partial_rotary=True,
    # one key, made of the latent, serves all heads; the latents' norms have their default epsilon
    constants={"n_kv_heads": 1, "lora_norm_eps": 1e-6},
    longrope_by_limit=True,
    hf_only={"attention_bias": (None, False)},
    tensors={
        **{name: None for name in MINICPM.tensors if name.startswith(("blk.{i}.attn_k", "blk.{i}.attn_v"))},
        "blk.{i}.attn_q.weight": None,
        "blk.{i}.attn_q.bias": None,
        "blk.{i}.attn_output.bias": None,
        "blk.{i}.attn_q_a.weight": Slot("q_lora_rank dim", _ATTENTION + "q_a_proj.weight"),
        "blk.{i}.attn_q_a_norm.weight": Slot("q_lora_rank", _ATTENTION + "q_a_layernorm.weight"),
        "blk.{i}.attn_q_b.weight": Slot("q_dim q_lora_rank", _ATTENTION + "q_b_proj.weight"),
        "blk.{i}.attn_kv_a_mqa.weight": Slot("kv_lora_rank+rope_dim dim", _ATTENTION + "kv_a_proj_with_mqa.weight"),
        "blk.{i}.attn_kv_a_norm.weight": Slot("kv_lora_rank", _ATTENTION + "kv_a_layernorm.weight"),
        "blk.{i}.attn_k_b.weight": Slot(
            "n_heads*kv_lora_rank head_dim-rope_dim",
            TransposeHeads(_kv_b(0), "n_heads"),
            TransposeHeads(_kv_b(0, _GGUF_KV_B), "n_heads"),
        ),
        "blk.{i}.attn_v_b.weight": Slot("n_heads*v_head_dim kv_lora_rank", _kv_b(1), _kv_b(1, _GGUF_KV_B)),
        "blk.{i}.attn_output.weight": Slot("dim n_heads*v_head_dim", _ATTENTION + "o_proj.weight"),
    },
)
