# SPDX-License-Identifier: Apache-2.0
"""LLaMA 1, 2 and 3, and whatever else is published under that name (SmolLM2, TinyLlama, ...)."""

from __future__ import annotations

from .spec import Deinterleave, Family, Slot, Tensor

_ATTENTION = "model.layers.{i}.self_attn."
_LAYER = "model.layers.{i}."


def _pairs(name: str, heads: str) -> Deinterleave:
    return Deinterleave(Tensor("blk.{i}." + name), heads)


LLAMA = Family(
    name="llama",
    hf_types=("llama",),
    gguf_types=("llama",),
    hf_keys={
        "n_layers": "num_hidden_layers",
        "dim": "hidden_size",
        "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads",
        "head_dim": "head_dim",
        "ffn_dim": "intermediate_size",
        "vocab_size": "vocab_size",
        "max_context": "max_position_embeddings",
        "norm_eps": "rms_norm_eps",
        "activation": "hidden_act",
    },
    hf_defaults={
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    },
    hf_only={"hidden_act": ("silu",), "partial_rotary_factor": (None, 1.0), "quantization_config": (None,)},
    gguf_keys={
        "n_layers": "block_count",
        "dim": "embedding_length",
        "n_heads": "attention.head_count",
        "n_kv_heads": "attention.head_count_kv",
        "head_dim": "attention.key_length",
        "ffn_dim": "feed_forward_length",
        "vocab_size": "vocab_size",
        "max_context": "context_length",
        "norm_eps": "attention.layer_norm_rms_epsilon",
        "rope_dim": "rope.dimension_count",
    },
    gguf_only={"expert_count": (None, 0)},
    tensors={
        "token_embd.weight": Slot("vocab_size dim", "model.embed_tokens.weight"),
        "blk.{i}.attn_norm.weight": Slot("dim", _LAYER + "input_layernorm.weight"),
        "blk.{i}.attn_q.weight": Slot("q_dim dim", _ATTENTION + "q_proj.weight", _pairs("attn_q.weight", "n_heads")),
        "blk.{i}.attn_q.bias": Slot(
            "q_dim", _ATTENTION + "q_proj.bias", _pairs("attn_q.bias", "n_heads"), when="attention_bias"
        ),
        "blk.{i}.attn_k.weight": Slot(
            "kv_dim dim", _ATTENTION + "k_proj.weight", _pairs("attn_k.weight", "n_kv_heads")
        ),
        "blk.{i}.attn_k.bias": Slot(
            "kv_dim", _ATTENTION + "k_proj.bias", _pairs("attn_k.bias", "n_kv_heads"), when="attention_bias"
        ),
        "blk.{i}.attn_v.weight": Slot("kv_dim dim", _ATTENTION + "v_proj.weight"),
        "blk.{i}.attn_v.bias": Slot("kv_dim", _ATTENTION + "v_proj.bias", when="attention_bias"),
        "blk.{i}.attn_output.weight": Slot("dim q_dim", _ATTENTION + "o_proj.weight"),
        "blk.{i}.attn_output.bias": Slot("dim", _ATTENTION + "o_proj.bias", when="attention_bias"),
        "blk.{i}.ffn_norm.weight": Slot("dim", _LAYER + "post_attention_layernorm.weight"),
        "blk.{i}.ffn_gate.weight": Slot("ffn_dim dim", _LAYER + "mlp.gate_proj.weight"),
        "blk.{i}.ffn_gate.bias": Slot("ffn_dim", _LAYER + "mlp.gate_proj.bias", when="mlp_bias"),
        "blk.{i}.ffn_up.weight": Slot("ffn_dim dim", _LAYER + "mlp.up_proj.weight"),
        "blk.{i}.ffn_up.bias": Slot("ffn_dim", _LAYER + "mlp.up_proj.bias", when="mlp_bias"),
        "blk.{i}.ffn_down.weight": Slot("dim ffn_dim", _LAYER + "mlp.down_proj.weight"),
        "blk.{i}.ffn_down.bias": Slot("dim", _LAYER + "mlp.down_proj.bias", when="mlp_bias"),
        "output_norm.weight": Slot("dim", "model.norm.weight"),
        "output.weight": Slot("vocab_size dim", "lm_head.weight", when="not tie_word_embeddings", spare=True),
    },
    ignored=("*.rotary_emb.inv_freq",),
)
