# SPDX-License-Identifier: Apache-2.0
"""Level 1: clip search, factors, error-compensating rounding, and the choice among them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import random_pairs, write_peft

import rkllm_ext
from rkllm_ext import _rkllm
from rkllm_ext.errors import InvalidArgumentError
from rkllm_ext.quant import clip, compensate, prepare, rtn, smooth
from rkllm_ext.quant.calibration import Calibration, InputStatistics, sequences
from rkllm_ext.quant.formats import formats
from rkllm_ext.quant.inputs import Input, block_inputs, with_rows_divided
from rkllm_ext.quant.level1 import quantize_block
from rkllm_ext.quant.measure import Reference
from rkllm_ext.quant.quantizer import Changed, Facts, RoundToNearest, Weights
from rkllm_ext.source_model import open_model

QUANTIZED = [format for format in formats().values() if format.scale_bits]
Array = np.ndarray


def columns(format: _rkllm.Format) -> int:
    return format.group * 2 if format.group else 96


def example(format: _rkllm.Format, rows: int = 24, n: int = 256, seed: int = 3) -> tuple[Array, Array]:
    """Return weights with some large ones, and inputs that are correlated, some of them outliers."""
    rng = np.random.default_rng(seed)
    cols = columns(format)
    weights = rng.standard_t(4, (rows, cols)).astype(np.float32)
    x = rng.standard_normal((n, cols)) @ (np.eye(cols) + 0.1 * rng.standard_normal((cols, cols)))
    x[:, :: cols // 8] *= 20
    return weights, x.astype(np.float32)


def statistics(x: Array) -> InputStatistics:
    fitted, held = x[: len(x) * 3 // 4], x[len(x) * 3 // 4 :]
    gram = (fitted.T @ fitted / np.float32(len(fitted))).astype(np.float32)
    return InputStatistics(gram, np.abs(fitted).max(axis=0), held, len(fitted))


# ---- clip search ----


@pytest.mark.parametrize("format", QUANTIZED, ids=lambda format: format.name)
def test_clip_search_is_never_worse_than_the_nearest_in_any_group(format: _rkllm.Format) -> None:
    weights, x = example(format)
    energy = np.square(x).mean(axis=0)
    scales = clip.search_scales(weights, format, energy)
    plain = rtn.scales_of(weights.reshape(len(weights), scales.shape[1], -1), format)

    def errors(scale: Array) -> Array:
        missed = weights - compensate.dequantized(rtn.nearest(weights, scale, format), scale)
        return (energy * missed * missed).reshape(len(weights), scales.shape[1], -1).sum(axis=2, dtype=np.float64)

    # The search counts every column a little more than its energy (1e-4 of the mean), hence the margin.
    margin = 1e-3 * errors(plain).max()
    assert (errors(scales) <= errors(plain) + margin).all()
    assert errors(scales).sum() < errors(plain).sum()
    assert np.array_equal(scales, rtn.stored_scales(scales, format))


def test_clip_search_comes_near_to_what_trying_every_scale_finds() -> None:
    format = formats()["w4a16_g32"]
    rng = np.random.default_rng(8)
    weights = rng.standard_t(3, (12, 32)).astype(np.float32)
    energy = rng.exponential(size=32).astype(np.float32)
    found = clip.search_scales(weights, format, energy)
    grid = np.linspace(0.02, 1.2, 4000, dtype=np.float32) * np.abs(weights).max(axis=1, keepdims=True) / 7
    every = rtn.stored_scales(np.concatenate([grid, -grid], axis=1), format)

    def error(row: int, scale: float) -> float:
        codes = np.clip(np.rint(weights[row] / scale), -8, 7)
        return float((energy * np.square(weights[row] - codes * scale)).sum(dtype=np.float64))

    # Sixteen starts find the valley of the best of 8,000 scales, or one nearly as deep.
    best = np.array([min(error(row, scale) for scale in every[row] if scale) for row in range(12)])
    ratio = np.array([error(row, found[row, 0]) for row in range(12)]) / best
    assert ratio.max() < 1.25
    assert ratio.mean() < 1.1


# ---- compensation ----


@pytest.mark.parametrize(("n_rows", "share"), [(None, 0.05), (640000, 0.05), (640, 0.1), (64, 0.5)])
def test_the_fewer_rows_there_are_the_less_they_are_trusted(n_rows: int | None, share: float) -> None:
    root = np.random.default_rng(2).standard_normal((80, 64)).astype(np.float32)
    gram = root.T @ root
    added = compensate.curvature(gram, n_rows).h - gram
    assert np.allclose(added, share * np.diag(gram).mean() * np.eye(64), atol=1e-3)


@pytest.mark.parametrize("format", QUANTIZED, ids=lambda format: format.name)
def test_compensation_is_never_worse_than_the_nearest_in_any_row(format: _rkllm.Format) -> None:
    weights, x = example(format)
    curvature = compensate.curvature((x.T @ x / np.float32(len(x))).astype(np.float32))
    scales = rtn.scales_of(weights.reshape(len(weights), -1, format.group or weights.shape[1]), format)
    codes, better = compensate.compensate(weights, scales, curvature, format)
    nearest = compensate.output_error(weights, rtn.nearest(weights, scales, format), scales, curvature.h)
    found = compensate.output_error(weights, codes, better, curvature.h)
    assert (found <= nearest * (1 + 1e-4)).all()
    assert found.sum() < 0.8 * nearest.sum()
    low, high = rtn.LIMITS[format.bits]
    assert codes.min() >= low
    assert codes.max() <= high
    assert np.array_equal(codes, np.rint(codes))
    assert np.array_equal(better, rtn.stored_scales(better, format))


@pytest.mark.parametrize("seed", range(6))
def test_compensation_of_three_columns_finds_the_best_of_all_codes(seed: int) -> None:
    format = formats()["w4a16"]
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((1, 3)).astype(np.float32)
    root = np.eye(3) + 0.2 * rng.standard_normal((3, 3))
    curvature = compensate.curvature((root.T @ root).astype(np.float32))
    scales = np.array([[0.3]], np.float32)
    codes, kept = compensate.compensate(weights, scales, curvature, format, sweeps=0)
    assert np.array_equal(kept, scales)
    every = np.array(list(itertools.product(range(-8, 8), repeat=3)), np.float32)
    same = np.repeat(weights, len(every), 0)
    errors = compensate.output_error(same, every, np.full((len(every), 1), 0.3, np.float32), curvature.h)
    found = compensate.output_error(weights, codes, scales, curvature.h)[0]
    assert found == pytest.approx(errors.min(), rel=1e-5)


def test_sweeps_never_make_a_row_worse() -> None:
    format = formats()["w4a16_g32"]
    weights, x = example(format)
    curvature = compensate.curvature((x.T @ x / np.float32(len(x))).astype(np.float32))
    scales = rtn.scales_of(weights.reshape(len(weights), -1, 32), format)
    last = np.full(len(weights), np.inf)
    for sweeps in range(4):
        codes, found = compensate.compensate(weights, scales, curvature, format, sweeps)
        error = compensate.output_error(weights, codes, found, curvature.h)
        assert (error <= last * (1 + 1e-4)).all()
        last = error


def test_dead_and_zero_columns_are_no_trouble() -> None:
    format = formats()["w4a16_g32"]
    weights, x = example(format)
    x[:, 5] = 0
    weights[:, 9] = 0
    weights[3] = 0
    curvature = compensate.curvature((x.T @ x).astype(np.float32))
    searched = clip.search_scales(weights, format, np.square(x).mean(axis=0))
    codes, scales = compensate.compensate(weights, searched, curvature, format)
    assert np.isfinite(scales).all()
    assert not compensate.dequantized(codes, scales)[3].any()
    zero = compensate.curvature(np.zeros((64, 64), np.float32))
    searched = clip.search_scales(weights, format, np.zeros(64, np.float32))
    codes, scales = compensate.compensate(weights, searched, zero, format)
    assert np.isfinite(compensate.dequantized(codes, scales)).all()


# ---- factors ----


def test_factors_tame_an_outlier_channel_of_8_bit_activations() -> None:
    format = formats()["w8a8"]
    rng = np.random.default_rng(2)
    x = rng.standard_normal((256, 96)).astype(np.float32)
    x[:, 7] *= 100
    weights = rng.standard_normal((16, 96)).astype(np.float32)
    names = {"norm": np.ones(96, np.float32), "a": weights}
    found = quantize_block([Input(("a",), ("norm",))], names, {"norm": None, "a": format}, {"a": statistics(x)})
    held = statistics(x).held
    plain = Reference(weights, held).error(format, *rtn.quantize(weights, format), held)
    assert found.quantized["a"].error < plain / 4
    assert next(iter(found.factors.values())).argmax() == 7


def test_channels_that_carry_nothing_keep_their_size() -> None:
    values = np.array([4, 0, 1, 9], np.float32)
    largest = np.array([1, 1, 0, 2], np.float32)
    for factors in smooth.candidates(values, values, largest):
        assert factors[1] == factors[2] == 1
        assert np.isfinite(factors).all()
        assert (factors > 0).all()


def test_heads_that_read_one_key_head_share_its_factors() -> None:
    each = Input(("o",), ("v",), heads=3, head_dim=2)
    factors = np.array([1, 2, 3, 4], np.float32)
    assert each.columns(factors).tolist() == [1, 2, 1, 2, 1, 2, 3, 4, 3, 4, 3, 4]
    values = np.arange(12, dtype=np.float32)
    assert each.largest(values).tolist() == [4, 5, 10, 11]
    assert np.array_equal(each.largest(each.columns(factors)), factors)


FAMILIES = [
    "chatglm3",
    "gemma",
    "gemma2",
    "internlm2",
    "llama-llama3",
    "minicpm",
    "minicpm3",
    "phi",
    "phi3",
    "qwen",
    "qwen2",
]


class Folding(RoundToNearest):
    """Divides and multiplies by random factors wherever they cancel."""

    inputs: list[Input]
    chosen: dict[str, Array]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.folds = True

    def factors(self, name: str) -> Array | None:
        stem, _, side = name.rpartition(".")
        for each in self.inputs:
            if side == "in_factors" and f"{stem}.weight" in each.readers:
                return each.columns(self.chosen[each.name])
            if side == "out_factors" and f"{stem}.weight" in each.makers:
                return self.chosen[each.name]
        raise AssertionError(name)

    def pack(self, weights: Weights) -> tuple[bytes | bytearray, Facts]:
        values = weights.floats()
        for each in self.inputs:
            if weights.name in each.makers:
                values = with_rows_divided(values, self.chosen[each.name])
            if weights.name in each.readers:
                values = values * each.columns(self.chosen[each.name])
        return super().pack(Changed(weights, values))


def logits_with_factors(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Array], list[Array], int]:
    """Return fp32 logits of a model as it is and with factors, each without and with an adapter of all its layers, and
    how many inputs were given factors.
    """
    with open_model(source) as model:
        inputs = [
            each for i in range(model.spec.size("n_layers")) for each in block_inputs(model.spec, model.tensors, i)
        ]
        Folding.inputs = [each for each in inputs if each.makers]
        rng = np.random.default_rng(4)
        Folding.chosen = {
            each.name: np.exp2(rng.uniform(-2, 2, model.tensors[each.makers[0]].shape[0])).astype(np.float32)
            for each in Folding.inputs
        }
        layers = {
            weight[: -len(".weight")]: shape
            for name, each in model.tensors.items()
            if len(each.shape) == 2 and name != "token_embd.weight"
            for weight, shape in each.source.wants(each.shape).items()
        }
    adapter = write_peft(folder / "adapter", random_pairs(layers, 3, size=0.05))
    rkllm_ext.convert_lora(adapter, source, folder / "lora.rkllm")
    rkllm_ext.convert(source, folder / "plain.rkllm", "fp32")
    monkeypatch.setattr(prepare, "RoundToNearest", Folding)
    rkllm_ext.convert(source, folder / "folded.rkllm", "fp32")
    found = []
    for name in ("plain", "folded"):
        with rkllm_ext.LLM(folder / f"{name}.rkllm") as llm:
            llm.load_lora(folder / "lora.rkllm", "it")
            found.append([llm.logits(np.arange(3, 20, dtype=np.int32), lora=lora) for lora in (None, "it")])
    return found[0], found[1], len(Folding.inputs)


def check_the_same(plain: list[Array], folded: list[Array]) -> None:
    for before, after in zip(plain, folded):
        assert np.abs(before - after).max() < 1e-4 * np.abs(before).max()
        assert not np.array_equal(before, after)
    assert np.abs(plain[1] - plain[0]).max() > 0.01 * np.abs(plain[0]).max()  # the adapter does something


def test_factors_keep_the_logits(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, folded, n = logits_with_factors(tiny_llama, tmp_path, monkeypatch)
    assert n == 8
    check_the_same(plain, folded)


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_keep_the_logits_of_every_family(
    shared: Path, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, folded, n = logits_with_factors(shared / "reference" / family, tmp_path, monkeypatch)
    assert n >= 2
    check_the_same(plain, folded)


# ---- a block ----


def block(format: _rkllm.Format) -> tuple[list[Input], dict[str, Array], dict[str, InputStatistics]]:
    weights, x = example(format)
    inputs = [Input(("a", "b"), ("norm",))]
    return (
        inputs,
        {"norm": np.ones(weights.shape[1], np.float32), "a": weights, "b": weights[::-1] * 2},
        {"a": statistics(x)},
    )


@pytest.mark.parametrize("format", QUANTIZED, ids=lambda format: format.name)
def test_no_matrix_of_a_block_is_worse_than_rounded_to_nearest(format: _rkllm.Format) -> None:
    inputs, weights, known = block(format)
    found = quantize_block(inputs, weights, {"norm": None, "a": format, "b": format}, known)
    assert set(found.quantized) == {"a", "b"}
    for name, result in found.quantized.items():
        plain = Reference(weights[name], known["a"].held)
        assert result.error <= plain.error(format, *rtn.quantize(weights[name], format), known["a"].held)
        assert result.method != "nearest" or format.bits == 8
    if "norm" in found.floats:  # what was multiplied in was divided out
        factors = 1 / found.floats["norm"]
        assert np.allclose(found.quantized["a"].weights, weights["a"] * factors, rtol=1e-5)


def test_tensors_whose_codes_come_from_the_source_are_left_alone() -> None:
    format = formats()["w4a16_g32"]
    inputs, weights, known = block(format)
    found = quantize_block(inputs, weights, {"norm": None, "a": format, "b": format}, known, frozenset({"b"}))
    assert set(found.quantized) == {"a"}
    assert found.floats == {}


# ---- calibration and the whole conversion ----


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dataset") / "texts.json"
    words = np.random.default_rng(1).choice(["river", "stone", "the", "under", "moon", "a", "bright", "was"], (40, 30))
    path.write_text(json.dumps([{"input": " ".join(row[:10]), "target": " ".join(row[10:])} for row in words]))
    return path


@pytest.fixture(scope="module")
def float_model(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_rkllm.Handle]:
    path = tmp_path_factory.mktemp("float") / "model.rkllm"
    rkllm_ext.convert(tiny_llama, path, "fp32")
    handle = _rkllm.Handle(path, max_context_len=64)
    yield handle
    handle.close()


def test_the_engine_hands_out_the_rows_that_enter_a_layer(float_model: _rkllm.Handle) -> None:
    ids = np.arange(40, dtype=np.int32)
    seen: dict[str, list[Array]] = {}
    names = [f"blk.1.{part}.weight" for part in ("attn_q", "attn_output", "ffn_gate", "ffn_down")]
    for chunk in (16, 64):
        float_model.set_options({"prefill_chunk": chunk})
        found: dict[str, list[Array]] = {}
        float_model.watch(ids, names, lambda name, x: found.setdefault(name, []).append(x), {})  # noqa: B023
        whole = {name: np.concatenate(rows) for name, rows in found.items()}
        assert set(whole) == set(names)
        assert all(len(rows) == 40 for rows in whole.values())
        assert not seen or all(np.array_equal(seen[name], rows) for name, rows in whole.items())
        seen = whole  # type: ignore[assignment]
    nothing: list[str] = []
    float_model.hidden_states(ids, {})
    assert nothing == []


def test_an_error_of_the_watcher_is_raised(float_model: _rkllm.Handle) -> None:
    def fail(name: str, x: Array) -> None:
        raise KeyError(name)

    with pytest.raises(KeyError, match=r"blk\.0\.attn_q"):
        float_model.watch(np.arange(8, dtype=np.int32), ["blk.0.attn_q.weight"], fail, {})
    assert float_model.hidden_states(np.arange(8, dtype=np.int32), {}).shape[0] == 8


def test_statistics_do_not_depend_on_how_many_blocks_a_pass_watches(float_model: _rkllm.Handle) -> None:
    rng = np.random.default_rng(0)
    ids = [rng.integers(3, 200, 48).astype(np.int32) for _ in range(5)]
    info = float_model.info()
    inputs = [{f"blk.{i}.attn_q.weight": info["dim"]} for i in range(info["n_layers"])]
    together = Calibration(float_model, ids, inputs)
    one_by_one = Calibration(float_model, ids, inputs, budget=0)
    for layer in range(info["n_layers"]):
        a, b = (each.block(layer)[f"blk.{layer}.attn_q.weight"] for each in (together, one_by_one))
        assert np.array_equal(a.gram, b.gram)
        assert np.array_equal(a.held, b.held)
        assert a.gram.shape == (info["dim"], info["dim"])
        assert np.allclose(a.energy, np.diag(a.gram))
        assert len(a.held) == 48


def test_sequences_are_spread_over_the_texts_and_begin_like_prompts(float_model: _rkllm.Handle) -> None:
    texts = ["one two three four five six"] * 50
    begin = float_model.tokenize("", add_bos=True)
    found = sequences(float_model, texts, n=4, length=32)
    assert len(found) == 4
    for each in found:
        assert len(each) <= 32
        assert np.array_equal(each[: len(begin)], begin)
    with pytest.raises(InvalidArgumentError, match="the calibration text has 0 tokens"):
        sequences(float_model, [""], n=4, length=32)


@pytest.mark.parametrize("dtype", ["w8a8", "w4a16_g32"])
def test_level_1_converts_and_says_what_it_did(tiny_llama: Path, dataset: Path, tmp_path: Path, dtype: str) -> None:
    out = tmp_path / "model.rkllm"
    report = rkllm_ext.convert(tiny_llama, out, dtype, optimization_level=1, dataset=dataset)
    rows = {row["name"]: row for row in report.tensors}
    assert {"method", "output_error"} <= set(rows["blk.0.ffn_down.weight"])
    assert "method" not in rows["token_embd.weight"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.rkllm"]
    first = out.read_bytes()
    rkllm_ext.convert(tiny_llama, out, dtype, optimization_level=1, dataset=dataset)
    assert out.read_bytes() == first
    with rkllm_ext.LLM(out) as llm:
        assert np.isfinite(llm.logits(np.arange(12, dtype=np.int32))).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_calibrated(shared: Path, tmp_path: Path, family: str) -> None:
    source = shared / "reference" / family
    dataset = tmp_path / "texts.json"
    dataset.write_text(json.dumps([{"input": "a river under the moon and the stones", "target": "was bright"}] * 20))
    report = rkllm_ext.convert(source, tmp_path / "m.rkllm", "w8a8", optimization_level=1, dataset=dataset)
    matrices = [row for row in report.tensors if row["name"].startswith("blk.") and row["format"] == "w8a8"]
    assert matrices
    assert all("method" in row for row in matrices)
    with rkllm_ext.LLM(tmp_path / "m.rkllm") as llm:
        assert np.isfinite(llm.logits(np.arange(3, 20, dtype=np.int32))).all()


def test_level_1_of_a_float_format_is_level_0(tiny_llama: Path, tmp_path: Path) -> None:
    for level in (0, 1):
        rkllm_ext.convert(tiny_llama, tmp_path / f"{level}.rkllm", "fp16", optimization_level=level)
    assert (tmp_path / "0.rkllm").read_bytes() == (tmp_path / "1.rkllm").read_bytes()


def test_the_factors_of_level_1_are_in_the_file(tiny_llama: Path, dataset: Path, tmp_path: Path) -> None:
    rkllm_ext.convert(tiny_llama, tmp_path / "m.rkllm", "w8a8", optimization_level=1, dataset=dataset)
    with open_model(tiny_llama) as model, _rkllm.GGUFFile(tmp_path / "m.rkllm") as file:
        found = {name: np.frombuffer(each.data, np.float32) for name, each in file.tensors.items() if each.type == 0}
        chosen = 0
        for layer in range(2):
            block = f"blk.{layer}."
            for norm, readers in (("attn_norm", ("attn_q", "attn_k", "attn_v")), ("ffn_norm", ("ffn_gate", "ffn_up"))):
                factors = [found[f"{block}{reader}.in_factors"] for reader in readers]
                weight = model.tensor(f"{block}{norm}.weight").floats()
                assert all(np.array_equal(each, factors[0]) for each in factors)
                assert np.allclose(found[f"{block}{norm}.weight"] * factors[0], weight, rtol=1e-6)
                chosen += not np.array_equal(factors[0], np.ones_like(weight))
            rows = found[block + "attn_v.out_factors"].reshape(2, 1, 16)  # two heads read each key head
            assert np.array_equal(np.repeat(rows, 2, axis=1).reshape(-1), found[block + "attn_output.in_factors"])
            assert np.array_equal(found[block + "ffn_up.out_factors"], found[block + "ffn_down.in_factors"])
        assert chosen
