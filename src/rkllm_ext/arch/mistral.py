# SPDX-License-Identifier: Apache-2.0
"""Mistral: LLaMA with a sliding window on every layer. GGUF files of it call themselves llama and have none."""

from __future__ import annotations

from .llama import LLAMA

MISTRAL = LLAMA.but(
    name="mistral",
    hf_types=("mistral",),
    gguf_types=(),
    hf_keys={"sliding_window": "sliding_window"},
    hf_defaults={"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    # a mixture of layers, which the genuine code of this type ignores with a warning
    hf_only={"layer_types": (None,)},
    tensors={name: None for name in LLAMA.tensors if name.endswith(".bias")},
)
