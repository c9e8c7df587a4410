# SPDX-License-Identifier: Apache-2.0
"""SmolLM3: LLaMA with layers that have no rotary embedding."""

from __future__ import annotations

from .llama import LLAMA
from .spec import Every, Rule

SMOLLM3 = LLAMA.but(
    name="smollm3",
    hf_types=("smollm3",),
    gguf_types=("smollm3",),
    hf_keys={"unrotated_layer_period": Every("no_rope_layers", 0, 1, "no_rope_layer_interval")},
    gguf_keys={"unrotated_layer_period": Rule((), lambda: 4)},  # files do not say
    hf_defaults={
        "max_position_embeddings": 32768,
        "no_rope_layer_interval": 4,
        "num_key_value_heads": 4,
        "rope_theta": 2000000.0,
        "tie_word_embeddings": True,
    },
    hf_only={"use_sliding_window": (None, False), "layer_types": (None, "full_attention")},
)
