# SPDX-License-Identifier: Apache-2.0
"""What a run starts from and how it goes on: guessed tokens, reused prefixes, contexts that move on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import SHARED, Converter
from numpy.typing import NDArray

import rkllm_ext

FOLDERS = ["", *(f"reference/{name}" for name in ("llama-dynamic", "phi3-longrope", "gemma2", "qwen", "minicpm3"))]
GREEDY: dict[str, Any] = {"temperature": 0.0, "repeat_penalty": 1.0}
HOT: dict[str, Any] = {"temperature": 1.2, "top_k": 0, "top_p": 1.0, "seed": 7}


@pytest.fixture(params=FOLDERS, ids=lambda folder: Path(folder).name or "tiny")
def model(request: pytest.FixtureRequest, tiny_llama: Path, converted: Converter) -> Path:
    folder = SHARED / request.param if request.param else tiny_llama
    if not folder.exists():
        pytest.skip(f"{folder} is not here")
    return converted(folder, "fp32")


def answer(llm: rkllm_ext.LLM, ids: NDArray[np.int32], n: int, **settings: Any) -> list[int]:
    return llm.generate(ids, max_new_tokens=n, ignore_eos=True, **settings).token_ids.tolist()


@pytest.mark.parametrize("settings", [GREEDY, HOT], ids=["greedy", "hot"])
def test_guesses_change_no_token(model: Path, settings: dict[str, Any]) -> None:
    ids = np.array([11, 12, 13, 14, 15] * 6, dtype=np.int32)
    with rkllm_ext.LLM(model, max_context_len=200) as llm:
        expected = answer(llm, ids, 170, **settings)
        accepted = 0
        for draft, chunk in [(1, 64), (4, 64), (16, 64), (16, 5)]:
            llm._handle.set_options({"prefill_chunk": chunk})
            assert answer(llm, ids, 170, draft=draft, **settings) == expected
            assert llm.perf is not None
            assert 0 <= llm.perf.accepted_tokens <= llm.perf.drafted_tokens
            accepted += llm.perf.accepted_tokens
        # Greedy answers of small models run into loops, which is what guesses are good at.
        assert accepted > 0 or settings is HOT


def test_a_reused_prefix_has_the_bits_of_a_full_prefill(model: Path) -> None:
    random = np.random.default_rng(3)
    first = random.integers(20, 250, 90).astype(np.int32)
    inputs = [first, np.concatenate([first, first[:20]]), first[:50], np.concatenate([first[:33], first[40:80]]), first]
    with rkllm_ext.LLM(model, max_context_len=200) as llm:
        expected = [answer(llm, ids, 40, reuse_prefix=False, **HOT) for ids in inputs]
        assert llm.perf is not None and llm.perf.reused_tokens == 0
        assert [answer(llm, ids, 40, reuse_prefix=True, **HOT) for ids in inputs] == expected
        assert llm.perf.reused_tokens > 0


def shifted(ids: list[int], n_keep: int, limit: int, n: int, llm: rkllm_ext.LLM) -> list[int]:
    """Return n greedy tokens where the context is rebuilt by hand whenever it holds `limit` tokens."""
    out: list[int] = []
    while len(out) < n:
        if len(ids) >= limit:
            before = len(ids) - (1 if out else 0)  # the last token of an answer has not been run yet
            lost = (before - n_keep) // 2
            ids = ids[:n_keep] + ids[n_keep + lost :]
        out.append(int(llm.logits(np.array(ids, dtype=np.int32))[-1].argmax()))
        ids = [*ids, out[-1]]
    return out


@pytest.mark.parametrize("n_keep", [0, 5])
@pytest.mark.parametrize("length", [10, 47, 48])
def test_a_context_that_moves_on_is_that_of_the_tokens_that_are_left(
    tiny_llama: Path, converted: Converter, n_keep: int, length: int
) -> None:
    ids = np.random.default_rng(4).integers(20, 250, length).astype(np.int32)
    for dtype in ("fp32", "w8a8"):
        with rkllm_ext.LLM(converted(tiny_llama, dtype), max_context_len=48) as llm:
            expected = shifted(ids.tolist(), n_keep, 48, 120, llm)
            for draft in (0, 6):
                assert answer(llm, ids, 120, n_keep=n_keep, draft=draft, **GREEDY) == expected


def test_a_context_that_cannot_move_on_ends_the_run(tiny_llama: Path, converted: Converter) -> None:
    ids = np.arange(20, 60, dtype=np.int32)
    with rkllm_ext.LLM(converted(tiny_llama, "fp32"), max_context_len=48) as llm:
        for n_keep in (-1, 47, 1000):
            run = llm.generate(ids, max_new_tokens=100, ignore_eos=True, n_keep=n_keep)
            assert (run.finish_reason, len(run.token_ids)) == ("context", 8)
