# SPDX-License-Identifier: Apache-2.0
"""Perplexity and divergence: their definitions, the figures of the genuine code, and the command."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rkllm_ext import LLM, convert, evaluate
from rkllm_ext.cli import main
from rkllm_ext.errors import InvalidArgumentError
from rkllm_ext.evaluate import Perplexity, divergence, perplexity


@pytest.fixture(scope="module")
def models(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LLM]]:
    folder = tmp_path_factory.mktemp("evaluate")
    loaded = {}
    for name in ("fp32", "w4a16"):
        convert(tiny_llama, folder / f"{name}.rkllm", name)
        loaded[name] = LLM(folder / f"{name}.rkllm", max_context_len=64)
    yield loaded
    for llm in loaded.values():
        llm.close()


@pytest.fixture
def ids() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 300, 150).astype(np.int32)


def probabilities(llm: LLM, window: np.ndarray) -> np.ndarray:
    exponents = np.exp(llm.logits(window).astype(np.float64))
    return exponents / exponents.sum(axis=1, keepdims=True)


# ---- definitions ----


@pytest.mark.parametrize("context", [2, 37, 50, 64])
def test_perplexity_is_that_of_the_windows(models: dict[str, LLM], ids: np.ndarray, context: int) -> None:
    losses = []
    for start in range(0, len(ids), context):
        window = ids[start : start + context]
        p = probabilities(models["fp32"], window)
        losses += [-math.log(p[i, window[i + 1]]) for i in range(len(window) - 1)]
    found = perplexity(models["fp32"], ids, context)
    assert found.n_predicted == len(losses)
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-9)
    assert found.value == pytest.approx(math.exp(np.mean(losses)), rel=1e-9)


def test_the_divergence_is_that_of_the_probabilities(models: dict[str, LLM], ids: np.ndarray) -> None:
    kl, same = [], []
    for start in range(0, len(ids), 50):
        window = ids[start : start + 50]
        q, p = (probabilities(models[name], window)[:-1] for name in ("fp32", "w4a16"))
        kl += list((q * np.log(q / p)).sum(axis=1))
        same += list(q.argmax(axis=1) == p.argmax(axis=1))
    found = divergence(models["w4a16"], models["fp32"], ids, 50)
    assert found.kl_mean == pytest.approx(np.mean(kl), rel=1e-6)
    assert found.kl_median == pytest.approx(np.median(kl), rel=1e-6)
    assert found.kl_p99 == pytest.approx(np.percentile(kl, 99), rel=1e-6)
    assert found.top1_agreement == np.mean(same)
    assert found.model == perplexity(models["w4a16"], ids, 50)
    assert found.reference == perplexity(models["fp32"], ids, 50)
    assert found.n_predicted == len(kl)


def test_a_model_does_not_diverge_from_itself(models: dict[str, LLM], ids: np.ndarray) -> None:
    found = divergence(models["fp32"], models["fp32"], ids, 64)
    assert (found.kl_mean, found.kl_p99, found.top1_agreement) == (0, 0, 1)


def test_the_size_of_chunks_does_not_change_the_figures(
    models: dict[str, LLM], ids: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = divergence(models["w4a16"], models["fp32"], ids, 64)
    monkeypatch.setattr(evaluate, "_ROWS", 5)
    chunked = divergence(models["w4a16"], models["fp32"], ids, 64)
    assert chunked.kl_mean == pytest.approx(whole.kl_mean, rel=1e-12)
    assert chunked.model.loss == pytest.approx(whole.model.loss, rel=1e-12)


def test_progress_counts_the_tokens(models: dict[str, LLM], ids: np.ndarray) -> None:
    calls: list[tuple[int, int]] = []
    perplexity(models["fp32"], ids, 64, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(64, 150), (128, 150), (150, 150)]


@pytest.mark.parametrize(
    ("length", "context", "sentence"),
    [(1, 64, "nothing to predict"), (0, 64, "nothing to predict"), (9, 65, "2 ... 64 is possible"), (9, 1, "2 ... 64")],
)
def test_what_cannot_be_evaluated_is_refused(
    models: dict[str, LLM], ids: np.ndarray, length: int, context: int, sentence: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=sentence):
        perplexity(models["fp32"], ids[:length], context)


def test_models_of_different_vocabularies_are_refused(models: dict[str, LLM], shared: Path, tmp_path: Path) -> None:
    convert(shared / "models" / "stories260K", tmp_path / "m.rkllm", "fp16")
    with LLM(tmp_path / "m.rkllm") as other, pytest.raises(InvalidArgumentError, match=r"300 tokens and .* 512"):
        divergence(models["fp32"], other, [1, 2, 3], 64)


# ---- the figures of the genuine code ----


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_the_perplexity_of_a_trained_model_is_that_of_transformers(shared: Path, tmp_path: Path, dtype: str) -> None:
    """6.332 by transformers in float32: windows of 256 tokens whose first one is the begin token."""
    convert(shared / "models" / "stories260K", tmp_path / "m.rkllm", dtype)
    text = (shared / "text" / "tinystories-sample.txt").read_text("utf-8")
    with LLM(tmp_path / "m.rkllm") as llm:
        ids = llm.tokenize(text, add_bos=True)
        windows = [ids[start + 1 : start + 256] for start in range(0, len(ids) - 255, 256)]
        found: list[Perplexity] = [perplexity(llm, window, 256) for window in windows]
    count = sum(each.n_predicted for each in found)
    assert count == 1785
    value = math.exp(sum(each.loss * each.n_predicted for each in found) / count)
    assert value == pytest.approx(6.332, abs=1e-3)


def test_perplexity_is_that_of_transformers_to_four_digits(shared: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    source = shared / "models" / "stories260K"
    genuine = transformers.AutoModelForCausalLM.from_pretrained(source, torch_dtype=torch.float32)
    text = (shared / "text" / "tinystories-sample.txt").read_text("utf-8")
    convert(source, tmp_path / "m.rkllm", "fp16")
    losses: list[float] = []
    with LLM(tmp_path / "m.rkllm") as llm:
        ids = llm.tokenize(text)
        found = perplexity(llm, ids, 256)
    for start in range(0, len(ids), 255):
        window = torch.tensor([[1, *ids[start : start + 255].tolist()]])
        with torch.no_grad():
            logits = genuine(window).logits[0]
        losses += torch.nn.functional.cross_entropy(logits[:-1], window[0, 1:], reduction="none").tolist()
    assert found.n_predicted == len(losses)
    assert found.value == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)


# ---- the command ----


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["eval", *arguments])
    return int(caught.value.code or 0)


@pytest.fixture
def files(tiny_llama: Path, tmp_path: Path) -> dict[str, str]:
    for name in ("fp32", "w4a16"):
        convert(tiny_llama, tmp_path / f"{name}.rkllm", name)
    (tmp_path / "text.txt").write_text("The river carried the <|im_end|> leaves past the mill, and past the mill. " * 9)
    return {name: str(tmp_path / name) for name in ("fp32.rkllm", "w4a16.rkllm", "text.txt")}


def test_eval_prints_the_figures_as_text_and_as_json(capsys: pytest.CaptureFixture[str], files: dict[str, str]) -> None:
    with LLM(files["w4a16.rkllm"], max_context_len=40) as llm, LLM(files["fp32.rkllm"], max_context_len=40) as other:
        ids = llm.tokenize(Path(files["text.txt"]).read_text(), parse_special=False)[:100]
        expected = divergence(llm, other, ids, 40)
    arguments = [files["w4a16.rkllm"], "--text", files["text.txt"], "--context", "40", "--tokens", "100"]
    assert call(*arguments) == 0
    out = capsys.readouterr().out
    assert f"perplexity {expected.model.value:.4f} on {expected.n_predicted} predicted tokens" in out
    assert call(*arguments, "--against", files["fp32.rkllm"], "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["perplexity"] == expected.model.value
    assert facts["perplexity_against"] == expected.reference.value
    assert facts["kl_mean"] == expected.kl_mean
    assert facts["top1_agreement"] == expected.top1_agreement
    assert facts["n_tokens"] == 100
    assert call(*arguments, "--against", files["fp32.rkllm"]) == 0
    out = capsys.readouterr().out
    assert f"mean {expected.kl_mean:.6f}" in out
    assert out.count("\n") == 4


def test_eval_fails_in_one_line(capsys: pytest.CaptureFixture[str], files: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"\xe4")
    for text, sentence in (("latin.txt", "is not UTF-8 at byte 0"), ("none.txt", "No such file")):
        assert call(files["fp32.rkllm"], "--text", str(tmp_path / text)) == 1
        err = capsys.readouterr().err
        assert sentence in err
        assert err.count("\n") == 1
