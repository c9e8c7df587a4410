# SPDX-License-Identifier: Apache-2.0
"""Families as data: what a checkpoint is, where its tensors come from, and what is refused."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rkllm_ext import arch
from rkllm_ext.arch import ModelSpec, families, find_family, resolve
from rkllm_ext.arch.llama import LLAMA
from rkllm_ext.arch.rope import inverse_frequencies, scaled_frequencies
from rkllm_ext.arch.spec import Constant, Deinterleave, Part, PlusOne, Slot, Tensor
from rkllm_ext.errors import ModelFileError, UnsupportedModelError

SPEC = {
    "n_layers": 2,
    "dim": 64,
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": 16,
    "ffn_dim": 128,
    "vocab_size": 300,
    "max_context": 512,
    "norm_eps": 1e-5,
    "rope_dim": 16,
}
GGUF = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.feed_forward_length": 128,
    "llama.context_length": 512,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": 16,
    "llama.vocab_size": 300,
}


def st_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        shapes.update({name: tuple(row["shape"]) for name, row in header.items() if name != "__metadata__"})
    return shapes


@pytest.fixture
def tiny(tiny_llama: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    return json.loads((tiny_llama / "config.json").read_text()), st_shapes(tiny_llama)


def gguf_shapes(q_bias: bool = False) -> dict[str, tuple[int, ...]]:
    spec = ModelSpec(SPEC)
    return {
        name.format(i=i): spec.shape(slot.shape)
        for name, slot in LLAMA.tensors.items()
        for i in range(2)
        if not slot.when or (q_bias and name.endswith("attn_q.bias"))
    }


# ---- families ----


def test_families_are_found_without_a_list() -> None:
    assert {"llama", "qwen2"} <= {family.name for family in families()}


@pytest.mark.parametrize(("name", "nearest"), [("lama", "llama"), ("qwen4", "qwen, qwen3, qwen2"), ("llama4", "llama")])
def test_unknown_family_names_the_nearest_known(name: str, nearest: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"'{name}' is not supported \(nearest known: {nearest}"):
        find_family({"model_type": name}, "huggingface")


def test_unknown_gguf_architecture_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="'mamba' is not supported"):
        find_family({"general.architecture": "mamba"}, "gguf")


def test_a_configuration_without_a_family_is_refused() -> None:
    with pytest.raises(ModelFileError, match="model_type is missing"):
        find_family({}, "huggingface")


def test_a_family_with_fused_projections_is_data(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, shapes = tiny
    rows = ("q_dim", "kv_dim", "kv_dim")
    fused = "model.layers.{i}.self_attn.qkv.weight"
    family = LLAMA.but(
        name="fused",
        hf_types=("fused",),
        tensors={
            "blk.{i}.attn_q.weight": Slot("q_dim dim", Part(fused, rows, 0)),
            "blk.{i}.attn_k.weight": Slot("kv_dim dim", Part(fused, rows, 1)),
            "blk.{i}.attn_v.weight": Slot("kv_dim dim", Part(fused, rows, 2)),
            "output_norm.weight": Slot("dim", PlusOne(Tensor("model.norm.weight"))),
        },
    )
    monkeypatch.setattr(arch, "families", lambda: (family,))
    shapes = {
        name: shape for name, shape in shapes.items() if ".q_" not in name and ".k_" not in name and ".v_" not in name
    }
    shapes |= {fused.format(i=i): (64 + 32 + 32, 64) for i in range(2)}
    _, tensors = resolve({**config, "model_type": "fused"}, "huggingface", shapes)
    whole = np.arange(128 * 64, dtype=np.float32).reshape(128, 64)
    parts = [tensors[f"blk.1.attn_{name}.weight"].source.build(lambda _: whole) for name in "qkv"]
    assert np.array_equal(np.concatenate(parts), whole)
    assert [part.shape for part in parts] == [tensors[f"blk.1.attn_{name}.weight"].shape for name in "qkv"]
    assert np.array_equal(tensors["output_norm.weight"].source.build(lambda _: np.float32([0.5])), [1.5])


# ---- the spec ----


def test_spec_of_the_small_model(tiny: Any) -> None:
    spec, tensors = resolve(tiny[0], "huggingface", tiny[1])
    assert dict(spec) == {**SPEC, "activation": "silu", "attn_scale": 0.25}
    assert "output.weight" not in tensors
    assert len(tensors) == 1 + 1 + 2 * 9 + 1


def test_spec_of_a_gguf_file_is_the_same(tiny: Any) -> None:
    spec, tensors = resolve(GGUF, "gguf", gguf_shapes())
    assert dict(spec) == {**SPEC, "attn_scale": 0.25}
    assert list(tensors) == list(resolve(tiny[0], "huggingface", tiny[1])[1])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n_kv_heads": 3}, "4 query heads, which 3 key heads do not divide"),
        ({"n_layers": 0}, "n_layers is 0"),
        ({"dim": 2**31}, "dim is 2147483648"),
        ({"dim": "64"}, "dim is '64'"),
        ({"rope_dim": 18}, "rotates 18 of 16"),
        ({"rope_dim": 15}, "rotates 15 of 16"),
        ({"norm_eps": math.nan}, "norm_eps is nan"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelFileError, match=sentence):
        ModelSpec({**SPEC, **change})


def test_rows_follow_the_engines_order_and_types() -> None:
    fields = {"norm_eps": ("f32", True), "dim": ("u32", True), "rope_original_context": ("u32", False)}
    spec = ModelSpec(SPEC)
    with pytest.raises(UnsupportedModelError, match="unknown fields: n_layers, n_heads"):
        spec.rows(fields)
    with pytest.raises(UnsupportedModelError, match="missing fields: wings"):
        spec.rows({**{name: ("u32", True) for name in SPEC}, "wings": ("u32", True)})
    rows = spec.rows({**fields, **{name: ("u32", True) for name in SPEC if name not in fields}})
    assert rows[:2] == [("f32", "norm_eps", 1e-5), ("u32", "dim", 64)]


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_a_missing_configuration_key_is_named(tiny: Any, key: str) -> None:
    config = {name: value for name, value in tiny[0].items() if name != key}
    with pytest.raises(ModelFileError, match=f"config.json: missing: {key}"):
        resolve(config, "huggingface", tiny[1])


@pytest.mark.parametrize("value", ["64", True, None, -64, 64.5, [64]])
def test_a_size_of_the_wrong_kind_is_refused(tiny: Any, value: object) -> None:
    with pytest.raises(ModelFileError):
        resolve({**tiny[0], "hidden_size": value}, "huggingface", tiny[1])


def test_a_claim_of_countless_layers_is_refused_at_once(tiny: Any) -> None:
    with pytest.raises(ModelFileError, match="2000000000 layers, but the checkpoint has 20 tensors"):
        resolve({**tiny[0], "num_hidden_layers": 2_000_000_000}, "huggingface", tiny[1])


@pytest.mark.parametrize(
    ("family", "change", "sentence"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu', which is not supported for the llama family"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        (
            "qwen2",
            {"use_sliding_window": True},
            "use_sliding_window is True, which is not supported for the qwen2 family",
        ),
    ],
)
def test_unsupported_features_are_refused(tiny: Any, family: str, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UnsupportedModelError, match=sentence):
        resolve({**tiny[0], "model_type": family, **change}, "huggingface", tiny[1])


def test_a_mixture_of_experts_under_the_name_llama_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="expert_count is 8"):
        resolve({**GGUF, "llama.expert_count": 8}, "gguf", gguf_shapes())


# ---- tensors ----


def test_missing_surplus_and_misshapen_tensors_are_listed_together(tiny: Any) -> None:
    config, shapes = tiny
    shapes = {**shapes, "extra.weight": (3,), "model.norm.weight": (65,)}
    del shapes["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(ModelFileError) as caught:
        resolve(config, "huggingface", shapes)
    sentence = str(caught.value)
    assert "1 missing: model.layers.1.mlp.up_proj.weight [128, 64]" in sentence
    assert "1 of another shape: model.norm.weight expected [64] found [65]" in sentence
    assert "1 surplus: extra.weight [3]" in sentence


def test_rotary_buffers_are_ignored(tiny: Any) -> None:
    config, shapes = tiny
    resolve(config, "huggingface", {**shapes, "model.layers.0.self_attn.rotary_emb.inv_freq": (8,)})


def test_a_tied_head_may_be_saved_needlessly(tiny: Any) -> None:
    config, shapes = tiny
    _, tensors = resolve(config, "huggingface", {**shapes, "lm_head.weight": (300, 64)})
    assert "output.weight" not in tensors


def test_an_untied_head_must_be_there(tiny: Any) -> None:
    config, shapes = tiny
    with pytest.raises(ModelFileError, match=r"1 missing: lm_head.weight \[300, 64\]"):
        resolve({**config, "tie_word_embeddings": False}, "huggingface", shapes)


def test_biases_follow_the_configuration(tiny: Any) -> None:
    config, shapes = tiny
    with pytest.raises(ModelFileError, match="8 missing"):
        resolve({**config, "attention_bias": True}, "huggingface", shapes)
    with pytest.raises(ModelFileError, match="6 missing"):
        resolve({**config, "mlp_bias": True}, "huggingface", shapes)
    with pytest.raises(ModelFileError, match="6 missing"):
        resolve({**config, "model_type": "qwen2"}, "huggingface", shapes)
    with pytest.raises(ModelFileError, match="1 surplus"):
        resolve(config, "huggingface", {**shapes, "model.layers.0.self_attn.q_proj.bias": (64,)})


def test_biases_of_a_gguf_file_are_those_it_holds() -> None:
    _, tensors = resolve(GGUF, "gguf", gguf_shapes(q_bias=True))
    assert tensors["blk.0.attn_q.bias"].shape == (64,)
    assert "blk.0.attn_k.bias" not in tensors


def test_deinterleave_undoes_the_order_of_gguf_files() -> None:
    heads, half, cols = 3, 4, 5
    rows = np.arange(heads * 2 * half * cols, dtype=np.float32).reshape(-1, cols)
    stored = np.empty_like(rows)
    for head in range(heads):
        for i in range(half):
            for part in range(2):  # row i of the first or second half lies at 2 i or 2 i + 1
                stored[head * 2 * half + 2 * i + part] = rows[head * 2 * half + part * half + i]
    source = Deinterleave(Tensor("w"), heads, 2 * half)
    assert np.array_equal(source.build(lambda _: stored), rows)
    assert np.array_equal(source.build(lambda _: stored[:, 0]), rows[:, 0])


# ---- rotary frequencies ----


def test_plain_frequencies_are_powers_of_the_base() -> None:
    found = inverse_frequencies(10000.0, 16)
    assert found.dtype == np.float32
    assert np.allclose(found, [10000.0 ** (-2 * i / 16) for i in range(8)], rtol=3e-7, atol=0)


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_linear_scaling_divides(key: str) -> None:
    found, fields = scaled_frequencies(10000.0, 16, {key: "linear", "factor": 4.0}, 512, "x")
    assert np.array_equal(found, inverse_frequencies(10000.0, 16) / 4)
    assert fields == {}


def test_llama3_scaling_has_three_bands() -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    found, _ = scaled_frequencies(500000.0, 48, scaling, 2048, "x")
    expected = []
    for i in range(24):
        frequency = 500000.0 ** (-2 * i / 48)
        turns = 64 * frequency / (2 * math.pi)
        share = min(max((turns - 1.0) / (4.0 - 1.0), 0.0), 1.0)
        expected.append(share * frequency + (1 - share) * frequency / 8)
    assert np.allclose(found, expected, rtol=2e-6, atol=0)
    plain = inverse_frequencies(500000.0, 48)
    assert found[0] == plain[0]
    assert found[-1] == plain[-1] / 8
    assert any(plain[i] / 8 < found[i] < plain[i] for i in range(24))


def test_dynamic_scaling_is_left_to_the_engine() -> None:
    found, fields = scaled_frequencies(10000.0, 16, {"type": "dynamic", "factor": 2.0}, 256, "x")
    assert np.array_equal(found, inverse_frequencies(10000.0, 16))
    assert fields == {"rope_dynamic_factor": 2.0, "rope_original_context": 256, "max_context": 16 * 256}


@pytest.mark.parametrize("kind", ["yarn", "ntk"])
def test_unknown_scaling_is_refused_by_name(kind: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"rope scaling '{kind}' is not supported"):
        scaled_frequencies(10000.0, 16, {"type": kind, "factor": 2.0}, 256, "x")


@pytest.mark.parametrize("factor", [None, 0, -1.0, "2", True, math.inf, math.nan])
def test_a_scaling_factor_that_is_no_positive_number_is_refused(factor: object) -> None:
    with pytest.raises(ModelFileError, match="needs a positive number 'factor'"):
        scaled_frequencies(10000.0, 16, {"type": "linear", "factor": factor}, 256, "x")


def test_rope_parameters_of_newer_configurations_are_read(tiny: Any) -> None:
    config, shapes = tiny
    newer = {key: value for key, value in config.items() if key not in ("rope_theta", "rope_scaling")}
    newer["rope_parameters"] = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}
    _, tensors = resolve(newer, "huggingface", shapes)
    found = tensors["rope_inv_freq.weight"].source.build(lambda _: np.zeros(0))
    assert np.array_equal(found, inverse_frequencies(5000.0, 16) / 2)


def test_gguf_scaling_keys_and_factors_are_read() -> None:
    shapes = {**gguf_shapes(), "rope_freqs.weight": (8,)}
    keys = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0, "llama.rope.freq_base": 5000.0}
    _, tensors = resolve({**GGUF, **keys}, "gguf", shapes)
    rope = tensors["rope_inv_freq.weight"].source
    assert isinstance(rope, Constant)
    factors = np.linspace(1, 8, 8, dtype=np.float32)
    assert np.array_equal(
        rope.build({"rope_freqs.weight": factors}.__getitem__), inverse_frequencies(5000.0, 16) / 2 / factors
    )
    _, older = resolve({**GGUF, "llama.rope.scale_linear": 4.0}, "gguf", gguf_shapes())
    assert np.array_equal(
        older["rope_inv_freq.weight"].source.build(lambda _: factors), inverse_frequencies(10000.0, 16) / 4
    )
    with pytest.raises(UnsupportedModelError, match="yarn"):
        resolve({**GGUF, "llama.rope.scaling.type": "yarn"}, "gguf", gguf_shapes())


# ---- genuine models ----


@pytest.mark.parametrize(
    "name", ["llama-dynamic", "llama-dynamic-bf16", "llama-linear-sharded", "llama-llama3", "qwen2", "qwen2-g512-bf16"]
)
def test_genuine_configurations_resolve(shared: Path, name: str) -> None:
    folder = shared / "reference" / name
    config = json.loads((folder / "config.json").read_text())
    spec, tensors = resolve(config, "huggingface", st_shapes(folder))
    assert spec["head_dim"] == config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    assert ("output.weight" in tensors) != config["tie_word_embeddings"]
    assert ("blk.0.attn_output.bias" in tensors) == config.get("attention_bias", False)
