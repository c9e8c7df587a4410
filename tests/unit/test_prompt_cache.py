# SPDX-License-Identifier: Apache-2.0
"""Prompt caches and the reuse of the previous run's prefix, through `LLM`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import rkllm_ext
from rkllm_ext import LLM
from rkllm_ext.errors import InvalidArgumentError, ModelFileError

PROMPT = "The three robots went home, and"
GREEDY = {"temperature": 0.0, "repeat_penalty": 1.0, "ignore_eos": True, "max_new_tokens": 12}


@pytest.fixture
def llm(tiny_model: Path) -> Iterator[LLM]:
    with LLM(tiny_model, max_context_len=128) as model:
        yield model


def reused(llm: LLM) -> int:
    assert llm.perf is not None
    return llm.perf.reused_tokens


def test_a_run_keeps_what_it_has_in_common_with_the_run_before(tiny_model: Path, llm: LLM) -> None:
    ids = llm.tokenize(PROMPT)
    longer = llm.tokenize(PROMPT + " slept until morning.")
    common = int(np.argmin(longer[: len(ids)] == ids)) or len(ids)
    llm.generate(ids, max_new_tokens=1)
    answer = llm.generate(longer, **GREEDY)
    assert reused(llm) == common
    with LLM(tiny_model, max_context_len=128, reuse_prefix=False) as anew:
        anew.generate(ids, max_new_tokens=1)
        assert anew.generate(longer, **GREEDY).token_ids.tolist() == answer.token_ids.tolist()
        assert reused(anew) == 0


def test_a_conversation_computes_its_new_turn_only(llm: LLM) -> None:
    ids = llm.tokenize(PROMPT)
    first = llm.generate(ids, **GREEDY)
    turn = np.concatenate([ids, first.token_ids, llm.tokenize(" Then")]).astype(np.int32)
    llm.generate(turn, **GREEDY)
    assert reused(llm) >= len(ids) + len(first.token_ids) - 1  # the last token was chosen, but not run


def test_a_saved_state_serves_another_process_s_model(tiny_model: Path, llm: LLM, tmp_path: Path) -> None:
    llm.save_prompt_cache(PROMPT, tmp_path / "cache")
    expected = llm.generate(PROMPT + " slept.", **GREEDY).token_ids.tolist()
    with LLM(tiny_model, max_context_len=128, reuse_prefix=False) as other:
        other.load_prompt_cache(tmp_path / "cache")
        assert other.generate(PROMPT + " slept.", **GREEDY).token_ids.tolist() == expected
        assert reused(other) > 5
        other.release_prompt_cache()
        assert other.generate(PROMPT + " slept.", **GREEDY).token_ids.tolist() == expected
        assert reused(other) == 0


def test_a_run_saves_its_state_and_answers_as_always(llm: LLM, tmp_path: Path) -> None:
    expected = llm.generate(PROMPT, **GREEDY).token_ids.tolist()
    answer = llm.generate(PROMPT, save_prompt_cache=tmp_path / "cache", **GREEDY)
    assert answer.token_ids.tolist() == expected
    assert (tmp_path / "cache").stat().st_size > 1000
    (tmp_path / "cache").unlink()
    llm.generate(PROMPT, **GREEDY)
    llm.generate(PROMPT, save_prompt_cache=None, **GREEDY)
    assert list(tmp_path.iterdir()) == []


def test_named_caches_are_kept_side_by_side(tiny_model: Path, llm: LLM, tmp_path: Path) -> None:
    prompts = {"robots": "The robots", "rain": "It rained for a week"}
    for name, prompt in prompts.items():
        llm.save_prompt_cache(prompt, tmp_path / name)
    with LLM(tiny_model, max_context_len=128, reuse_prefix=False) as other:
        for name in prompts:
            other.load_prompt_cache(tmp_path / name, name)
        for prompt in prompts.values():
            other.generate(prompt + ".", max_new_tokens=1)
            assert reused(other) >= len(other.tokenize(prompt)) - 1
        other.release_prompt_cache("rain")
        other.generate(prompts["rain"], max_new_tokens=1)
        assert reused(other) < 3
        with pytest.raises(InvalidArgumentError, match=r"no prompt cache 'rain' is loaded; loaded: 'robots'"):
            other.release_prompt_cache("rain")


def test_a_file_that_does_not_fit_is_refused_with_the_reason(
    tiny_model: Path, llm: LLM, tiny_llama: Path, tmp_path: Path
) -> None:
    for source, reason in {
        tiny_model.parent / "checkpoint": r"was saved with this model in the format fp16, but \S+ is in w8a8",
        tiny_llama: r"was saved with another model \(fp16\) than \S+tiny.rkllm; save it again with this model",
    }.items():
        rkllm_ext.convert(source, tmp_path / "half.rkllm", "fp16")
        with LLM(tmp_path / "half.rkllm", max_context_len=64) as half:
            half.save_prompt_cache(PROMPT, tmp_path / "cache")
        with pytest.raises(ModelFileError, match=reason):
            llm.load_prompt_cache(tmp_path / "cache")
    with pytest.raises(ModelFileError, match="is of the type 'model', not 'prompt_cache'"):
        llm.load_prompt_cache(tiny_model)
    with pytest.raises(ModelFileError, match="there is no such file"):
        llm.load_prompt_cache(tmp_path / "missing")


def test_a_state_that_cannot_be_saved_fails_its_run_and_no_other(llm: LLM, tmp_path: Path) -> None:
    for path in ("", None):
        with pytest.raises(InvalidArgumentError, match=f"path is {path!r}; name a file to write"):
            llm.save_prompt_cache("hello", path)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="is a folder; name a file to write"):
        llm.save_prompt_cache(PROMPT, tmp_path)
    with pytest.raises(InvalidArgumentError, match="does not exist; make it first"):
        llm.generate(PROMPT, save_prompt_cache=tmp_path / "none" / "cache", **GREEDY)
    with pytest.raises(InvalidArgumentError, match="save_prompt_cache is 3; a path"):
        llm.generate(PROMPT, save_prompt_cache=3)
    assert len(llm.generate(PROMPT, **GREEDY).token_ids) == 12


SAVER = """
import itertools, sys
from rkllm_ext import LLM
with LLM(sys.argv[1], max_context_len=128, reuse_prefix=False) as llm:
    for n in itertools.count():
        llm.save_prompt_cache("word " * (1 + n % 20), sys.argv[2])
        if n == 0:
            print("saved", flush=True)
"""


def test_a_process_killed_while_it_saves_leaves_a_whole_file(tiny_model: Path, llm: LLM, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    for delay in (0.0, 0.03, 0.11, 0.2):
        command = [sys.executable, "-c", SAVER, os.fspath(tiny_model), os.fspath(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"saved\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        llm.load_prompt_cache(path)
    others = [name for name in os.listdir(tmp_path) if name != "cache"]
    assert all(name.startswith(".cache.") and name.endswith(".tmp") for name in others)
