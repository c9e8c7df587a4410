# SPDX-License-Identifier: Apache-2.0
"""One transformer block in torch, executed from the model's spec as the engine does it (src/runtime/transformer.cpp).

Needs the extra ``torch``. Only what `gdq` learns through is here: whole sequences, no cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

import torch

from ..arch.spec import ModelSpec
from ..errors import UnsupportedModelError

Tensors = Mapping[str, torch.Tensor]  # by canonical name without "blk.<i>.", as "attn_q.weight"
Linear = Callable[[str, torch.Tensor], torch.Tensor]  # (name without ".weight", rows) -> rows

# Fields that change what a block computes and are not computed here.
_REFUSED = ("kv_lora_rank", "rope_dynamic_factor", "rope_doubling", "rope_long", "logn_context")


def refuse_unknown_features(spec: ModelSpec) -> None:
    """Refuse a model whose blocks are more than `block_forward` computes.

    Raises
    ------
    UnsupportedModelError
        The features are named.
    """
    found = [name for name in _REFUSED if spec.get(name)]
    if found:
        raise UnsupportedModelError(
            f"gdq does not support models with {', '.join(found)}; use the algorithm normal, which supports all"
        )


def block_forward(spec: ModelSpec, layer: int, x: torch.Tensor, tensors: Tensors, linear: Linear) -> torch.Tensor:
    """Return the output of a block.

    Parameters
    ----------
    layer
        Its number.
    x
        float32 [sequences, length, dim], the residual stream.
    tensors
        The block's norms, and ``rope_inv_freq.weight`` (with ``rope_local`` its local companion as well).
    linear
        What multiplies by a matrix and adds its bias.

    Returns
    -------
    float32 [sequences, length, dim]
    """
    norm = _norm(spec, tensors, "attn_norm", x)
    added = linear("attn_output", _attention(spec, layer, norm, tensors, linear))
    x = x + _residual(spec, tensors, "post_attention_norm", added)
    if not spec.get("parallel_residual"):
        norm = _norm(spec, tensors, "ffn_norm", x)
    gate = linear("ffn_gate", norm) if spec.get("ffn_gated", 1) else linear("ffn_up", norm)
    active = _gelu(gate) if spec.get("activation") == "gelu" else torch.nn.functional.silu(gate)
    if spec.get("ffn_gated", 1):
        active = active * linear("ffn_up", norm)
    return x + _residual(spec, tensors, "post_ffw_norm", linear("ffn_down", active))


def _norm(spec: ModelSpec, tensors: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    eps = float(spec["norm_eps"])
    if spec.get("norm_type") == "layer":
        weight = tensors[name + ".weight"]
        return torch.nn.functional.layer_norm(x, weight.shape, weight, tensors[name + ".bias"], eps)
    return _rms(x, tensors[name + ".weight"], eps)


def _rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def _residual(spec: ModelSpec, tensors: Tensors, post_norm: str, added: torch.Tensor) -> torch.Tensor:
    if spec.get("post_norms"):
        added = _norm(spec, tensors, post_norm, added)
    return added * float(spec.get("residual_scale", 1.0))


def _gelu(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh")


def _attention(spec: ModelSpec, layer: int, x: torch.Tensor, tensors: Tensors, linear: Linear) -> torch.Tensor:
    heads, kv_heads, width = spec.size("n_heads"), spec.size("n_kv_heads"), spec.size("head_dim")
    q = linear("attn_q", x).unflatten(-1, (heads, width)).transpose(1, 2)
    k = linear("attn_k", x).unflatten(-1, (kv_heads, width)).transpose(1, 2)
    v = linear("attn_v", x).unflatten(-1, (kv_heads, width)).transpose(1, 2)
    if spec.get("qk_norms"):
        eps = float(spec["norm_eps"])
        q, k = _rms(q, tensors["attn_q_norm.weight"], eps), _rms(k, tensors["attn_k_norm.weight"], eps)
    is_global = _is_every(spec, "global_layer_period", layer)
    if not _is_every(spec, "unrotated_layer_period", layer):
        table = "rope_inv_freq_local.weight" if spec.get("rope_local") and not is_global else "rope_inv_freq.weight"
        q, k = _rotate(spec, q, tensors[table]), _rotate(spec, k, tensors[table])
    k, v = (m.repeat_interleave(heads // kv_heads, dim=1) for m in (k, v))
    scores = q @ k.transpose(-1, -2) * float(spec["attn_scale"])
    cap = float(spec.get("attn_softcap", 0.0))
    if cap:
        scores = cap * torch.tanh(scores / cap)
    hidden = _hidden(x.shape[1], 0 if is_global else int(spec.get("sliding_window", 0)), x.device)
    mixed = torch.softmax(scores.masked_fill(hidden, float("-inf")), dim=-1) @ v
    return mixed.transpose(1, 2).flatten(2)


def _is_every(spec: ModelSpec, field: str, layer: int) -> bool:
    period = int(spec.get(field, 0))
    return period > 0 and (layer + 1) % period == 0


def _hidden(length: int, window: int, device: Any) -> torch.Tensor:
    """Return which positions [query, key] are not attended to."""
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (distance < 0) | (distance >= window) if window else distance < 0


def _rotate(spec: ModelSpec, x: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Rotate the first rope_dim dimensions of heads [..., length, head_dim]; dimension i with i + rope_dim / 2."""
    angles = torch.arange(x.shape[-2], device=x.device)[:, None] * frequencies
    magnitude = float(spec.get("rope_magnitude", 1.0))
    cos, sin = torch.cos(angles) * magnitude, torch.sin(angles) * magnitude
    half = frequencies.numel()
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)
