# SPDX-License-Identifier: Apache-2.0
"""hybrid_rate: which layers get the neighbouring format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import rkllm_ext
from rkllm_ext.arch import ModelSpec
from rkllm_ext.errors import InvalidArgumentError
from rkllm_ext.quant import hybrid
from rkllm_ext.quant.calibration import InputStatistics
from rkllm_ext.quant.formats import find_format, formats
from rkllm_ext.quant.plan import plan
from rkllm_ext.quant.recipe import Recipe

DIM = 256
SPEC = ModelSpec(
    {
        "n_layers": 3,
        "n_heads": 4,
        "n_kv_heads": 4,
        "head_dim": 64,
        "rope_dim": 64,
        "dim": DIM,
        "ffn_dim": DIM,
        "vocab_size": 64,
        "max_context": 64,
    }
)
MATRICES = [
    f"blk.{i}.{part}.weight"
    for i in range(3)
    for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
]
SHAPES = {"token_embd.weight": (64, DIM), **{name: (DIM, DIM) for name in MATRICES}}
HARD = ["blk.2.ffn_down.weight", "blk.0.attn_k.weight", "blk.1.ffn_up.weight", "blk.1.attn_output.weight"]


class Made:
    """A matrix whose rows hold outliers, the larger the earlier its name stands in HARD: only groups help there."""

    def __init__(self, name: str) -> None:
        self.name = self.origin = name

    def floats(self) -> np.ndarray:
        weights = np.random.default_rng(len(self.name)).uniform(-1, 1, SHAPES[self.name]).astype(np.float32)
        if self.name in HARD:
            weights[:, 3] = 6 - HARD.index(self.name)
        return weights

    def codes(self) -> None:
        return None


class Known:
    """Statistics of inputs that are all alike; the channel of the outliers carries little."""

    def block(self, layer: int) -> dict[str, InputStatistics]:
        x = np.random.default_rng(layer).standard_normal((64, DIM)).astype(np.float32)
        x[:, 3] *= 0.01
        known = InputStatistics(np.zeros((0, 0), np.float32), np.abs(x).max(axis=0), x, len(x))
        return {f"blk.{layer}.{name}.weight": known for name in ("attn_q", "attn_output", "ffn_gate", "ffn_down")}


def mixed(dtype: str, rate: float) -> dict[str, str]:
    planned = plan(SHAPES, dtype)
    loss = hybrid.losses(SPEC, planned, Made, Known())  # type: ignore[arg-type]
    found = hybrid.mixed(planned, SHAPES, loss, rate)
    return {name: format.name for name, format in found.items() if format is not None and name in MATRICES}


@pytest.mark.parametrize(("dtype", "grouped"), [("w4a16", "w4a16_g32"), ("w8a8", "w8a8_g128")])
def test_the_most_sensitive_share_gets_groups(dtype: str, grouped: str) -> None:
    for n in (1, 2, 4):
        found = mixed(dtype, n / len(MATRICES))
        assert {name for name, format in found.items() if format == grouped} == set(HARD[:n])
        assert set(found.values()) == {dtype, grouped}


@pytest.mark.parametrize(("dtype", "plain"), [("w4a16_g64", "w4a16"), ("w8a8_g256", "w8a8")])
def test_the_least_sensitive_share_goes_without_groups(dtype: str, plain: str) -> None:
    n = len(MATRICES) - len(HARD)
    found = mixed(dtype, n / len(MATRICES))
    assert {name for name, format in found.items() if format == dtype} == set(HARD)
    assert {format for name, format in found.items() if name not in HARD} == {plain}


def test_rate_0_changes_nothing_and_the_head_never_changes() -> None:
    planned = plan(SHAPES, "w4a16")
    assert hybrid.mixed(planned, SHAPES, {}, 0.0) == planned
    loss = dict.fromkeys(MATRICES, 1.0)
    found = hybrid.mixed(planned, SHAPES, loss, 0.99)
    assert found["token_embd.weight"] == planned["token_embd.weight"]
    assert sum(found[name] == find_format("w4a16_g32") for name in MATRICES) == round(0.99 * len(MATRICES))


def test_of_equal_losses_the_first_layers_change() -> None:
    found = hybrid.mixed(plan(SHAPES, "w8a8"), SHAPES, dict.fromkeys(MATRICES, 0.5), 2 / len(MATRICES))
    assert [name for name in MATRICES if found[name] == find_format("w8a8_g128")] == MATRICES[:2]


def test_neighbours_have_the_same_bits_and_the_smallest_group_that_divides() -> None:
    def name(format: str, cols: int) -> str | None:
        found = hybrid.neighbour(formats()[format], cols)
        return found.name if found else None

    assert name("w4a16", 96) == "w4a16_g32"
    assert name("w4a16", 100) is None
    assert name("w8a8", 576) is None
    assert name("w8a8", 512) == "w8a8_g128"
    for grouped in ("w8a8_g128", "w8a8_g256", "w8a8_g512"):
        assert name(grouped, 512) == "w8a8"
    assert name("w4a16_g128", 128) == "w4a16"
    assert name("fp16", 128) is None


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, True, "half", float("nan"), None])
def test_rates_that_are_no_share_are_refused(rate: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"hybrid_rate is .*; a number from 0 to below 1 is needed"):
        Recipe("w8a8", hybrid_rate=rate)  # type: ignore[arg-type]


def test_a_rate_that_no_layer_can_follow_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"hybrid_rate is 0\.5, but no layer can change its format"):
        rkllm_ext.convert(tiny_llama, tmp_path / "m.rkllm", "fp16", hybrid_rate=0.5)
    assert list(tmp_path.iterdir()) == []
    narrow = {name: (96, 96) for name in SHAPES}
    with pytest.raises(InvalidArgumentError, match="no group divides the input columns"):
        hybrid.mixed(plan(narrow, "w8a8"), narrow, {}, 0.5)


@pytest.mark.parametrize("level", [0, 1])
def test_a_conversion_mixes_formats_and_runs(tiny_llama: Path, tmp_path: Path, level: int) -> None:
    dataset = tmp_path / "texts.json"
    dataset.write_text(json.dumps([{"input": "the river and the stone " * 8, "target": "under the moon " * 8}] * 6))
    out = tmp_path / "m.rkllm"
    report = rkllm_ext.convert(
        tiny_llama, out, "w4a16", hybrid_rate=0.25, optimization_level=level, dataset=dataset
    )
    used = [row["format"] for row in report.tensors if row["name"].startswith("blk.") and row["format"]]
    assert used.count("w4a16_g32") == round(0.25 * len(used))
    assert used.count("w4a16") == len(used) - used.count("w4a16_g32")
    with rkllm_ext.LLM(out) as llm:
        assert np.isfinite(llm.logits(np.arange(12, dtype=np.int32))).all()
