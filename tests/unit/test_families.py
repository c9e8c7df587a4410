# SPDX-License-Identifier: Apache-2.0
"""Each family beside LLaMA: its spec, where its tensors come from in both kinds of files, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_configs import GGUF_FILES, GGUF_KEYS, MODELS, counted, resolved

import rkllm_ext
from rkllm_ext import arch
from rkllm_ext.arch import resolve
from rkllm_ext.arch.llama import LLAMA
from rkllm_ext.arch.rope import inverse_frequencies
from rkllm_ext.arch.spec import Deinterleave, Part, Tensor, TransposeHeads
from rkllm_ext.errors import ModelFileError, UnsupportedModelError
from rkllm_ext.quant.plan import plan


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_can_be_built_and_no_value_is_left_out(name: str) -> None:
    _, tensors = resolved(name)
    weights = counted(MODELS[name][1])
    used: list[float] = []
    moved: set[str] = set()
    for canonical, located in tensors.items():
        built = located.source.build(weights.__getitem__)
        assert built.shape == located.shape, canonical
        if isinstance(located.source, (Tensor, Part, Deinterleave, TransposeHeads)):
            used += built.ravel().tolist()
            moved.update(located.source.wants(located.shape))
    assert sorted(used) == sorted(value for each in moved for value in weights[each].ravel().tolist())
    assert {each for located in tensors.values() for each in located.source.wants(located.shape)} == set(weights)


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
    spec, tensors = resolved({"phi2": "phi", "chatglm": "chatglm3"}.get(name, name))
    keys, changed = GGUF_FILES[name]
    config = {f"{name}.{key}": value for key, value in {**GGUF_KEYS, **keys}.items()}
    shapes = {each: tensor.shape for each, tensor in tensors.items() if "rope_inv_freq" not in each}
    shapes = {each: shape for each, shape in {**shapes, **changed}.items() if shape is not None}
    found, located = resolve({"general.architecture": name, **config}, "gguf", shapes)
    assert found["attn_scale"] == pytest.approx(spec["attn_scale"])
    same = {"activation": "silu"}  # which may be left out
    assert {**same, **found} == {**same, **spec}
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


def test_gemma_norms_are_stored_as_their_difference_from_one() -> None:
    for name, count in {"gemma": 3, "gemma2": 5, "gemma3": 7}.items():
        _, tensors = resolved(name)
        norms = [tensor.source for each, tensor in tensors.items() if "norm" in each]
        assert len(norms) == count
        assert all(norm.build(lambda _: np.float32([-0.5]))[0] == 0.5 for norm in norms)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("phi3", {"sliding_window": 16, "rope_dim": 2, "head_dim": 4}),
        ("gemma", {"embed_scale": 24**0.5, "activation": "gelu", "attn_scale": 8**-0.5}),
        ("gemma2", {"attn_softcap": 50.0, "logit_softcap": 30.0, "global_layer_period": 2, "post_norms": 1}),
        ("qwen3", {"qk_norms": 1, "head_dim": 8}),
        ("gemma3", {"qk_norms": 1, "rope_local": 1, "global_layer_period": 6, "sliding_window": 16, "post_norms": 1}),
        ("minicpm", {"embed_scale": 12, "residual_scale": 1.4, "logit_scale": 8 / 24}),
        ("minicpm3", {"kv_lora_rank": 16, "n_kv_heads": 1, "head_dim": 7, "rope_dim": 2, "v_head_dim": 4}),
        ("chatglm3", {"rope_dim": 4, "n_kv_heads": 2, "head_dim": 8}),
        ("qwen", {"ffn_dim": 20, "n_kv_heads": 6}),
        ("phi", {"norm_type": "layer", "parallel_residual": 1, "ffn_gated": 0, "activation": "gelu", "rope_dim": 2}),
    ],
)
def test_features_are_fields_of_the_spec(name: str, fields: dict[str, Any]) -> None:
    spec, _ = resolved(name)
    assert {field: spec[field] for field in fields} == fields


def test_absent_features_are_left_out() -> None:
    assert "sliding_window" not in resolved("phi3", sliding_window=None)[0]
    without = resolved("gemma2", attn_logit_softcapping=None, final_logit_softcapping=None)[0]
    assert not {"attn_softcap", "logit_softcap"} & set(without)


def test_gemma2_scales_scores_by_its_own_width() -> None:
    assert resolved("gemma2", query_pre_attn_scalar=144)[0]["attn_scale"] == 144**-0.5


def test_qwen_sets_ntk_and_logn_as_asked() -> None:
    assert not {"rope_doubling", "rope_original_context", "logn_context"} & set(resolved("qwen")[0])
    ntk, logn = resolved("qwen", use_dynamic_ntk=True)[0], resolved("qwen", use_logn_attn=True)[0]
    assert (ntk["rope_doubling"], ntk["rope_original_context"], "logn_context" in ntk) == (1, 16, False)
    assert (logn["logn_context"], "rope_doubling" in logn) == (16, False)


def test_minicpm3_splits_the_expansion_of_its_latent_head_by_head() -> None:
    _, tensors = resolved("minicpm3")
    whole = np.arange(54 * 16).reshape(54, 16)
    keys, values = (tensors[f"blk.0.attn_{name}_b.weight"].source.build(lambda _: whole) for name in "kv")
    for head in range(6):
        rows = whole[9 * head : 9 * head + 9]
        assert np.array_equal(keys[16 * head : 16 * head + 16], rows[:5].T)
        assert np.array_equal(values[4 * head : 4 * head + 4], rows[5:])


def test_minicpm3_has_the_long_factors_at_every_length_where_its_limit_exceeds_the_original_length() -> None:
    scaling = {**LONGROPE, "original_max_position_embeddings": 16}
    spec, tensors = resolved("minicpm3", rope_scaling=scaling)
    assert tensors["rope_inv_freq.weight"].source.build(lambda _: np.zeros(0)).tolist() == [0.25]
    assert "rope_inv_freq_long.weight" not in tensors and "rope_long" not in spec
    assert spec["rope_magnitude"] == math.sqrt(1 + math.log(64 / 16) / math.log(16))
    equal, tensors = resolved("minicpm3", rope_scaling={**scaling, "original_max_position_embeddings": 64})
    assert equal["rope_long"] == 1 and "rope_inv_freq_long.weight" in tensors


def test_expanding_matrices_of_latent_attention_stay_float() -> None:
    _, tensors = resolved("minicpm3")
    shapes = {name: tensor.shape for name, tensor in tensors.items() if name.endswith("_b.weight")}
    for asked, kept in {"w8a8": "fp16", "fp16": "fp16", "fp32": "fp32"}.items():
        formats = plan(shapes, asked)
        assert {name: format and format.name for name, format in formats.items()} == {
            "blk.0.attn_q_b.weight": asked,
            "blk.0.attn_k_b.weight": kept,
            "blk.0.attn_v_b.weight": kept,
        }


def test_chatglm3_turns_neighbouring_pairs_into_halves() -> None:
    _, tensors = resolved("chatglm3")
    whole = np.arange(80)
    query, key, value = (tensors[f"blk.0.attn_{name}.bias"].source.build(lambda _: whole) for name in "qkv")
    order = np.array([0, 2, 1, 3, 4, 5, 6, 7])
    assert query.tolist() == [8 * head + i for head in range(6) for i in order]
    assert key.tolist() == [48 + 8 * head + i for head in range(2) for i in order]
    assert value.tolist() == list(range(64, 80))


def test_chatglm3_multiplies_the_rotary_base() -> None:
    plain, ratio = (
        resolved("chatglm3", rope_ratio=ratio)[1]["rope_inv_freq.weight"].source.build(lambda _: np.zeros(0))
        for ratio in (1, 50)
    )
    assert np.array_equal(plain, inverse_frequencies(10000.0, 4))
    assert np.array_equal(ratio, inverse_frequencies(500000.0, 4))


LATENT = {"kv_lora_rank": 16, "q_lora_rank": 8, "v_head_dim": 8}
LONGROPE = {"type": "longrope", "short_factor": [1.5], "long_factor": [4.0]}


@pytest.mark.parametrize("kind", ["longrope", "su"])
def test_longrope_has_frequencies_for_both_lengths(kind: str) -> None:
    spec, tensors = resolved("phi3", rope_scaling={**LONGROPE, "type": kind}, original_max_position_embeddings=16)
    tables = [tensors[f"rope_inv_freq{name}.weight"].source.build(lambda _: np.zeros(0)) for name in ("", "_long")]
    assert [table.tolist() for table in tables] == [[np.float32(1 / 1.5)], [0.25]]
    assert (spec["rope_long"], spec["rope_original_context"], spec["max_context"]) == (1, 16, 64)
    assert spec["rope_magnitude"] == math.sqrt(1 + math.log(64 / 16) / math.log(16))


def test_longrope_without_a_longer_limit_reaches_beyond_it() -> None:
    spec, _ = resolved("phi3", rope_scaling={**LONGROPE, "original_max_position_embeddings": 64})
    assert (spec["rope_magnitude"], spec["max_context"]) == (1.0, 16 * 64)


def test_longrope_of_a_gguf_file_is_the_same() -> None:
    spec, _ = resolved("phi3", rope_scaling=LONGROPE, original_max_position_embeddings=16)
    keys, changed = GGUF_FILES["phi3"]
    scaling = {"rope.scaling.original_context_length": 16, "rope.scaling.attn_factor": spec["rope_magnitude"]}
    config = {f"phi3.{key}": value for key, value in {**GGUF_KEYS, **keys, **scaling}.items()}
    plain = {each: tensor.shape for each, tensor in resolved("phi3")[1].items() if "rope" not in each}
    shapes = {each: shape for each, shape in {**plain, **changed}.items() if shape is not None}
    shapes |= {"rope_factors_short.weight": (1,), "rope_factors_long.weight": (1,)}
    found, tensors = resolve({"general.architecture": "phi3", **config}, "gguf", shapes)
    assert {"activation": "silu", **found} == dict(spec)
    factors = {"rope_factors_short.weight": np.float32([1.5]), "rope_factors_long.weight": np.float32([4.0])}
    assert tensors["rope_inv_freq_long.weight"].source.build(factors.__getitem__).tolist() == [0.25]
    assert tensors["rope_inv_freq.weight"].source.build(factors.__getitem__).tolist() == [np.float32(1 / 1.5)]


@pytest.mark.parametrize(
    ("scaling", "original", "sentence"),
    [
        (LONGROPE, None, "longrope needs its original length, 2 to 64, found None"),
        (LONGROPE, 65, "longrope needs its original length, 2 to 64, found 65"),
        ({**LONGROPE, "long_factor": [1.0, 2.0]}, 16, "longrope needs 1 positive numbers under 'long_factor'"),
        ({**LONGROPE, "short_factor": [0.0]}, 16, "longrope needs 1 positive numbers under 'short_factor'"),
        ({**LONGROPE, "short_factor": None}, 16, "longrope needs 1 positive numbers under 'short_factor'"),
        ({**LONGROPE, "attention_factor": -1}, 16, "longrope has the attention factor -1"),
        ({**LONGROPE, "long_mscale": 1.2}, 16, "longrope with long_mscale is not supported"),
    ],
)
def test_longrope_without_usable_parameters_is_refused(scaling: Any, original: Any, sentence: str) -> None:
    with pytest.raises((ModelFileError, UnsupportedModelError), match=sentence):
        resolved("phi3", rope_scaling=scaling, original_max_position_embeddings=original)


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("gemma", {"hidden_activation": "relu"}, "hidden_activation is 'relu'"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm is True"),
        ("phi3", {"attention_bias": True}, "attention_bias is True"),
        ("minicpm", {"num_experts": 8}, "num_experts is 8"),
        ("minicpm", {"sparse_config": {"topk": 64}}, "sparse_config is {'topk': 64}"),
        ("chatglm3", {"multi_query_attention": False}, "multi_query_attention is False"),
        ("chatglm3", {"rmsnorm": False}, "rmsnorm is False"),
        ("qwen", {"no_bias": False}, "no_bias is False"),
    ],
)
def test_what_the_engine_lacks_is_refused(name: str, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UnsupportedModelError, match=sentence):
        resolved(name, **change)


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar = 0 cannot be used"),
        ("gemma2", {"query_pre_attn_scalar": "8"}, "query_pre_attn_scalar is '8'; a number is needed"),
        ("minicpm", {"num_hidden_layers": 0}, "num_hidden_layers = 0 cannot be used"),
        ("phi", {"num_attention_heads": 0}, "num_attention_heads = 0, partial_rotary_factor = 0.5 cannot be used"),
        ("phi3", {"partial_rotary_factor": 0.3}, "rotates 1 of 4"),
        ("phi3", {"sliding_window": [4]}, r"sliding_window is \[4\], which cannot be used"),
    ],
)
def test_numbers_that_cannot_be_used_are_named(name: str, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelFileError, match=sentence):
        resolved(name, **change)


@pytest.mark.parametrize(
    ("constants", "error", "sentence"),
    [
        ({"norm_type": "batch"}, UnsupportedModelError, "the norm_type 'batch' is not known to this version"),
        ({"activation": "relu"}, UnsupportedModelError, "the activation 'relu' is not known to this version"),
        ({"ffn_gated": 0}, UnsupportedModelError, "a feed-forward layer without gate needs activation gelu"),
        ({"ffn_gated": 0, "activation": "gelu"}, UnsupportedModelError, "blk.0.ffn_gate.weight' is not known"),
        ({"norm_type": "layer"}, ModelFileError, "'blk.0.attn_norm.bias' is missing"),
        ({"post_norms": 1}, ModelFileError, "'blk.0.post_attention_norm.weight' is missing"),
        ({"qk_norms": 1}, ModelFileError, "'blk.0.attn_q_norm.weight' is missing"),
        (
            {"qk_norms": 1, "n_heads": 8, "n_kv_heads": 4, "head_dim": 8, "rope_dim": 8},
            UnsupportedModelError,
            "head_dim is 8, but norms of heads need a multiple of 16",
        ),
        ({"qk_norms": 2}, ModelFileError, "qk_norms is 2, but must be 0 or 1"),
        ({"qk_norms": 1, "logn_context": 8}, ModelFileError, "qk_norms undo what logn_context does"),
        ({"rope_local": 1, "rope_doubling": 1, "rope_original_context": 8}, ModelFileError, "rope_local needs freq"),
        ({"parallel_residual": 2}, ModelFileError, "parallel_residual is 2, but must be 0 or 1"),
        ({"attn_softcap": -1.0}, ModelFileError, "attn_softcap is -1, which is out of range"),
        ({"rope_doubling": 1}, ModelFileError, "rope_doubling needs rope_original_context"),
        ({"rope_long": 1}, ModelFileError, "rope_long needs rope_original_context"),
        ({"rope_long": 1, "rope_original_context": 8}, ModelFileError, "'rope_inv_freq_long.weight' is missing"),
        ({"kv_lora_rank": 16}, ModelFileError, "q_lora_rank is 0, outside 1 to"),
        ({**LATENT, "kv_lora_rank": 24}, ModelFileError, "kv_lora_rank is 24, no multiple of 16"),
        ({**LATENT, "n_kv_heads": 2}, ModelFileError, "latent attention needs n_kv_heads 1"),
        ({"logn_context": 1}, ModelFileError, "logn_context is 1, but must be 0 or at least 2"),
        ({"embed_scale": 0.0}, ModelFileError, "embed_scale is 0, which is out of range"),
    ],
)
def test_the_engine_refuses_a_spec_it_cannot_execute(
    constants: dict[str, Any],
    error: type[Exception],
    sentence: str,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family = LLAMA.but(constants=constants, hf_local_rope_base="rope_theta")
    monkeypatch.setattr(arch, "families", lambda: (family,))
    rkllm_ext.convert(tiny_llama, tmp_path / "odd.rkllm", "fp32")
    with pytest.raises(error, match=sentence):
        rkllm_ext.LLM(tmp_path / "odd.rkllm")
