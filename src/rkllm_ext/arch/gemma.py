# SPDX-License-Identifier: Apache-2.0
"""Gemma: LLaMA with tanh GELU, scaled embeddings, a tied head, and norms stored as their difference from one."""

from __future__ import annotations

from .llama import LLAMA
from .spec import PlusOne, Rule, Slot, Tensor


def plus_one(name: str) -> Slot:
    """Return the slot of a norm; GGUF files hold the sum already."""
    return Slot("dim", PlusOne(Tensor(name)))


GEMMA = LLAMA.but(
    name="gemma",
    hf_types=("gemma",),
    gguf_types=("gemma",),
    hf_keys={"activation": None, "embed_scale": Rule(("hidden_size",), lambda dim: dim**0.5)},
    gguf_keys={"embed_scale": Rule(("embedding_length",), lambda dim: dim**0.5)},
    constants={"activation": "gelu"},
    hf_defaults={
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "hidden_act": None,
        "tie_word_embeddings": True,
    },
    # old configurations say "gelu" and mean its tanh form, which the genuine code then takes
    hf_only={
        "hidden_act": (None, "gelu", "gelu_pytorch_tanh"),
        "hidden_activation": (None, "gelu_pytorch_tanh"),
        "use_bidirectional_attention": (None, False),
    },
    tensors={
        "blk.{i}.attn_norm.weight": plus_one("model.layers.{i}.input_layernorm.weight"),
        "blk.{i}.attn_q.weight": Slot("q_dim dim", "model.layers.{i}.self_attn.q_proj.weight"),
        "blk.{i}.attn_q.bias": Slot("q_dim", "model.layers.{i}.self_attn.q_proj.bias", when="attention_bias"),
        "blk.{i}.attn_k.weight": Slot("kv_dim dim", "model.layers.{i}.self_attn.k_proj.weight"),
        "blk.{i}.attn_k.bias": Slot("kv_dim", "model.layers.{i}.self_attn.k_proj.bias", when="attention_bias"),
        "blk.{i}.ffn_norm.weight": plus_one("model.layers.{i}.post_attention_layernorm.weight"),
        "blk.{i}.ffn_gate.bias": None,
        "blk.{i}.ffn_up.bias": None,
        "blk.{i}.ffn_down.bias": None,
        "output_norm.weight": plus_one("model.norm.weight"),
    },
)
