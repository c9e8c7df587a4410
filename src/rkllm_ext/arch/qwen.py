# SPDX-License-Identifier: Apache-2.0
"""Qwen, the first generation: LLaMA under other names, with dynamic NTK by doubling and logn attention."""

from __future__ import annotations

from .llama import LLAMA
from .spec import Part, Rule, Slot

_LAYER = "transformer.h.{i}."


def _qkv(index: int, kind: str) -> Slot:
    rows = ("q_dim", "q_dim", "q_dim")
    hf, gguf = _LAYER + f"attn.c_attn.{kind}", "blk.{i}.attn_qkv." + kind
    return Slot("q_dim dim" if kind == "weight" else "q_dim", Part(hf, rows, index), Part(gguf, rows, index))


QWEN = LLAMA.but(
    name="qwen",
    hf_types=("qwen",),
    gguf_types=("qwen",),
    hf_keys={
        "n_kv_heads": "num_attention_heads",
        "head_dim": "kv_channels",
        "ffn_dim": Rule(("intermediate_size",), lambda both: int(both) // 2),  # gate and up together
        "norm_eps": "layer_norm_epsilon",
        "activation": None,
        "rope_doubling": Rule((), lambda: 1, when="use_dynamic_ntk"),
        "rope_original_context": Rule(("seq_length",), int, when="use_dynamic_ntk"),
        "logn_context": Rule(("seq_length",), int, when="use_logn_attn"),
    },
    # GGUF files do not tell whether the model wants NTK and logn; llama.cpp applies neither.
    gguf_keys={"ffn_dim": Rule(("feed_forward_length",), lambda both: int(both) // 2)},
    hf_rope_base="rotary_emb_base",
    hf_defaults={
        "max_position_embeddings": 8192,
        "layer_norm_epsilon": 1e-6,
        "rotary_emb_base": 10000.0,
        "no_bias": True,
    },
    hf_only={"no_bias": (True,), "rotary_pct": (None, 1.0), "scale_attn_weights": (None, True)},
    tensors={
        **{name: None for name in LLAMA.tensors if name.endswith(".bias")},
        "token_embd.weight": Slot("vocab_size dim", "transformer.wte.weight"),
        "blk.{i}.attn_norm.weight": Slot("dim", _LAYER + "ln_1.weight"),
        **{f"blk.{{i}}.attn_{name}.weight": _qkv(index, "weight") for index, name in enumerate("qkv")},
        **{f"blk.{{i}}.attn_{name}.bias": _qkv(index, "bias") for index, name in enumerate("qkv")},
        "blk.{i}.attn_output.weight": Slot("dim q_dim", _LAYER + "attn.c_proj.weight"),
        "blk.{i}.ffn_norm.weight": Slot("dim", _LAYER + "ln_2.weight"),
        "blk.{i}.ffn_gate.weight": Slot("ffn_dim dim", _LAYER + "mlp.w2.weight"),
        "blk.{i}.ffn_up.weight": Slot("ffn_dim dim", _LAYER + "mlp.w1.weight"),
        "blk.{i}.ffn_down.weight": Slot("dim ffn_dim", _LAYER + "mlp.c_proj.weight"),
        "output_norm.weight": Slot("dim", "transformer.ln_f.weight"),
    },
)
