# SPDX-License-Identifier: Apache-2.0
"""gdq: a block in torch is the engine's, learning is never worse than where it began, and its results can be kept."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Optional

import numpy as np
import pytest

import rkllm_ext
from rkllm_ext import _rkllm
from rkllm_ext.errors import InvalidArgumentError, UnsupportedModelError
from rkllm_ext.quant import qparams, rtn
from rkllm_ext.quant.calibrated import Calibrated, wanted_inputs
from rkllm_ext.quant.calibration import Calibration
from rkllm_ext.quant.formats import formats
from rkllm_ext.quant.level1 import Block, Quantized
from rkllm_ext.quant.plan import plan
from rkllm_ext.source_model import SourceModel, open_model

torch = pytest.importorskip("torch")

from rkllm_ext.quant import gdq  # noqa: E402
from rkllm_ext.quant.torch_block import block_forward, refuse_unknown_features  # noqa: E402

FAMILIES = ["chatglm3", "gemma", "gemma2", "internlm2", "llama-llama3", "minicpm", "phi", "phi3", "qwen2"]
FORMAT = "w4a16_g32"
Formats = Mapping[str, Optional[_rkllm.Format]]
Array = np.ndarray


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


# ---- a block in torch ----


def final_states(source: Path, ids: Array) -> Array:
    """Return the final hidden states [n, dim] of ids [n], computed by the blocks in torch."""
    with open_model(source) as model, torch.no_grad():

        def tensor(name: str) -> torch.Tensor:
            return torch.from_numpy(model.tensor(name).floats())

        def linear(name: str, x: torch.Tensor) -> torch.Tensor:
            y = x @ tensors[name + ".weight"].T
            return y + tensors[name + ".bias"] if name + ".bias" in tensors else y

        spec = model.spec
        tables = {name: tensor(name) for name in model.tensors if name.startswith("rope_inv_freq")}
        x = tensor("token_embd.weight")[torch.from_numpy(ids).long()][None] * float(spec.get("embed_scale", 1))
        for layer in range(spec.size("n_layers")):
            prefix = f"blk.{layer}."
            names = [name for name in model.tensors if name.startswith(prefix)]
            tensors = {**tables, **{name[len(prefix) :]: tensor(name) for name in names}}
            x = block_forward(spec, layer, x, tensors, linear)
        weight, eps = tensor("output_norm.weight"), float(spec["norm_eps"])
        if spec.get("norm_type") == "layer":
            return torch.nn.functional.layer_norm(x, weight.shape, weight, tensor("output_norm.bias"), eps)[0].numpy()
        return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight)[0].numpy()


def compare_with_engine(source: Path, folder: Path) -> None:
    ids = np.random.default_rng(3).integers(3, 200, 40).astype(np.int32)
    rkllm_ext.convert(source, folder / "m.rkllm", "fp32")
    with rkllm_ext.LLM(folder / "m.rkllm") as llm:
        expected = llm.hidden_states(ids)
    assert np.abs(final_states(source, ids) - expected).max() < 2e-4 * np.abs(expected).max()


def test_blocks_in_torch_give_the_hidden_states_of_the_engine(tiny_llama: Path, tmp_path: Path) -> None:
    compare_with_engine(tiny_llama, tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_of_every_family_give_the_hidden_states_of_the_engine(shared: Path, tmp_path: Path, family: str) -> None:
    compare_with_engine(shared / "reference" / family, tmp_path)


def test_features_that_are_not_computed_are_refused_by_name(shared: Path) -> None:
    with (
        open_model(shared / "reference" / "minicpm3") as model,
        pytest.raises(UnsupportedModelError, match=r"gdq does not support models with kv_lora_rank"),
    ):
        refuse_unknown_features(model.spec)


# ---- learning ----


def texts(n: int = 8) -> list[Array]:
    rng = np.random.default_rng(6)
    return [rng.integers(3, 200, 24).astype(np.int32) for _ in range(n)]


def level_1(source: Path, model: SourceModel, planned: Formats) -> list[Block]:
    inputs = wanted_inputs(model.spec, {name: each.shape for name, each in model.tensors.items()}, planned)
    with tempfile.TemporaryDirectory() as folder:
        rkllm_ext.convert(source, Path(folder) / "float.rkllm", "fp16")
        with closing(_rkllm.Handle(Path(folder) / "float.rkllm", max_context_len=32)) as engine:
            found = Calibrated(model.spec, planned, model.tensor, Calibration(engine, texts(), inputs))
            return [found.block(layer) for layer in range(model.spec.size("n_layers"))]


def learned(source: Path, **settings: float) -> tuple[list[Block], list[list[float]]]:
    """Return the blocks and, for each, the errors of rounding to nearest, of level 1 and of what was learned."""
    with open_model(source) as model:
        planned = plan({name: each.shape for name, each in model.tensors.items()}, FORMAT)
        start = level_1(source, model, planned)
        learner = gdq.Learner(
            model.spec, planned, model.tensor, start.__getitem__, texts(), gdq.Settings(batch=2, **settings)
        )
        errors: list[float] = []
        measured = learner._error

        def noted(layer: int, weights: dict[str, Array]) -> float:
            errors.append(measured(layer, weights))
            return errors[-1]

        learner._error = noted  # type: ignore[method-assign]
        blocks = list(learner.blocks())
    return blocks, [errors[i : i + 3] for i in range(0, len(errors), 3)]


def test_the_best_of_nearest_level_1_and_learned_is_kept(tiny_llama: Path) -> None:
    blocks, errors = learned(tiny_llama, steps=10)
    assert len(blocks) == len(errors) == 2
    for block, found in zip(blocks, errors):
        assert {each.error for each in block.quantized.values()} == {min(found)}
        is_learned = {each.method for each in block.quantized.values()} == {"learned"}
        assert is_learned == (found[2] < min(found[:2]))
    assert errors[0][1] < errors[0][0]


def test_what_was_learned_badly_is_not_kept(tiny_llama: Path) -> None:
    blocks, errors = learned(tiny_llama, steps=2, reach=50.0)
    for block, found in zip(blocks, errors):
        assert found[2] > min(found[:2])
        assert all(each.method != "learned" for each in block.quantized.values())


def test_a_matrix_begins_with_the_codes_that_were_found() -> None:
    # Also with those beyond its neighbours, as compensation chooses them: 0.5 away, which could be either's.
    format = formats()["w4a16"]
    weights = np.array([[0.45, -1.5, 2.5, 3.4]], np.float32)
    first = Quantized(weights, np.array([[9, 5, 11, 13]], np.int8), np.ones(1, np.float32), "compensate", 1.0)
    matrix = gdq._Matrix(first, format, torch.device("cpu"))
    assert np.array_equal(matrix.quantized(first).codes, first.codes)


def test_learning_lowers_what_it_descends() -> None:
    # One matrix of one row: the sum of its weights is met by codes that are not the nearest ones.
    format = formats()["w4a16"]
    weights = np.array([[0.38, 0.3, 0.2, 0.15]], np.float32)
    first = Quantized(weights, np.full((1, 4), 8, np.int8), np.ones(1, np.float32), "nearest", 1.0)
    matrix = gdq._Matrix(first, format, torch.device("cpu"))
    assert np.array_equal(matrix.quantized(first).codes, first.codes)
    for step in range(20):
        found = matrix.weights().requires_grad_()
        (gradient,) = torch.autograd.grad((found.sum() - 1.2).square(), [found])
        matrix.descend(gradient, 0.02 * (1 - step / 20), 0.0)
    codes = gdq.signed(matrix.quantized(first), format)[0]
    assert abs(codes.sum() - 1.2) < 1  # all zero is off by 1.2, the best codes by 0.2


@pytest.mark.parametrize("name", ["w4a16", "w4a16_g32"])
def test_offsets_and_factors_move_against_the_gradients_that_there_are_without_rounding(name: str) -> None:
    format, rng = formats()[name], np.random.default_rng(0)
    weights = rng.standard_normal((6, 64)).astype(np.float32)
    codes, scales = rtn.quantize(weights, format)
    scales = scales * np.float32(0.7)  # some weights are beyond the ends of the codes
    first = Quantized(weights, codes, scales, "nearest", 1.0)
    slope = torch.from_numpy(rng.standard_normal((6, 64)).astype(np.float32))
    matrix = gdq._Matrix(first, format, torch.device("cpu"))
    start, kept = matrix._start, torch.from_numpy(scales).reshape(6, -1)
    offset = torch.zeros_like(start, requires_grad=True)
    factor = torch.ones_like(kept, requires_grad=True)
    wide = factor.repeat_interleave(64 // kept.shape[1], dim=1)
    exact = start / wide + offset
    passed = (exact + (exact.round() - exact).detach()).clamp(-8, 7)
    found = passed * kept.repeat_interleave(64 // kept.shape[1], dim=1) * wide
    assert torch.equal(found.detach(), matrix.weights())
    expected = torch.autograd.grad((found * slope).sum(), [offset, factor])
    matrix.descend(slope, 0.5, 0.25)
    assert torch.equal(matrix._offset, -0.5 * expected[0].sign())
    assert torch.equal(matrix._factor, 1 - 0.25 * expected[1].sign())


def test_the_same_seed_gives_the_same_codes(tiny_llama: Path) -> None:
    runs = [learned(tiny_llama, steps=6, seed=seed)[0] for seed in (1, 1, 2)]
    first, again, other = ([each for block in run for each in block.quantized.values()] for run in runs)
    assert all(np.array_equal(a.codes, b.codes) and np.array_equal(a.scales, b.scales) for a, b in zip(first, again))
    assert any(not np.array_equal(a.codes, b.codes) for a, b in zip(first, other)) or all(
        each.method != "learned" for each in first
    )


# ---- the file of what was learned ----


@pytest.fixture(scope="module")
def converted(tiny_llama: Path, few_texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gdq")
    rkllm_ext.convert(tiny_llama, folder / "m.rkllm", FORMAT, algorithm="gdq", steps=3, dataset=few_texts)
    return folder


def test_exporting_again_gives_the_same_bytes_without_learning(
    tiny_llama: Path, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sorted(path.name for path in converted.iterdir()) == ["gdq.qparams", "m.rkllm"]
    monkeypatch.setattr(gdq, "Learner", None)
    report = rkllm_ext.convert(
        tiny_llama,
        tmp_path / "again.rkllm",
        FORMAT,
        algorithm="gdq",
        extra_qparams=converted / "gdq.qparams",
        measure=True,
    )
    assert (tmp_path / "again.rkllm").read_bytes() == (converted / "m.rkllm").read_bytes()
    rows = {row["name"]: row for row in report.tensors}
    assert rows["blk.1.ffn_down.weight"]["method"] == "gdq"
    assert "sqnr_db" in rows["blk.1.ffn_down.weight"]


def test_qparams_of_another_model_are_refused(tiny_llama: Path, converted: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in tiny_llama.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 2e-5}))
    with pytest.raises(InvalidArgumentError, match=r"gdq\.qparams: belongs to another model"):
        rkllm_ext.convert(other, tmp_path / "m.rkllm", FORMAT, algorithm="gdq", extra_qparams=converted / "gdq.qparams")
    assert not (tmp_path / "m.rkllm").exists()


def test_qparams_of_another_format_are_refused(tiny_llama: Path, converted: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"is not that of w4a16_g64; learn anew for this format"):
        rkllm_ext.convert(
            tiny_llama, tmp_path / "m.rkllm", "w4a16_g64", algorithm="gdq", extra_qparams=converted / "gdq.qparams"
        )


def test_damaged_qparams_are_refused(tiny_llama: Path, converted: Path, tmp_path: Path) -> None:
    cut = tmp_path / "gdq.qparams"
    cut.write_bytes((converted / "gdq.qparams").read_bytes()[:-100])
    for path in (cut, tmp_path / "nowhere"):
        with pytest.raises(InvalidArgumentError, match=r"cannot be read as gdq\.qparams"):
            rkllm_ext.convert(tiny_llama, tmp_path / "m.rkllm", FORMAT, algorithm="gdq", extra_qparams=path)


def test_codes_survive_the_file_for_odd_columns_as_well(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (5, 7)).astype(np.int8)
    assert np.array_equal(qparams._from_pairs(qparams._in_pairs(codes), 7), codes)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"quantized_dtype": "w8a8", "algorithm": "gdq"}, "gdq is for 4-bit formats; use normal for w8a8"),
        ({"extra_qparams": "x"}, "extra_qparams belongs to the algorithm gdq"),
        ({"algorithm": "gdq", "steps": 0}, "steps is 0; a whole number from 1 is needed"),
        ({"algorithm": "gdq", "seed": -1}, "seed is -1; a whole number from 0 is needed"),
    ],
)
def test_what_does_not_fit_gdq_is_refused(
    tiny_llama: Path, tmp_path: Path, arguments: dict[str, object], sentence: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=sentence):
        rkllm_ext.convert(tiny_llama, tmp_path / "m.rkllm", **arguments)  # type: ignore[arg-type]
