# SPDX-License-Identifier: Apache-2.0
"""Layers of one model that differ: which have a sliding window, which are rotated and by which base."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rkllm_ext.arch import Located, ModelSpec, resolve
from rkllm_ext.arch.llama import LLAMA
from rkllm_ext.arch.rope import inverse_frequencies
from rkllm_ext.arch.spec import Tensor
from rkllm_ext.errors import ModelFileError, UnsupportedModelError

BASE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 40,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def shapes(layers: int, gemma: bool) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (40, 32), "model.norm.weight": (32,)}
    for i in range(layers):
        for name, slot in LLAMA.tensors.items():
            if "{i}" in name and name.endswith(".weight"):
                source = Tensor(str(slot.hf)).name.format(i=i)
                widths = {"dim": 32, "ffn_dim": 48, "q_dim": 32, "kv_dim": 16}
                found[source] = tuple(widths[size] for size in slot.shape.split())
        if gemma:
            found |= {f"model.layers.{i}.{part}_feedforward_layernorm.weight": (32,) for part in ("pre", "post")}
            found |= {f"model.layers.{i}.self_attn.{part}_norm.weight": (16,) for part in "qk"}
    return found


def smollm3(**changes: Any) -> ModelSpec:
    config = {**BASE, "model_type": "smollm3", **changes}
    return resolve(config, "huggingface", shapes(config["num_hidden_layers"], gemma=False))[0]


def gemma3(**changes: Any) -> tuple[ModelSpec, dict[str, Located]]:
    config = {**BASE, "model_type": "gemma3_text", "head_dim": 16, **changes}
    return resolve(config, "huggingface", shapes(config["num_hidden_layers"], gemma=True))


def frequencies(tensors: dict[str, Located], name: str) -> np.ndarray:
    found: np.ndarray = tensors[name].source.build(lambda _: np.zeros(0))
    return found


def test_every_fourth_layer_is_not_rotated_unless_the_configuration_says_so() -> None:
    assert smollm3()["unrotated_layer_period"] == 4
    assert smollm3(no_rope_layer_interval=3)["unrotated_layer_period"] == 3
    assert smollm3(no_rope_layers=[1, 0, 1, 0], no_rope_layer_interval=3)["unrotated_layer_period"] == 2
    assert smollm3(no_rope_layers=[0, 0, 0, 0])["unrotated_layer_period"] == 1
    assert smollm3(no_rope_layers=[1, 1, 1, 1])["unrotated_layer_period"] == 0
    assert smollm3(no_rope_layers=[1, 1, 0, 1, 1, 1, 1, 1])["unrotated_layer_period"] == 3  # more than layers


@pytest.mark.parametrize("layers", [[0, 1, 1, 1], [1, 0, 0, 1], [1, 0, 1, 1], [1, 2, 1, 1]])
def test_a_pattern_without_a_period_is_refused(layers: list[int]) -> None:
    with pytest.raises(UnsupportedModelError, match=r"no_rope_layers is .* at every so many layers"):
        smollm3(no_rope_layers=layers)


@pytest.mark.parametrize(
    "change",
    [
        {"no_rope_layers": [1, 0]},
        {"no_rope_layers": "1010"},
        {"no_rope_layer_interval": 0},
        {"no_rope_layer_interval": "4"},
        {"no_rope_layers": [1, 1, 1, 0], "num_hidden_layers": -4},
    ],
)
def test_a_pattern_that_cannot_be_used_is_named(change: dict[str, Any]) -> None:
    key = next(iter(change))
    config = {**BASE, "model_type": "smollm3", **change}
    with pytest.raises(ModelFileError, match=f"{key} is "):
        resolve(config, "huggingface", shapes(4, gemma=False))


def test_layers_of_other_kinds_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"layer_types is .*'sliding_attention'.*supported: full_attention"):
        smollm3(layer_types=["full_attention"] * 3 + ["sliding_attention"])
    with pytest.raises(UnsupportedModelError, match="use_sliding_window is True"):
        smollm3(use_sliding_window=True)
    with pytest.raises(UnsupportedModelError, match=r"layer_types is .*'chunked_attention'"):
        gemma3(layer_types=["chunked_attention"] * 4)


def test_one_layer_of_six_is_global_and_has_the_larger_base() -> None:
    spec, tensors = gemma3()
    assert spec["global_layer_period"] == 6
    assert np.array_equal(frequencies(tensors, "rope_inv_freq.weight"), inverse_frequencies(1e6, 16))
    assert np.array_equal(frequencies(tensors, "rope_inv_freq_local.weight"), inverse_frequencies(1e4, 16))


@pytest.mark.parametrize(
    "rope",
    [
        {
            "rope_theta": 2e6,
            "rope_local_base_freq": 3e3,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            "sliding_window_pattern": 2,
        },
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 2e6, "factor": 4.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 3e3},
            },
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ],
    ids=["transformers 4", "transformers 5"],
)
def test_only_global_layers_are_scaled(rope: dict[str, Any]) -> None:
    spec, tensors = gemma3(**rope)
    assert spec["global_layer_period"] == 2
    expected = inverse_frequencies(2e6, 16) / np.float32(4)
    assert np.array_equal(frequencies(tensors, "rope_inv_freq.weight"), expected)
    assert np.array_equal(frequencies(tensors, "rope_inv_freq_local.weight"), inverse_frequencies(3e3, 16))


@pytest.mark.parametrize(
    "parameters",
    [
        {"sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        {"sliding_attention": [1]},
        {"full_attention": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
    ],
)
def test_other_scalings_of_single_kinds_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match="the rope scaling"):
        gemma3(rope_parameters=parameters)


def test_null_is_none_where_an_absent_key_means_the_default() -> None:
    mistral = {**BASE, "model_type": "mistral", "tie_word_embeddings": True}
    sizes = shapes(4, gemma=False)
    assert resolve(mistral, "huggingface", sizes)[0]["sliding_window"] == 4096
    assert "sliding_window" not in resolve({**mistral, "sliding_window": None}, "huggingface", sizes)[0]


def test_a_share_of_rotated_dimensions_may_stand_among_the_rotation() -> None:
    """As transformers 5 writes it; there it comes before one that stands alone."""
    config = {**BASE, "model_type": "llama", "partial_rotary_factor": 1.0, "rope_parameters": {}}
    assert resolve(config, "huggingface", shapes(4, gemma=False))[0]["rope_dim"] == 16
    config["rope_parameters"] = {"rope_theta": 1e4, "partial_rotary_factor": 0.5}
    with pytest.raises(UnsupportedModelError, match=r"partial_rotary_factor is 0\.5"):
        resolve(config, "huggingface", shapes(4, gemma=False))
