# SPDX-License-Identifier: Apache-2.0
"""The small Llama checkpoint of the repository as a GGUF file, laid out as llama.cpp's converter does it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from numpy.typing import NDArray

from rkllm_ext.readers import open_checkpoint

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def interleaved(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return query or key rows as such files hold them: the two halves of a head row by row in turn."""
    half = len(rows) // heads // 2
    order = [head * 2 * half + part * half + i for head in range(heads) for i in range(half) for part in range(2)]
    return rows[order]


def canonical_weights(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Return the weights of the checkpoint under their canonical names."""
    with open_checkpoint(folder) as checkpoint:
        names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
        for i in range(checkpoint.config["num_hidden_layers"]):
            names |= {f"blk.{i}.{name}.weight": f"model.layers.{i}.{hf}.weight" for name, hf in _LAYER.items()}
        return {name: checkpoint.load(hf) for name, hf in names.items()}


def write_gguf(
    folder: Path,
    out: Path,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    more: Mapping[str, tuple[NDArray[np.uint8], GGMLQuantizationType]] | None = None,
    **parts: Any,
) -> None:
    """Write the checkpoint in `folder` as a GGUF file with matrices of one type, and `more` tensors as raw bytes.

    `parts` are what the writer wants to know to write several files.
    """
    config = json.loads((folder / "config.json").read_text())
    tokens = json.loads((folder / "tokenizer.json").read_text())
    special = {token["content"]: token["id"] for token in tokens["added_tokens"]}
    vocabulary = {**tokens["model"]["vocab"], **special}
    texts = sorted(vocabulary, key=vocabulary.__getitem__)
    writer = GGUFWriter(out, "llama", **parts)
    writer.add_name("tiny")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(texts)
    writer.add_token_types([3 if text in special else 1 for text in texts])
    merges = tokens["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(special["<|im_start|>"])
    writer.add_eos_token_id(special["<|im_end|>"])
    for name, weights in canonical_weights(folder).items():
        heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
        part = name.split(".")[-2]
        stored = interleaved(weights, heads[part]) if part in heads else weights
        if weights.ndim == 1:
            writer.add_tensor(name, stored)
        else:
            writer.add_tensor(name, quantize(stored, kind), raw_dtype=kind)
    for name, (raw, raw_kind) in (more or {}).items():
        writer.add_tensor(name, raw, raw_dtype=raw_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
