# SPDX-License-Identifier: Apache-2.0
"""Small configurations of the families beside LLaMA, with the shapes of their tensors in both kinds of files."""

from __future__ import annotations

from typing import Any

import numpy as np

from rkllm_ext.arch import Located, ModelSpec, resolve

Shapes = dict[str, tuple[int, ...]]

LLAMA_LIKE = {
    "hidden_size": 24,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "intermediate_size": 20,
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}

GEMMA_LIKE = {**LLAMA_LIKE, "head_dim": 8, "num_attention_heads": 6, "tie_word_embeddings": True}
GEMMA_SHAPES: Shapes = {
    "model.embed_tokens.weight": (50, 24),
    "model.layers.0.input_layernorm.weight": (24,),
    "model.layers.0.self_attn.q_proj.weight": (48, 24),
    "model.layers.0.self_attn.k_proj.weight": (16, 24),
    "model.layers.0.self_attn.v_proj.weight": (16, 24),
    "model.layers.0.self_attn.o_proj.weight": (24, 48),
    "model.layers.0.post_attention_layernorm.weight": (24,),
    "model.layers.0.mlp.gate_proj.weight": (20, 24),
    "model.layers.0.mlp.up_proj.weight": (20, 24),
    "model.layers.0.mlp.down_proj.weight": (24, 20),
    "model.norm.weight": (24,),
}

#: Family -> configuration of a model of one layer, and its tensors.
MODELS: dict[str, tuple[dict[str, Any], Shapes]] = {
    "internlm2": (
        {**LLAMA_LIKE, "model_type": "internlm2", "bias": True, "hidden_act": "silu"},
        {
            "model.tok_embeddings.weight": (50, 24),
            "model.layers.0.attention_norm.weight": (24,),
            "model.layers.0.attention.wqkv.weight": (40, 24),
            "model.layers.0.attention.wqkv.bias": (40,),
            "model.layers.0.attention.wo.weight": (24, 24),
            "model.layers.0.attention.wo.bias": (24,),
            "model.layers.0.ffn_norm.weight": (24,),
            "model.layers.0.feed_forward.w1.weight": (20, 24),
            "model.layers.0.feed_forward.w3.weight": (20, 24),
            "model.layers.0.feed_forward.w2.weight": (24, 20),
            "model.norm.weight": (24,),
            "output.weight": (50, 24),
        },
    ),
    "phi3": (
        {**LLAMA_LIKE, "model_type": "phi3", "partial_rotary_factor": 0.5, "sliding_window": 16},
        {
            "model.embed_tokens.weight": (50, 24),
            "model.layers.0.input_layernorm.weight": (24,),
            "model.layers.0.self_attn.qkv_proj.weight": (40, 24),
            "model.layers.0.self_attn.o_proj.weight": (24, 24),
            "model.layers.0.post_attention_layernorm.weight": (24,),
            "model.layers.0.mlp.gate_up_proj.weight": (40, 24),
            "model.layers.0.mlp.down_proj.weight": (24, 20),
            "model.norm.weight": (24,),
            "lm_head.weight": (50, 24),
        },
    ),
    "gemma": ({**GEMMA_LIKE, "model_type": "gemma", "hidden_act": "gelu"}, GEMMA_SHAPES),
    "gemma2": (
        {
            **GEMMA_LIKE,
            "model_type": "gemma2",
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 8,
            "sliding_window": 16,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        {
            **GEMMA_SHAPES,
            "model.layers.0.pre_feedforward_layernorm.weight": (24,),
            "model.layers.0.post_feedforward_layernorm.weight": (24,),
        },
    ),
    "minicpm": (
        {
            **LLAMA_LIKE,
            "model_type": "minicpm",
            "scale_emb": 12,
            "scale_depth": 1.4,
            "dim_model_base": 8,
            "tie_word_embeddings": True,
        },
        {
            **GEMMA_SHAPES,
            "model.layers.0.self_attn.q_proj.weight": (24, 24),
            "model.layers.0.self_attn.k_proj.weight": (8, 24),
            "model.layers.0.self_attn.v_proj.weight": (8, 24),
            "model.layers.0.self_attn.o_proj.weight": (24, 24),
        },
    ),
    "qwen3": (
        {**LLAMA_LIKE, "model_type": "qwen3", "head_dim": 8, "tie_word_embeddings": True},
        {
            **GEMMA_SHAPES,
            "model.layers.0.self_attn.q_norm.weight": (8,),
            "model.layers.0.self_attn.k_norm.weight": (8,),
        },
    ),
    "gemma3": (
        {**GEMMA_LIKE, "model_type": "gemma3_text", "sliding_window": 16, "query_pre_attn_scalar": 8},
        {
            **GEMMA_SHAPES,
            "model.layers.0.pre_feedforward_layernorm.weight": (24,),
            "model.layers.0.post_feedforward_layernorm.weight": (24,),
            "model.layers.0.self_attn.q_norm.weight": (8,),
            "model.layers.0.self_attn.k_norm.weight": (8,),
        },
    ),
    "phi": (
        {**LLAMA_LIKE, "model_type": "phi", "layer_norm_eps": 1e-5, "hidden_act": "gelu_new"},
        {
            "model.embed_tokens.weight": (50, 24),
            "model.layers.0.input_layernorm.weight": (24,),
            "model.layers.0.input_layernorm.bias": (24,),
            **{
                f"model.layers.0.{name}.{kind}": (rows, cols) if kind == "weight" else (rows,)
                for kind in ("weight", "bias")
                for name, rows, cols in [
                    ("self_attn.q_proj", 24, 24),
                    ("self_attn.k_proj", 8, 24),
                    ("self_attn.v_proj", 8, 24),
                    ("self_attn.dense", 24, 24),
                    ("mlp.fc1", 20, 24),
                    ("mlp.fc2", 24, 20),
                ]
            },
            "model.final_layernorm.weight": (24,),
            "model.final_layernorm.bias": (24,),
            "lm_head.weight": (50, 24),
            "lm_head.bias": (50,),
        },
    ),
    "chatglm3": (
        {
            "model_type": "chatglm",
            "num_layers": 1,
            "hidden_size": 24,
            "num_attention_heads": 6,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "kv_channels": 8,
            "ffn_hidden_size": 20,
            "padded_vocab_size": 50,
            "seq_length": 64,
            "add_qkv_bias": True,
            "add_bias_linear": False,
            "tie_word_embeddings": False,
        },
        {
            "transformer.embedding.word_embeddings.weight": (50, 24),
            "transformer.encoder.layers.0.input_layernorm.weight": (24,),
            "transformer.encoder.layers.0.self_attention.query_key_value.weight": (80, 24),
            "transformer.encoder.layers.0.self_attention.query_key_value.bias": (80,),
            "transformer.encoder.layers.0.self_attention.dense.weight": (24, 48),
            "transformer.encoder.layers.0.post_attention_layernorm.weight": (24,),
            "transformer.encoder.layers.0.mlp.dense_h_to_4h.weight": (40, 24),
            "transformer.encoder.layers.0.mlp.dense_4h_to_h.weight": (24, 20),
            "transformer.encoder.final_layernorm.weight": (24,),
            "transformer.output_layer.weight": (50, 24),
        },
    ),
    "minicpm3": (
        {
            **LLAMA_LIKE,
            "model_type": "minicpm3",
            "num_key_value_heads": 6,
            "qk_nope_head_dim": 5,
            "qk_rope_head_dim": 2,
            "q_lora_rank": 12,
            "kv_lora_rank": 16,
            "v_head_dim": 9,
            "scale_emb": 12,
            "scale_depth": 1.4,
            "dim_model_base": 8,
            "tie_word_embeddings": True,
        },
        {
            **{name: shape for name, shape in GEMMA_SHAPES.items() if "self_attn" not in name},
            "model.layers.0.self_attn.q_a_proj.weight": (12, 24),
            "model.layers.0.self_attn.q_a_layernorm.weight": (12,),
            "model.layers.0.self_attn.q_b_proj.weight": (42, 12),
            "model.layers.0.self_attn.kv_a_proj_with_mqa.weight": (18, 24),
            "model.layers.0.self_attn.kv_a_layernorm.weight": (16,),
            "model.layers.0.self_attn.kv_b_proj.weight": (54, 16),
            "model.layers.0.self_attn.o_proj.weight": (24, 24),
        },
    ),
    "qwen": (
        {
            "model_type": "qwen",
            "num_hidden_layers": 1,
            "hidden_size": 24,
            "num_attention_heads": 6,
            "kv_channels": 4,
            "intermediate_size": 40,
            "vocab_size": 50,
            "seq_length": 16,
            "max_position_embeddings": 64,
            "layer_norm_epsilon": 1e-5,
            "no_bias": True,
            "use_dynamic_ntk": False,
            "use_logn_attn": False,
        },
        {
            "transformer.wte.weight": (50, 24),
            "transformer.h.0.ln_1.weight": (24,),
            "transformer.h.0.attn.c_attn.weight": (72, 24),
            "transformer.h.0.attn.c_attn.bias": (72,),
            "transformer.h.0.attn.c_proj.weight": (24, 24),
            "transformer.h.0.ln_2.weight": (24,),
            "transformer.h.0.mlp.w1.weight": (20, 24),
            "transformer.h.0.mlp.w2.weight": (20, 24),
            "transformer.h.0.mlp.c_proj.weight": (24, 20),
            "transformer.ln_f.weight": (24,),
            "lm_head.weight": (50, 24),
        },
    ),
}

GGUF_KEYS = {
    "block_count": 1,
    "embedding_length": 24,
    "attention.head_count": 6,
    "attention.head_count_kv": 2,
    "feed_forward_length": 20,
    "context_length": 64,
    "attention.layer_norm_rms_epsilon": 1e-5,
}


def fused(kind: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...] | None]:
    """Return the changes that make one tensor of query, key and value."""
    return {**{f"blk.0.attn_{name}.{kind}": None for name in "qkv"}, f"blk.0.attn_qkv.{kind}": shape}


#: Family -> key/values of a GGUF file of the same model beside GGUF_KEYS, and tensors that are not the canonical ones
#: (None: absent).
GGUF_FILES: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...] | None]]] = {
    "internlm2": ({}, {}),
    "phi3": (
        {"rope.dimension_count": 2, "attention.sliding_window": 16},
        {**fused("weight", (40, 24)), "blk.0.ffn_gate.weight": None, "blk.0.ffn_up.weight": (40, 24)},
    ),
    "chatglm": (
        {"attention.key_length": 8, "rope.dimension_count": 4},
        {
            **fused("weight", (80, 24)),
            **fused("bias", (80,)),
            "blk.0.ffn_gate.weight": None,
            "blk.0.ffn_up.weight": (40, 24),
        },
    ),
    "qwen": (
        {"attention.head_count_kv": 6, "feed_forward_length": 40, "rope.dimension_count": 4},
        {**fused("weight", (72, 24)), **fused("bias", (72,))},
    ),
    "gemma": ({"attention.key_length": 8}, {}),
    "gemma2": (
        {
            "attention.key_length": 8,
            "attention.sliding_window": 16,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        {},
    ),
    "qwen3": ({"attention.key_length": 8}, {}),
    "gemma3": ({"attention.key_length": 8, "attention.sliding_window": 16, "rope.freq_base": 1000000.0}, {}),
    "minicpm": ({"embedding_scale": 12.0, "residual_scale": 1.4, "logit_scale": 3.0}, {}),
    "phi2": ({"rope.dimension_count": 2, "attention.layer_norm_epsilon": 1e-5}, {}),
}


def resolved(name: str, **changes: Any) -> tuple[ModelSpec, dict[str, Located]]:
    config, shapes = MODELS[name]
    return resolve({**config, **changes}, "huggingface", shapes)


def counted(shapes: Shapes) -> dict[str, np.ndarray]:
    """Return tensors in which no two values are alike."""
    tensors, first = {}, 1
    for name, shape in shapes.items():
        count = int(np.prod(shape))
        tensors[name] = np.arange(first, first + count, dtype=np.float32).reshape(shape)
        first += count
    return tensors
