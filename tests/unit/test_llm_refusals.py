# SPDX-License-Identifier: Apache-2.0
"""LLM: what is refused, with which sentence, and that the model goes on."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rkllm_ext import LLM
from rkllm_ext.errors import BusyError, ContextFullError, InvalidArgumentError, ModelFileError

PROMPT = "Once upon a time"
GREEDY = {"top_k": 1, "ignore_eos": True, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> Iterator[LLM]:
    with LLM(tiny_model, max_context_len=256, max_new_tokens=8, n_threads=1) as model:
        yield model


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (np.arange(3), "elements 'l' of 8 bytes; int32 is needed"),
        (np.zeros((2, 64)), "elements 'd' of 8 bytes; float32 is needed"),
        (np.arange(8, dtype=np.int32)[::2], "not C-contiguous"),
        (np.zeros((64, 4), np.float32).T, "not C-contiguous"),
        (np.zeros((2, 63), np.float32), "rows of 63; the model's dimension is 64"),
        (np.zeros(0, np.int32), "empty"),
        (np.zeros((0, 64), np.float32), "empty"),
        (np.zeros((1, 2, 64), np.float32), "an input is a str"),
        (np.int32(3), "0 dimensions"),
        ([1, 2], "is a list"),
        (None, "is a NoneType"),
        (b"text", "elements 'B'"),
        ("", "prompt is empty"),
        ("a\0b", "NUL"),
        (np.array([5, 300], np.int32), "300"),
        (np.array([-1], np.int32), "-1"),
        (np.full((2, 64), np.nan, np.float32), "finite"),
    ],
)
def test_a_wrong_input_is_refused_with_a_sentence_and_the_model_goes_on(llm: LLM, value: object, sentence: str) -> None:
    with pytest.raises(InvalidArgumentError, match=sentence):
        llm.generate(value)  # type: ignore[arg-type]
    assert not llm.is_running
    assert len(llm.generate(PROMPT, **GREEDY).token_ids) == 12


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"temprature": 1.0}, "no setting 'temprature'; did you mean 'temperature'"),
        ({"max_context_len": 5}, "set when the model is loaded"),
        ({"top_k": "many"}, "top_k is 'many'; an integer is needed"),
        ({"top_k": 2**31}, "32 bits"),
        ({"top_p": "0.5"}, "top_p is '0.5'; a finite number is needed"),
        ({"temperature": float("nan")}, "temperature is nan; a finite number"),
        ({"temperature": -1.0}, "temperature"),
        ({"n_keep": -2}, "n_keep is '-2', but must be an integer from -1"),
        ({"draft": 17}, "draft"),
        ({"reuse_prefix": "yes"}, "True or False"),
        ({"kv_type": "int8"}, "set when the model is loaded"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is"),
        ({"skip_special_token": "yes"}, "True or False"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"mirostat": 3}, "mirostat"),
        ({"mirostat_tau": "5"}, "mirostat_tau is '5'; a finite number is needed"),
        ({"min_p": 1.5}, "min_p is 1.5, but must be 0 to 1"),
        ({"logit_bias": [1, 2]}, "logit_bias is .1, 2.; a dict"),
        ({"logit_bias": {"a": 1.0}}, "a token of logit_bias is 'a'"),
        ({"logit_bias": {1: "a"}}, "logit_bias of token 1 is 'a'"),
        ({"logit_bias": {1: float("inf")}}, "logit_bias of token 1 is inf"),
        ({"logit_bias": {10**6: 1.0}}, "logit_bias"),
        ({"stop": 5}, "stop is 5; a str or a list"),
        ({"stop": ["a", 5]}, "a str or a list"),
        ({"stop": ["a", ""]}, "a text of stop is empty"),
        ({"stop": "a\0b"}, "not possible: NUL"),
        ({"stop": "\ud800"}, "a surrogate"),
        ({"stop": "\x1f"}, "U.001F"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "0 or more"),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(llm: LLM, setting: dict[str, object], sentence: str) -> None:
    with pytest.raises(InvalidArgumentError, match=sentence):
        llm.generate(PROMPT, **setting)
    assert len(llm.generate(PROMPT, **GREEDY).token_ids) == 12


def test_a_wrong_setting_of_a_model_is_refused(tiny_model: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="max_context_len"):
        LLM(tiny_model, max_context_len=100000)
    with pytest.raises(InvalidArgumentError, match="n_threads"):
        LLM(tiny_model, max_context_len=64, n_threads=100000)
    with pytest.raises(InvalidArgumentError, match="temperature"):
        LLM(tiny_model, max_context_len=64, temperature=float("inf"))
    with pytest.raises(InvalidArgumentError, match="f16, f32 or int8"):
        LLM(tiny_model, max_context_len=64, kv_type="int4")
    with pytest.raises(InvalidArgumentError, match="kv_type is 8; a str"):
        LLM(tiny_model, max_context_len=64, kv_type=8)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="img_start"):
        LLM(tiny_model, max_context_len=64, img_start="a\0b")


def test_a_prompt_that_is_too_long_is_a_full_context(llm: LLM) -> None:
    with pytest.raises(ContextFullError, match="256"):
        llm.generate(np.full(257, 5, np.int32))
    with pytest.raises(ContextFullError, match="256"):
        llm.logits(np.full(257, 5, np.int32))


def test_an_answer_that_fills_the_context_ends_with_context(llm: LLM) -> None:
    answer = llm.generate(np.full(250, 5, np.int32), max_new_tokens=-1, ignore_eos=True)
    assert answer.finish_reason == "context"
    assert len(answer.token_ids) == 6


def test_a_path_that_is_no_model_is_a_model_file_error(tmp_path: Path) -> None:
    empty = tmp_path / "empty.rkllm"
    empty.write_bytes(b"")
    for path in (tmp_path / "missing.rkllm", tmp_path, empty):
        with pytest.raises(ModelFileError, match=str(path)):
            LLM(path)


def test_a_closed_model_says_so_and_can_be_closed_again(tiny_model: Path) -> None:
    model = LLM(tiny_model, max_context_len=64)
    model.close()
    model.close()
    for call in (
        lambda: model.generate(PROMPT),
        lambda: model.stream(PROMPT),
        lambda: model.chat([{"role": "user", "content": "hi"}]),
        lambda: model.tokenize("x"),
        lambda: model.detokenize([5]),
        lambda: model.logits(PROMPT),
        lambda: model.info,
    ):
        with pytest.raises(InvalidArgumentError, match="closed"):
            call()
    model.abort()
    assert not model.is_running


def test_a_second_run_is_refused_and_disturbs_nothing(llm: LLM) -> None:
    with llm.stream(PROMPT, seed=5, max_new_tokens=200, ignore_eos=True) as stream:
        first = next(stream)
    expected = [piece.token_id for piece in llm.stream(PROMPT, seed=5, max_new_tokens=200, ignore_eos=True)]
    assert expected[0] == first.token_id


def test_a_busy_model_refuses(tiny_model: Path) -> None:
    # The queue holds 1024 tokens: a run of many more cannot end while nobody reads it.
    with LLM(tiny_model, max_context_len=16384, seed=5) as model:
        stream = model.stream(PROMPT, max_new_tokens=5000, ignore_eos=True)
        for call in (
            lambda: model.generate(PROMPT),
            lambda: model.logits(PROMPT),
            lambda: model.chat([{"role": "user", "content": "hi"}]),
        ):
            with pytest.raises(BusyError):
                call()
        assert model.is_running
        assert len(model.tokenize("tokens can be had meanwhile")) > 0
        assert sum(1 for _ in stream) == 5000
        assert stream.finish_reason == "length"
        assert not model.is_running
        assert len(model.generate(PROMPT, **GREEDY).token_ids) == 12


def test_a_model_cannot_be_pickled_or_copied(llm: LLM) -> None:
    for action in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="pickle"):
            action(llm)
    with llm.stream(PROMPT) as stream, pytest.raises(TypeError, match="pickle"):
        pickle.dumps(stream)


def test_a_forked_child_is_told_to_load_the_model_itself(tiny_model: Path) -> None:
    code = """
import os, sys
from rkllm_ext import LLM
from rkllm_ext.errors import InvalidArgumentError
model = LLM(sys.argv[1], max_context_len=64, n_threads=2)
child = os.fork()
if child == 0:
    try:
        model.generate("x")
    except InvalidArgumentError as error:
        print(error)
    model.close()
    sys.exit(0)
status = os.waitpid(child, 0)[1]
stream = model.stream("x", max_new_tokens=40, ignore_eos=True)
sys.stdout.flush()
child = os.fork()
if child == 0:
    for read in (stream.collect, lambda: list(stream), stream.close):
        try:
            read()
        except InvalidArgumentError as error:
            print(error)
    sys.exit(0)
status += os.waitpid(child, 0)[1]
assert len(stream.collect()[1]) == 40
print(status, len(model.generate("x", max_new_tokens=2, ignore_eos=True).token_ids))
"""
    result = subprocess.run([sys.executable, "-c", code, str(tiny_model)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "another process; load it after the fork" in result.stdout
    assert result.stdout.count("the run was started by another process; start one after the fork\n") == 2
    assert result.stdout.splitlines()[-1] == "0 2"


def test_an_unsupported_instruction_set_is_refused_by_name(tiny_model: Path) -> None:
    code = "import sys, rkllm_ext; rkllm_ext.LLM(sys.argv[1], max_context_len=64)"
    result = subprocess.run(
        [sys.executable, "-c", code, str(tiny_model)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "RKLLM_EXT_ISA": "mmx"},
    )
    assert result.returncode == 1
    assert "InvalidArgumentError" in result.stderr
    assert "mmx" in result.stderr.splitlines()[-1]
