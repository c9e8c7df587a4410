# SPDX-License-Identifier: Apache-2.0
"""The engine in fp32 computes what the families' genuine code computes: logits, greedy tokens, every prompt length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_oracle import logits as oracle_logits
from models import REFERENCES, SHARED, Converter

import rkllm_ext
from rkllm_ext.readers import open_checkpoint

TOLERANCE = 1e-3  # of the reference data's README; angles rounded to float32 there alone move logits by 2e-4
MEASURED = 1e-4  # what the engine reaches; a regression shows here first
SEQUENCES = range(5)  # of 1, 7, 33, 160 and 640 ids

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data beside the repository")


def expected(folder: str) -> Any:
    return np.load(SHARED / "reference" / folder / "expected.npz")


@pytest.fixture(params=REFERENCES)
def reference(request: pytest.FixtureRequest, converted: Converter) -> Any:
    if not SHARED.is_dir():
        pytest.skip("needs the shared data beside the repository")
    path = converted(SHARED / "reference" / request.param, "fp32")
    with rkllm_ext.LLM(path, max_context_len=700, temperature=0.0, repeat_penalty=1.0) as llm:
        yield request.param, llm


def test_logits_are_those_of_the_genuine_code(reference: Any) -> None:
    folder, llm = reference
    data = expected(folder)
    for i in SEQUENCES:
        logits = llm.logits(data[f"ids_{i}"].astype(np.int32))[data[f"pos_{i}"]]
        assert np.abs(logits - data[f"logits_{i}"]).max() < MEASURED, f"sequence {i}"


def test_hidden_states_are_those_of_the_genuine_code(reference: Any) -> None:
    folder, llm = reference
    data = expected(folder)
    hidden = llm.hidden_states(data["ids_2"].astype(np.int32))
    assert hidden.shape == data["hidden_2"].shape
    assert np.abs(hidden - data["hidden_2"]).max() < MEASURED


def test_greedy_tokens_are_those_of_the_genuine_code(reference: Any) -> None:
    folder, llm = reference
    data = expected(folder)
    for j in range(2):
        prompt = data[f"greedy_prompt_{j}"].astype(np.int32)
        answer = llm.generate(prompt, max_new_tokens=32, ignore_eos=True)
        assert answer.token_ids.tolist() == data[f"greedy_ids_{j}"].tolist(), f"prompt {j}"


@needs_shared
@pytest.mark.parametrize("folder", [name for name in REFERENCES if name.startswith(("llama", "qwen2"))])
def test_the_oracle_agrees_with_the_genuine_code(folder: str) -> None:
    data = expected(folder)
    with open_checkpoint(SHARED / "reference" / folder) as checkpoint:
        for i in SEQUENCES:
            logits = oracle_logits(checkpoint.config, checkpoint.load, checkpoint.tensor_names, data[f"ids_{i}"])
            assert np.abs(logits[data[f"pos_{i}"]] - data[f"logits_{i}"]).max() < TOLERANCE, f"sequence {i}"


def test_the_engine_agrees_with_the_oracle(tiny_llama: Path, converted: Converter) -> None:
    ids = np.random.default_rng(1).integers(0, 300, 90).astype(np.int32)
    with open_checkpoint(tiny_llama) as checkpoint:
        oracle = oracle_logits(checkpoint.config, checkpoint.load, checkpoint.tensor_names, ids)
    with rkllm_ext.LLM(converted(tiny_llama, "fp32"), max_context_len=128) as llm:
        for n in (1, 2, 15, 16, 17, 90):
            assert np.abs(llm.logits(ids[:n]) - oracle[:n]).max() < MEASURED


def test_embeddings_as_input_give_the_logits_of_their_tokens(tiny_llama: Path, converted: Converter) -> None:
    ids = np.arange(20, dtype=np.int32)
    with open_checkpoint(tiny_llama) as checkpoint:
        rows = np.ascontiguousarray(checkpoint.load("model.embed_tokens.weight")[ids])
    with rkllm_ext.LLM(converted(tiny_llama, "fp32"), max_context_len=64) as llm:
        assert np.array_equal(llm.logits(rows), llm.logits(ids))


@needs_shared
@pytest.mark.parametrize("source", ["", "gguf/stories260K-f32.gguf", "gguf/stories260K-f16.gguf"])
def test_a_trained_model_tells_its_story(source: str, converted: Converter) -> None:
    """Perplexity of stories260K on its own text as transformers and llama.cpp measure it (shared README: 6.332)."""
    folder = SHARED / "models" / "stories260K"
    with rkllm_ext.LLM(converted(folder / source if source else folder, "fp32"), max_context_len=512) as llm:
        ids = llm.tokenize((SHARED / "text" / "tinystories-sample.txt").read_text(encoding="utf-8"))
        loss, count = 0.0, 0
        for start in range(0, len(ids) - 1, 512):
            window = ids[start : start + 512]
            if len(window) < 2:
                break
            logits = llm.logits(window).astype(np.float64)[:-1]
            log_sum = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
            loss += float((log_sum - logits[np.arange(len(logits)), window[1:]]).sum())
            count += len(logits)
        assert 6.0 < np.exp(loss / count) < 6.8
        llm_text = llm.generate("Once upon a time", temperature=0.0, repeat_penalty=1.0, max_new_tokens=30).text
        assert "was a little" in llm_text
