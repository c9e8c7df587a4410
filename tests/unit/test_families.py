# SPDX-License-Identifier: Apache-2.0
"""Each family beside LLaMA: its spec, where its tensors come from in both kinds of files, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rkllm_ext.arch import Located, ModelSpec, resolve
from rkllm_ext.arch.spec import Deinterleave, Part, Tensor
from rkllm_ext.errors import ModelFileError

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

#: Family -> key/values of a GGUF file of the same model beside GGUF_KEYS, and tensors that are not the canonical ones
#: (None: absent).
GGUF_FILES: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...] | None]]] = {
    "internlm2": ({}, {}),
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


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_can_be_built_and_no_value_is_left_out(name: str) -> None:
    _, tensors = resolved(name)
    weights = counted(MODELS[name][1])
    used: list[float] = []
    for canonical, located in tensors.items():
        built = located.source.build(weights.__getitem__)
        assert built.shape == located.shape, canonical
        if located.source.moves_rows_only:
            used += built.ravel().tolist()
    moved = {
        each for located in tensors.values() if located.source.moves_rows_only for each in located.source.wants(())
    }
    assert sorted(used) == sorted(value for each in moved for value in weights[each].ravel().tolist())


@pytest.mark.parametrize("name", MODELS)
def test_missing_and_misshapen_tensors_are_named(name: str) -> None:
    config, shapes = MODELS[name]
    for tensor, shape in shapes.items():
        with pytest.raises(ModelFileError, match=f"1 missing: {tensor} "):
            resolve(config, "huggingface", {each: shape for each, shape in shapes.items() if each != tensor})
        with pytest.raises(ModelFileError, match=f"1 of another shape: {tensor} expected"):
            resolve(config, "huggingface", {**shapes, tensor: (shape[0] + 1, *shape[1:])})


@pytest.mark.parametrize("name", GGUF_FILES)
def test_a_gguf_file_resolves_to_the_same_model(name: str) -> None:
    spec, tensors = resolved(name)
    keys, changed = GGUF_FILES[name]
    config = {f"{name}.{key}": value for key, value in {**GGUF_KEYS, **keys}.items()}
    shapes = {each: tensor.shape for each, tensor in tensors.items() if each != "rope_inv_freq.weight"}
    shapes = {each: shape for each, shape in {**shapes, **changed}.items() if shape is not None}
    found, located = resolve({"general.architecture": name, **config}, "gguf", shapes)
    assert {**found, "activation": ""} == {**spec, "activation": ""}
    assert {each: tensor.shape for each, tensor in located.items()} == {
        each: tensor.shape for each, tensor in tensors.items()
    }


def test_grouped_rows_are_put_together_from_every_group() -> None:
    rows = np.arange(2 * 5 * 3).reshape(10, 3)
    parts = [Part("w", (3, 1, 1), index, groups=2).build(lambda _: rows) for index in range(3)]
    assert np.array_equal(parts[0], rows[[0, 1, 2, 5, 6, 7]])
    assert np.array_equal(parts[1], rows[[3, 8]])
    assert np.array_equal(parts[2], rows[[4, 9]])
    assert Part("w", (3, 1, 1), 1, groups=2).wants((2, 3)) == {"w": (10, 3)}


def test_rows_that_are_not_rotated_stay_where_they_are() -> None:
    rows = np.arange(12)
    built = Deinterleave(Tensor("w"), 2, 4).build(lambda _: rows)
    assert built.tolist() == [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]


def test_internlm2_splits_each_group_into_queries_key_and_value() -> None:
    _, tensors = resolved("internlm2")
    whole = np.arange(40 * 24).reshape(40, 24)
    query, key, value = (tensors[f"blk.0.attn_{name}.weight"].source.build(lambda _: whole) for name in "qkv")
    assert np.array_equal(query, np.concatenate([whole[0:12], whole[20:32]]))
    assert np.array_equal(key, np.concatenate([whole[12:16], whole[32:36]]))
    assert np.array_equal(value, np.concatenate([whole[16:20], whole[36:40]]))
