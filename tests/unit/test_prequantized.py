# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that GPTQ or AWQ has quantized: their codes and scales are kept as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import rkllm_ext
from rkllm_ext import _rkllm
from rkllm_ext.errors import ModelFileError, UnsupportedModelError
from rkllm_ext.readers import open_checkpoint

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
Array = np.ndarray


def packed(values: Array, order: tuple[int, ...]) -> Array:
    """Pack [n, 8 m] numbers of 4 bits into int32 [n, m], plainly: `order[i]` stands in the bits from 4 i on."""
    out = np.zeros((values.shape[0], values.shape[1] // 8), np.uint32)
    for n in range(values.shape[0]):
        for m in range(out.shape[1]):
            for place, index in enumerate(order):
                out[n, m] |= np.uint32(int(values[n, 8 * m + index]) << (4 * place))
    return out.view(np.int32)


def make(source: Path, folder: Path, method: str, group: int, **changes: Any) -> dict[str, tuple[Array, Array]]:
    """Write the checkpoint quantized; return the codes [rows, cols] and scales [rows, cols / group] of each matrix."""
    shutil.copytree(source, folder)
    with open_checkpoint(source) as checkpoint:
        tensors = {name: checkpoint.load(name) for name in checkpoint.tensor_names}
    config = json.loads((folder / "config.json").read_text())
    how = {"quant_method": method, "bits": 4, "group_size": group, **changes}
    config["quantization_config"] = how
    (folder / "config.json").write_text(json.dumps(config))
    stored_zero = 8 if method == "awq" or how.get("checkpoint_format") == "gptq_v2" else 7
    natural = tuple(range(8))
    made = {}
    rng = np.random.default_rng(7)
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        rows, cols = tensors.pop(name).shape
        codes = rng.integers(0, 16, (rows, cols)).astype(np.uint8)
        scales = rng.uniform(0.001, 0.02, (rows, cols // group)).astype(np.float16)
        made[name] = codes, scales
        stem = name[: -len(".weight")]
        zeros = np.full((cols // group, rows), stored_zero, np.uint8)
        if method == "awq":
            tensors[f"{stem}.qweight"] = packed(np.ascontiguousarray(codes.T), AWQ_ORDER)
            tensors[f"{stem}.qzeros"] = packed(zeros, AWQ_ORDER)
        else:
            tensors[f"{stem}.qweight"] = np.ascontiguousarray(packed(codes, natural).T)
            tensors[f"{stem}.qzeros"] = packed(zeros, natural)
            tensors[f"{stem}.g_idx"] = (np.arange(cols) // group).astype(np.int32)
        tensors[f"{stem}.scales"] = np.ascontiguousarray(scales.T)
    save_file(tensors, folder / "model.safetensors")
    return made


def spoil(folder: Path, name: str, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = np.ascontiguousarray(change(tensors[name]))
    save_file(tensors, folder / "model.safetensors")


CANONICAL = {"self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.down_proj": "ffn_down"}


def weights_of(model: Path, row: dict[str, Any]) -> Array:
    """Return the float weights of a matrix of a converted model."""
    from gguf import GGUFReader

    data = next(np.array(each.data) for each in GGUFReader(model).tensors if each.name == row["name"])
    return _rkllm.unpack(row["format"], row["rows"], row["cols"], data.tobytes())


@pytest.mark.parametrize(
    ("method", "changes"), [("gptq", {}), ("gptq", {"checkpoint_format": "gptq_v2"}), ("awq", {"version": "gemm"})]
)
@pytest.mark.parametrize(("group", "dtype"), [(32, "w4a16_g32"), (64, "w4a16_g64"), (64, "w4a16_g32")])
def test_codes_and_scales_arrive_exactly(
    tiny_llama: Path, tmp_path: Path, method: str, changes: dict[str, Any], group: int, dtype: str
) -> None:
    made = make(tiny_llama, tmp_path / "source", method, group, **changes)
    report = rkllm_ext.convert(tmp_path / "source", tmp_path / "m.rkllm", dtype)
    assert report.lossless_matrices == len(made) == 14
    rows = {row["name"]: row for row in report.tensors}
    for layer in range(2):
        for hf, canonical in CANONICAL.items():
            codes, scales = made[f"model.layers.{layer}.{hf}.weight"]
            expected = (codes.astype(np.float32) - 8) * np.repeat(scales.astype(np.float32), group, axis=1)
            assert np.array_equal(weights_of(tmp_path / "m.rkllm", rows[f"blk.{layer}.{canonical}.weight"]), expected)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_other_formats_take_the_weights_as_floats(tiny_llama: Path, tmp_path: Path, method: str) -> None:
    made = make(tiny_llama, tmp_path / "source", method, 32)
    with open_checkpoint(tmp_path / "source") as source:
        assert "quantization_config" not in source.config
        for name, (codes, scales) in made.items():
            assert source.shape(name) == codes.shape
            expected = (codes.astype(np.float32) - 8) * np.repeat(scales.astype(np.float32), 32, axis=1)
            assert np.array_equal(source.load(name), expected)
    for dtype in ("w8a8", "w4a16_g64", "fp32"):
        assert rkllm_ext.convert(tmp_path / "source", tmp_path / "m.rkllm", dtype).lossless_matrices == 0


def test_level_1_leaves_them_alone(tiny_llama: Path, tmp_path: Path) -> None:
    make(tiny_llama, tmp_path / "source", "gptq", 32)
    dataset = tmp_path / "texts.json"
    dataset.write_text(json.dumps([{"input": "the river and the stone", "target": "under the moon"}] * 9))
    found = []
    for level in (0, 1):
        out = tmp_path / f"{level}.rkllm"
        report = rkllm_ext.convert(tmp_path / "source", out, "w4a16_g32", optimization_level=level, dataset=dataset)
        assert report.lossless_matrices == 14
        with rkllm_ext.LLM(out) as llm:
            found.append(llm.logits(np.arange(12, dtype=np.int32)))
    assert np.array_equal(*found)


def test_gdq_leaves_them_alone(tiny_llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    make(tiny_llama, tmp_path / "source", "awq", 32)
    report = rkllm_ext.convert(tmp_path / "source", tmp_path / "m.rkllm", "w4a16_g32", algorithm="gdq", steps=2)
    assert report.lossless_matrices == 14


STEM = "model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_other_zero_points_are_refused_by_name(tiny_llama: Path, tmp_path: Path, method: str) -> None:
    make(tiny_llama, tmp_path / "source", method, 32)
    spoil(tmp_path / "source", f"{STEM}.qzeros", lambda zeros: zeros ^ 1)
    with pytest.raises(UnsupportedModelError, match=rf"'{STEM}\.qzeros': holds the zero point \d+; only symmetric"):
        rkllm_ext.convert(tmp_path / "source", tmp_path / "m.rkllm", "w4a16_g32")


def test_columns_in_another_order_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    make(tiny_llama, tmp_path / "source", "gptq", 32)
    spoil(tmp_path / "source", f"{STEM}.g_idx", lambda order: order[::-1])
    with pytest.raises(UnsupportedModelError, match=rf"'{STEM}\.g_idx': .*desc_act"):
        rkllm_ext.convert(tmp_path / "source", tmp_path / "m.rkllm", "w4a16_g32")


def test_parts_that_do_not_belong_together_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    make(tiny_llama, tmp_path / "source", "gptq", 32)
    spoil(tmp_path / "source", f"{STEM}.scales", lambda scales: scales[:-1])
    with pytest.raises(ModelFileError, match=rf"'{STEM}\.scales' is of shape .* is needed beside a qweight"):
        rkllm_ext.convert(tmp_path / "source", tmp_path / "m.rkllm", "w4a16_g32")


@pytest.mark.parametrize(
    ("method", "changes", "sentence"),
    [
        ("gptq", {"bits": 8}, "quantized by gptq to 8 bits in groups of 32; 4 bits in groups of 32, 64, 128"),
        ("gptq", {"group_size": -1}, "in groups of -1"),
        ("awq", {"version": "gemv"}, "quantized by awq in the layout 'gemv'; known: gemm"),
        ("gptq", {"checkpoint_format": "marlin"}, "in the layout 'marlin'; known: gptq, gptq_v2"),
        ("bitsandbytes", {}, "quantization_config"),
    ],
)
def test_other_kinds_are_refused(
    tiny_llama: Path, tmp_path: Path, method: str, changes: dict[str, Any], sentence: str
) -> None:
    make(tiny_llama, tmp_path / "source", "gptq", 32)
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    config["quantization_config"].update({"quant_method": method, **changes})
    (tmp_path / "source" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=sentence):
        rkllm_ext.convert(tmp_path / "source", tmp_path / "m.rkllm", "w4a16_g32")
