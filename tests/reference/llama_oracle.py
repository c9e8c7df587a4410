# SPDX-License-Identifier: Apache-2.0
"""The Llama architecture in numpy, in double precision, written from the papers: the link between the reference logits
and the engine. Knows Hugging Face names and nothing of the package.

RMS norm arXiv:1910.07467, rotary embedding arXiv:2104.09864, SwiGLU arXiv:2002.05202, grouped queries arXiv:2305.13245.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def frequencies(config: dict[str, Any], head_dim: int, length: int) -> Array:
    """Return the rotary frequencies [head_dim / 2] for a sequence of the given length."""
    base = float(config.get("rope_theta", 10000.0))
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "dynamic" and length > config["max_position_embeddings"]:
        grown = scaling["factor"] * length / config["max_position_embeddings"] - (scaling["factor"] - 1)
        base *= grown ** (head_dim / (head_dim - 2))
    plain = base ** -(np.arange(0, head_dim, 2) / head_dim)
    if kind == "linear":
        return plain / scaling["factor"]
    if kind == "llama3":
        wavelength = 2 * math.pi / plain
        original, low, high = (
            scaling[key] for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
        )
        smooth = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
        return (1 - smooth) * plain / scaling["factor"] + smooth * plain
    return plain


def rotate(x: Array, angles: Array) -> Array:
    """Turn [T, H, D] by angles [T, D / 2]; dimension i pairs with i + D / 2."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight


def attention(q: Array, k: Array, v: Array) -> Array:
    """Causal attention, [T, H, D] queries over [T, G, D] keys and values."""
    k, v = (np.repeat(m, q.shape[1] // m.shape[1], axis=1) for m in (k, v))
    scores = np.einsum("thd,shd->hts", q, k) / math.sqrt(q.shape[-1])
    scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("hts,shd->thd", scores / scores.sum(axis=-1, keepdims=True), v)


def logits(config: dict[str, Any], load: Callable[[str], Any], names: list[str], ids: Any) -> Array:
    """Return the logits [T, vocab] of token ids [T]; load(name) gives a tensor of the checkpoint."""

    def linear(x: Array, name: str) -> Array:
        y = x @ np.asarray(load(name + ".weight"), np.float64).T
        return y + np.asarray(load(name + ".bias"), np.float64) if name + ".bias" in names else y

    heads = config["num_attention_heads"]
    groups = config.get("num_key_value_heads") or heads
    dim = config.get("head_dim") or config["hidden_size"] // heads
    eps = config["rms_norm_eps"]
    length = len(ids)
    angles = np.arange(length)[:, None] * frequencies(config, dim, length)
    embedding = np.asarray(load("model.embed_tokens.weight"), np.float64)
    x = embedding[np.asarray(ids)]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        h = norm(x, np.asarray(load(layer + "input_layernorm.weight"), np.float64), eps)
        q, k, v = (
            linear(h, f"{layer}self_attn.{name}_proj").reshape(length, n, dim)
            for name, n in (("q", heads), ("k", groups), ("v", groups))
        )
        mixed = attention(rotate(q, angles), rotate(k, angles), v).reshape(length, heads * dim)
        x = x + linear(mixed, layer + "self_attn.o_proj")
        h = norm(x, np.asarray(load(layer + "post_attention_layernorm.weight"), np.float64), eps)
        gate = linear(h, layer + "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, layer + "mlp.up_proj"), layer + "mlp.down_proj")
    x = norm(x, np.asarray(load("model.norm.weight"), np.float64), eps)
    return x @ embedding.T if "lm_head.weight" not in names else linear(x, "lm_head")
