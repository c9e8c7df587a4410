# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters become files of docs/format.md, or are refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import Pair, random_pairs, write_gguf, write_peft
from safetensors.numpy import load_file, save_file

import rkllm_ext
from rkllm_ext import _rkllm
from rkllm_ext.arch import find_family, locate_all, resolve
from rkllm_ext.arch.lora import resolve_adapter
from rkllm_ext.errors import InvalidArgumentError, ModelFileError, UnsupportedModelError
from rkllm_ext.lora import convert_lora
from rkllm_ext.readers import open_checkpoint

SHAPES = {
    "model.layers.0.self_attn.q_proj": (64, 64),
    "model.layers.1.self_attn.k_proj": (32, 64),
    "model.layers.1.mlp.down_proj": (64, 128),
}


def matrices(path: Path) -> dict[str, np.ndarray]:
    """Return the unpacked matrices of an adapter file."""
    with _rkllm.GGUFFile(path) as file:
        columns = [file.values[f"rkllm.tensor.{column}"] for column in ("format", "rows", "cols")]
        return {
            tensor.name: _rkllm.unpack(format, int(rows), int(cols), tensor.data)
            for tensor, format, rows, cols in zip(file.tensors.values(), *columns)
            if format
        }


def converted(adapter: Path, base: Path, tmp_path: Path, **options: Any) -> dict[str, np.ndarray]:
    convert_lora(adapter, base, tmp_path / "out_lora.rkllm", **options)
    return matrices(tmp_path / "out_lora.rkllm")


def test_the_file_holds_the_adapter_with_its_scale_in_b(tiny_llama: Path, tmp_path: Path) -> None:
    pairs = random_pairs(SHAPES, rank=4)
    report = convert_lora(write_peft(tmp_path / "a", pairs, lora_alpha=12), tiny_llama, tmp_path / "x_lora.rkllm")
    found = matrices(report.path)
    names = ("blk.0.attn_q", "blk.1.attn_k", "blk.1.ffn_down")
    assert set(found) == {f"{name}.lora_{side}" for name in names for side in "ab"}
    for name, (a, b) in zip(names, pairs.values()):
        assert np.array_equal(found[f"{name}.lora_a"], a)
        assert np.array_equal(found[f"{name}.lora_b"], b * np.float32(3))
    assert (report.n_layers, report.ranks, report.dtype) == (3, (4,), "fp32")
    assert report.n_parameters == sum(a.size + b.size for a, b in pairs.values())
    assert report.file_bytes == report.path.stat().st_size


def test_the_file_says_what_it_is_and_which_checkpoint_it_is_for(tiny_llama: Path, tmp_path: Path) -> None:
    adapter = write_peft(tmp_path / "a", random_pairs(SHAPES, 4))
    convert_lora(adapter, tiny_llama, tmp_path / "x_lora.rkllm", dtype="fp16")
    rkllm_ext.convert(tiny_llama, tmp_path / "x.rkllm", "w8a8")
    with _rkllm.GGUFFile(tmp_path / "x_lora.rkllm") as file, _rkllm.GGUFFile(tmp_path / "x.rkllm") as model:
        values = file.values
        assert values["general.type"] == "adapter" and values["adapter.type"] == "lora"
        assert values["rkllm.source"] == model.values["rkllm.source"]
        assert (values["rkllm.version"], values["rkllm.family"], values["rkllm.format"]) == (1, "llama", "fp16")
        assert len(values["rkllm.adapter.source"]) == 64


def test_the_same_adapter_gives_the_same_bytes(tiny_llama: Path, tmp_path: Path) -> None:
    adapter = write_peft(tmp_path / "a", random_pairs(SHAPES, 4))
    for name in ("one", "two"):
        convert_lora(adapter, tiny_llama, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_fp16_rounds_and_halves(tiny_llama: Path, tmp_path: Path) -> None:
    pairs = random_pairs(SHAPES, 4)
    adapter = write_peft(tmp_path / "a", pairs)
    found = converted(adapter, tiny_llama, tmp_path, dtype="fp16")
    a, b = pairs["model.layers.0.self_attn.q_proj"]
    assert np.array_equal(found["blk.0.attn_q.lora_a"], a.astype(np.float16))
    assert np.array_equal(found["blk.0.attn_q.lora_b"], (b * 2).astype(np.float16))


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({"lora_alpha": 8, "use_rslora": True}, [4.0, 4.0, 4.0]),
        ({"lora_alpha": 8, "alpha_pattern": {"q_proj": 4, "layers.1.mlp.down_proj": 16}}, [1.0, 2.0, 4.0]),
        ({"lora_alpha": 8, "alpha_pattern": {"^model.layers.1": 4}}, [2.0, 1.0, 1.0]),
        ({"lora_alpha": 8, "alpha_pattern": {"roj": 4, r"layers\.\d\.self_attn\.[qk]_proj": 2}}, [0.5, 0.5, 2.0]),
        ({"lora_alpha": 0}, [0.0, 0.0, 0.0]),
        ({"lora_alpha": 1.5}, [0.375, 0.375, 0.375]),
        ({"lora_alpha": 8, "fan_in_fan_out": True, "lora_dropout": 0.5, "loftq_config": {"a": 1}}, [2.0, 2.0, 2.0]),
        ({"lora_alpha": 8, "init_lora_weights": "gaussian"}, [2.0, 2.0, 2.0]),
    ],
)
def test_scales_are_those_that_peft_computes(
    tiny_llama: Path, tmp_path: Path, config: dict[str, Any], scales: list[float]
) -> None:
    pairs = random_pairs(SHAPES, 4)
    found = converted(write_peft(tmp_path / "a", pairs, **config), tiny_llama, tmp_path)
    names = ("blk.0.attn_q", "blk.1.attn_k", "blk.1.ffn_down")
    for name, scale, (_, b) in zip(names, scales, pairs.values()):
        assert np.array_equal(found[f"{name}.lora_b"], b * np.float32(scale))


def test_ranks_may_differ_by_module(tiny_llama: Path, tmp_path: Path) -> None:
    pairs = random_pairs(SHAPES, 4)
    pairs |= random_pairs({"model.layers.1.mlp.down_proj": (64, 128)}, 9)
    adapter = write_peft(tmp_path / "a", pairs, lora_alpha=18, rank_pattern={"down_proj": 9}, use_rslora=True)
    report = convert_lora(adapter, tiny_llama, tmp_path / "x_lora.rkllm")
    assert report.ranks == (4, 9)
    found = matrices(report.path)
    assert found["blk.1.ffn_down.lora_a"].shape == (9, 128)
    assert np.array_equal(found["blk.1.ffn_down.lora_b"], pairs["model.layers.1.mlp.down_proj"][1] * np.float32(6))
    assert np.allclose(found["blk.0.attn_q.lora_b"], pairs["model.layers.0.self_attn.q_proj"][1] * 9)


def test_a_tied_head_can_be_changed(tiny_llama: Path, tmp_path: Path) -> None:
    pairs = random_pairs({"lm_head": (300, 64)}, 4)
    assert set(converted(write_peft(tmp_path / "a", pairs), tiny_llama, tmp_path)) == {"output.lora_a", "output.lora_b"}


def test_a_pickled_adapter_is_the_same(tiny_llama: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    adapter = write_peft(tmp_path / "a", random_pairs(SHAPES, 4))
    expected = converted(adapter, tiny_llama, tmp_path)
    weights = adapter / "adapter_model.safetensors"
    torch.save({name: torch.tensor(value) for name, value in load_file(weights).items()}, adapter / "adapter_model.bin")
    weights.unlink()
    found = converted(adapter, tiny_llama, tmp_path)
    assert all(np.array_equal(found[name], value) for name, value in expected.items())


# ---- GGUF adapters --------------------------------------------------------------------------------------------------


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Return query or key rows as llama.cpp's converter stores them."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def gguf_of(pairs: dict[str, Pair]) -> dict[str, Pair]:
    """Return the pairs of SHAPES under GGUF names, rows of B in GGUF order."""
    (q, k, down) = pairs.values()
    return {
        "blk.0.attn_q": (q[0], interleaved(q[1], 4)),
        "blk.1.attn_k": (k[0], interleaved(k[1], 2)),
        "blk.1.ffn_down": down,
    }


def test_a_gguf_adapter_gives_the_matrices_of_the_peft_one(tiny_llama: Path, tmp_path: Path) -> None:
    pairs = random_pairs(SHAPES, 4)
    expected = converted(write_peft(tmp_path / "a", pairs, lora_alpha=12), tiny_llama, tmp_path)
    found = converted(write_gguf(tmp_path / "a.gguf", gguf_of(pairs), 12.0), tiny_llama, tmp_path)
    assert list(found) == list(expected)
    assert all(np.array_equal(found[name], value) for name, value in expected.items())


def test_an_alpha_of_zero_in_a_gguf_adapter_means_no_scaling(tiny_llama: Path, tmp_path: Path) -> None:
    pairs = random_pairs(SHAPES, 4)
    found = converted(write_gguf(tmp_path / "a.gguf", gguf_of(pairs), 0.0), tiny_llama, tmp_path)
    assert np.array_equal(found["blk.1.ffn_down.lora_b"], pairs["model.layers.1.mlp.down_proj"][1])


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (
            {"architecture": "qwen2"},
            ModelFileError,
            "for the architecture 'qwen2', but the model is of the llama family",
        ),
        ({"adapter.type": "control_vector"}, UnsupportedModelError, "adapter.type is 'control_vector'"),
        ({"general.type": "model"}, UnsupportedModelError, "general.type is 'model'; a GGUF file with 'adapter'"),
    ],
)
def test_other_gguf_files_are_refused(
    tiny_llama: Path, tmp_path: Path, change: dict[str, str], error: type[Exception], sentence: str
) -> None:
    path = write_gguf(tmp_path / "a.gguf", gguf_of(random_pairs(SHAPES, 4)), 8.0, **change)
    with pytest.raises(error, match=r"a\.gguf") as caught:
        convert_lora(path, tiny_llama, tmp_path / "x_lora.rkllm")
    assert sentence in str(caught.value)


# ---- what is refused ------------------------------------------------------------------------------------------------


def refusal_of(config: dict[str, Any], error: type[Exception], model: Path, folder: Path) -> str:
    """Return the sentence with which the adapter folder/a of this configuration is refused."""
    adapter = write_peft(folder / "a", random_pairs(SHAPES, 4), **config)
    with pytest.raises(error) as caught:
        convert_lora(adapter, model, folder / "x_lora.rkllm")
    return str(caught.value)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; LORA is supported"),
        ({"use_dora": True}, "use_dora = True: not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save = ['lm_head']"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"init_lora_weights": "pissa_niter_16"}, "changes the base model's weights"),
        ({"init_lora_weights": "olora"}, "changes the base model's weights"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"use_something_new": {"x": 1}}, "use_something_new"),
    ],
)
def test_what_is_more_than_plain_lora_is_refused_by_name(
    tiny_llama: Path, tmp_path: Path, config: dict[str, Any], sentence: str
) -> None:
    refusal = refusal_of(config, UnsupportedModelError, tiny_llama, tmp_path)
    assert sentence in refusal and str(tmp_path / "a") in refusal
    assert not (tmp_path / "x_lora.rkllm").exists()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"r": 5}, "has 4 rows, but adapter_config.json says rank 5"),
        ({"rank_pattern": {"k_proj": 2}}, "lora_A of model.layers.1.self_attn.k_proj has 4 rows"),
        ({"r": None}, "the adapter's r is None"),
        ({"lora_alpha": "much"}, "lora_alpha is 'much'"),
        ({"lora_alpha": math.nan}, "lora_alpha is nan"),
        ({"alpha_pattern": [1]}, "alpha_pattern is [1]"),
        ({"rank_pattern": {"(": 2}}, "which is no pattern"),
    ],
)
def test_a_configuration_at_odds_with_the_tensors_or_itself_is_refused(
    tiny_llama: Path, tmp_path: Path, config: dict[str, Any], sentence: str
) -> None:
    assert sentence in refusal_of(config, ModelFileError, tiny_llama, tmp_path)


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        (
            {"model.layers.0.self_attn.qkv_proj": (64, 64)},
            "no linear layers of this llama model: model.layers.0.self_attn.q",
        ),
        (
            {"model.layers.2.self_attn.q_proj": (64, 64)},
            "it has layers 0 to 1 with down_proj, gate_proj, k_proj, lm_head",
        ),
        ({"model.embed_tokens": (300, 64)}, "model.embed_tokens"),
        ({"model.layers.0.self_attn.q_proj": (64, 32)}, "lora_A.weight is [4, 32], but [4, 64] is needed"),
        ({"model.layers.0.self_attn.q_proj": (32, 64)}, "lora_B.weight is [32, 4], but [64, 4] is needed"),
    ],
)
def test_an_adapter_of_another_model_is_refused(
    tiny_llama: Path, tmp_path: Path, shapes: dict[str, tuple[int, int]], sentence: str
) -> None:
    adapter = write_peft(tmp_path / "a", random_pairs(shapes, 4))
    with pytest.raises(ModelFileError) as caught:
        convert_lora(adapter, tiny_llama, tmp_path / "x_lora.rkllm")
    assert sentence in str(caught.value)


def rewritten(adapter: Path, change: Any) -> Path:
    """Let `change` alter the adapter's tensors."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors")
    return adapter


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (lambda t: t.pop(f"{Q}.lora_B.weight"), ModelFileError, "one of two matrices only: " + Q),
        (lambda t: t.clear(), ModelFileError, "the adapter has no tensors"),
        (
            lambda t: t.update({f"{Q}.lora_magnitude_vector": np.ones(64, np.float32)}),
            UnsupportedModelError,
            "no LoRA mat",
        ),
        (
            lambda t: t.update({"base_model.model.model.embed_tokens.lora_embedding_A": np.ones((4, 300), np.float32)}),
            UnsupportedModelError,
            "lora_embedding_A",
        ),
        (
            lambda t: t[f"{Q}.lora_A.weight"].__setitem__((0, 0), np.nan),
            ModelFileError,
            "blk.0.attn_q.lora_a: holds a NaN",
        ),
    ],
)
def test_tensors_that_are_missing_surplus_or_broken_are_named(
    tiny_llama: Path, tmp_path: Path, change: Any, error: type[Exception], sentence: str
) -> None:
    adapter = rewritten(write_peft(tmp_path / "a", random_pairs(SHAPES, 4)), change)
    with pytest.raises(error) as caught:
        convert_lora(adapter, tiny_llama, tmp_path / "x_lora.rkllm")
    assert sentence in str(caught.value)
    assert list(tmp_path.iterdir()) == [adapter]


def test_a_value_beyond_fp16_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    adapter = write_peft(tmp_path / "a", random_pairs(SHAPES, 4, size=1e6))
    with pytest.raises(ModelFileError, match="fp16 ends at 65504; use fp32"):
        convert_lora(adapter, tiny_llama, tmp_path / "x_lora.rkllm", dtype="fp16")


def test_a_path_without_an_adapter_says_what_is_expected(tiny_llama: Path, tmp_path: Path) -> None:
    def attempt(path: Path) -> str:
        with pytest.raises(ModelFileError) as caught:
            convert_lora(path, tiny_llama, tmp_path / "x_lora.rkllm")
        return str(caught.value)

    assert "there is no such file" in attempt(tmp_path / "nothing")
    assert "expected a GGUF file or a PEFT directory with adapter_config.json" in attempt(tiny_llama)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    assert "neither adapter_model.safetensors nor adapter_model.bin" in attempt(tmp_path / "half")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    assert "give the directory" in attempt(tmp_path / "adapter_model.safetensors")


def test_arguments_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="the dtype 'w8a8' of an adapter does not exist; known: fp32, fp16"):
        convert_lora("nowhere", "nowhere", tmp_path / "x", dtype="w8a8")
    with pytest.raises(InvalidArgumentError, match="does not exist; make it first"):
        convert_lora("nowhere", "nowhere", tmp_path / "missing" / "x")


def test_a_fused_matrix_reaches_all_its_layers(tmp_path: Path) -> None:
    from family_configs import MODELS

    config, shapes = MODELS["phi3"]
    spec, tensors = resolve(config, "huggingface", shapes)
    family = find_family(config, "huggingface")
    layers = {name: each for name, each in locate_all(family, "huggingface", spec).items() if name in tensors}
    name = "base_model.model.model.layers.0.self_attn.qkv_proj.lora_"
    stored = {f"{name}A.weight": (4, 24), f"{name}B.weight": (40, 4)}
    pairs = resolve_adapter({"peft_type": "LORA", "r": 4, "lora_alpha": 4}, "huggingface", stored, family, layers)
    assert [pair.layer for pair in pairs] == ["blk.0.attn_q", "blk.0.attn_k", "blk.0.attn_v"]
    b = np.arange(160, dtype=np.float32).reshape(40, 4)
    built = np.concatenate([pair.source.build(lambda _: b) for pair in pairs])
    assert np.array_equal(built, b)


def test_the_small_model_is_what_these_tests_take_it_for(tiny_llama: Path) -> None:
    with open_checkpoint(tiny_llama) as checkpoint:
        for name, shape in SHAPES.items():
            assert checkpoint.shape(f"{name}.weight") == shape
