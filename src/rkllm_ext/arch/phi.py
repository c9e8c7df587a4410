# SPDX-License-Identifier: Apache-2.0
"""Phi-1, 1.5 and 2: layer norms, attention and feed-forward layer side by side, biases, partly rotated heads."""

from __future__ import annotations

from .llama import LLAMA
from .spec import Rule, Slot

_LAYER = "model.layers.{i}."


def _linear(name: str, hf: str, shape: str) -> dict[str, Slot]:
    return {f"{name}.weight": Slot(shape, hf + ".weight"), f"{name}.bias": Slot(shape.split()[0], hf + ".bias")}


PHI = LLAMA.but(
    name="phi",
    hf_types=("phi",),
    gguf_types=("phi2",),
    hf_keys={
        "activation": None,
        "norm_eps": "layer_norm_eps",
        "rope_dim": Rule(
            ("hidden_size", "num_attention_heads", "partial_rotary_factor"),
            lambda dim, heads, share: int(dim // heads * share),
        ),
    },
    gguf_keys={"norm_eps": "attention.layer_norm_epsilon"},
    constants={"activation": "gelu", "norm_type": "layer", "parallel_residual": 1, "ffn_gated": 0},
    partial_rotary=True,
    hf_defaults={"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5, "hidden_act": "gelu_new"},
    hf_only={
        "hidden_act": ("gelu_new", "gelu_pytorch_tanh"),
        "partial_rotary_factor": None,
        "qk_layernorm": (None, False),
    },
    tensors={
        "blk.{i}.attn_norm.bias": Slot("dim", _LAYER + "input_layernorm.bias"),
        **_linear("blk.{i}.attn_q", _LAYER + "self_attn.q_proj", "q_dim dim"),
        **_linear("blk.{i}.attn_k", _LAYER + "self_attn.k_proj", "kv_dim dim"),
        **_linear("blk.{i}.attn_v", _LAYER + "self_attn.v_proj", "kv_dim dim"),
        **_linear("blk.{i}.attn_output", _LAYER + "self_attn.dense", "dim q_dim"),
        "blk.{i}.ffn_norm.weight": None,
        "blk.{i}.ffn_gate.weight": None,
        "blk.{i}.ffn_gate.bias": None,
        **_linear("blk.{i}.ffn_up", _LAYER + "mlp.fc1", "ffn_dim dim"),
        **_linear("blk.{i}.ffn_down", _LAYER + "mlp.fc2", "dim ffn_dim"),
        "output_norm.weight": Slot("dim", "model.final_layernorm.weight"),
        "output_norm.bias": Slot("dim", "model.final_layernorm.bias"),
        "output.weight": Slot("vocab_size dim", "lm_head.weight"),
        "output.bias": Slot("vocab_size", "lm_head.bias"),
    },
)
