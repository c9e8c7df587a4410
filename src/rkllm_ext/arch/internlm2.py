# SPDX-License-Identifier: Apache-2.0
"""InternLM2 and 2.5: LLaMA under other names, with query, key and value in one matrix, grouped by key head."""

from __future__ import annotations

from .llama import LLAMA
from .spec import Part, Slot

_LAYER = "model.layers.{i}."
_ROWS = ("group_dim", "head_dim", "head_dim")


def _qkv(kind: str, index: int) -> Part:
    return Part(_LAYER + "attention.wqkv." + kind, _ROWS, index, groups="n_kv_heads")


def _projections() -> dict[str, Slot]:
    slots = {}
    for index, (name, rows) in enumerate({"attn_q": "q_dim", "attn_k": "kv_dim", "attn_v": "kv_dim"}.items()):
        weight, bias = f"blk.{{i}}.{name}.weight", f"blk.{{i}}.{name}.bias"
        slots[weight] = Slot(f"{rows} dim", _qkv("weight", index), LLAMA.tensors[weight].gguf)
        slots[bias] = Slot(rows, _qkv("bias", index), LLAMA.tensors[bias].gguf, when="bias")
    return slots


INTERNLM2 = LLAMA.but(
    name="internlm2",
    hf_types=("internlm2",),
    gguf_types=("internlm2",),
    hf_defaults={"bias": False},
    tensors={
        "token_embd.weight": Slot("vocab_size dim", "model.tok_embeddings.weight"),
        "blk.{i}.attn_norm.weight": Slot("dim", _LAYER + "attention_norm.weight"),
        **_projections(),
        "blk.{i}.attn_output.weight": Slot("dim q_dim", _LAYER + "attention.wo.weight"),
        "blk.{i}.attn_output.bias": Slot("dim", _LAYER + "attention.wo.bias", when="bias"),
        "blk.{i}.ffn_norm.weight": Slot("dim", _LAYER + "ffn_norm.weight"),
        "blk.{i}.ffn_gate.weight": Slot("ffn_dim dim", _LAYER + "feed_forward.w1.weight"),
        "blk.{i}.ffn_gate.bias": None,
        "blk.{i}.ffn_up.weight": Slot("ffn_dim dim", _LAYER + "feed_forward.w3.weight"),
        "blk.{i}.ffn_up.bias": None,
        "blk.{i}.ffn_down.weight": Slot("dim ffn_dim", _LAYER + "feed_forward.w2.weight"),
        "blk.{i}.ffn_down.bias": None,
        "output.weight": Slot("vocab_size dim", "output.weight", when="not tie_word_embeddings", spare=True),
    },
)
