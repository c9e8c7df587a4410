# SPDX-License-Identifier: Apache-2.0
"""ChatGLM2 and ChatGLM3: fused projections, and half of each head rotated in neighbouring pairs."""

from __future__ import annotations

from .llama import LLAMA
from .spec import Deinterleave, Part, Rule, Slot, Source

_LAYER = "transformer.encoder.layers.{i}."
_ROWS = ("q_dim", "kv_dim", "kv_dim")


def _qkv(index: int, kind: str) -> Slot:
    def source(name: str) -> Source:
        part = Part(name, _ROWS, index)
        return part if index == 2 else Deinterleave(part, ("n_heads", "n_kv_heads")[index])

    shape = f"{_ROWS[index]} dim" if kind == "weight" else _ROWS[index]
    hf, gguf = _LAYER + f"self_attention.query_key_value.{kind}", "blk.{i}.attn_qkv." + kind
    return Slot(shape, source(hf), source(gguf), when="" if kind == "weight" else "add_qkv_bias")


def _gate_up(index: int) -> Slot:
    rows = ("ffn_dim", "ffn_dim")
    hf, gguf = _LAYER + "mlp.dense_h_to_4h.weight", "blk.{i}.ffn_up.weight"
    return Slot("ffn_dim dim", Part(hf, rows, index), Part(gguf, rows, index))


CHATGLM3 = LLAMA.but(
    name="chatglm3",
    hf_types=("chatglm",),
    gguf_types=("chatglm",),
    hf_keys={
        "n_layers": "num_layers",
        "n_kv_heads": "multi_query_group_num",
        "head_dim": "kv_channels",
        "ffn_dim": "ffn_hidden_size",
        "vocab_size": "padded_vocab_size",
        "max_context": "seq_length",
        "norm_eps": "layernorm_epsilon",
        "activation": None,
        "rope_dim": Rule(("kv_channels",), lambda width: int(width) // 2),
    },
    hf_rope_base=Rule(("rope_ratio",), lambda ratio: 10000.0 * ratio),
    partial_rotary=True,
    hf_defaults={"rope_ratio": 1, "add_qkv_bias": False, "layernorm_epsilon": 1e-5},
    hf_only={
        "multi_query_attention": (True,),
        "add_bias_linear": (False,),
        "rmsnorm": (None, True),
        "post_layer_norm": (None, True),
        "apply_residual_connection_post_layernorm": (None, False),
        "original_rope": (None, True),
    },
    tensors={
        **{name: None for name in LLAMA.tensors if name.endswith(".bias")},
        "token_embd.weight": Slot("vocab_size dim", "transformer.embedding.word_embeddings.weight"),
        "blk.{i}.attn_norm.weight": Slot("dim", _LAYER + "input_layernorm.weight"),
        **{f"blk.{{i}}.attn_{name}.weight": _qkv(index, "weight") for index, name in enumerate("qkv")},
        **{f"blk.{{i}}.attn_{name}.bias": _qkv(index, "bias") for index, name in enumerate("qkv")},
        "blk.{i}.attn_output.weight": Slot("dim q_dim", _LAYER + "self_attention.dense.weight"),
        "blk.{i}.ffn_norm.weight": Slot("dim", _LAYER + "post_attention_layernorm.weight"),
        "blk.{i}.ffn_gate.weight": _gate_up(0),
        "blk.{i}.ffn_up.weight": _gate_up(1),
        "blk.{i}.ffn_down.weight": Slot("dim ffn_dim", _LAYER + "mlp.dense_4h_to_h.weight"),
        "output_norm.weight": Slot("dim", "transformer.encoder.final_layernorm.weight"),
        "output.weight": Slot(
            "vocab_size dim", "transformer.output_layer.weight", when="not tie_word_embeddings", spare=True
        ),
    },
    ignored=("transformer.rotary_pos_emb.inv_freq",),
)
