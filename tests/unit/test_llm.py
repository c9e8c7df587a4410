# SPDX-License-Identifier: Apache-2.0
"""LLM: inputs and settings, answers and figures, and what is refused."""

from __future__ import annotations

import array
import copy
import ctypes
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import rkllm_ext
from rkllm_ext import LLM
from rkllm_ext.chat import ChatTemplate
from rkllm_ext.errors import BusyError, ContextFullError, InvalidArgumentError, ModelFileError, UnsupportedModelError

PROMPT = "Once upon a time"
GREEDY = {"top_k": 1, "ignore_eos": True, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> Iterator[LLM]:
    with LLM(tiny_model, max_context_len=256, max_new_tokens=8, n_threads=1) as model:
        yield model


# ---- answers --------------------------------------------------------------------------------------------------------


def test_text_and_its_tokens_give_the_same_answer(llm: LLM) -> None:
    from_text = llm.generate(PROMPT, **GREEDY)
    from_ids = llm.generate(llm.tokenize(PROMPT, add_bos=True), **GREEDY)
    assert from_text.token_ids.dtype == np.int32
    assert from_text.token_ids.tolist() == from_ids.token_ids.tolist()
    assert from_text.text == from_ids.text
    assert len(from_text.token_ids) == 12
    assert from_text.finish_reason == "length"


def test_a_stream_gives_the_pieces_of_the_answer(llm: LLM) -> None:
    whole = llm.generate(PROMPT, **GREEDY)
    pieces = list(llm.stream(PROMPT, **GREEDY))
    assert [piece.token_id for piece in pieces] == whole.token_ids.tolist()
    assert "".join(piece.text for piece in pieces) == whole.text
    assert "token_id=" in repr(pieces[0])


def test_greedy_is_the_most_probable_token_of_the_logits(llm: LLM) -> None:
    ids = llm.tokenize(PROMPT)
    logits = llm.logits(ids)
    assert logits.shape == (len(ids), llm.info.vocab_size)
    assert logits.dtype == np.float32
    answer = llm.generate(ids, top_k=1, repeat_penalty=1.0, max_new_tokens=1, ignore_eos=True)
    assert answer.token_ids.tolist() == [int(logits[-1].argmax())]


def test_logits_of_text_are_those_of_its_tokens(llm: LLM) -> None:
    np.testing.assert_array_equal(llm.logits(PROMPT), llm.logits(llm.tokenize(PROMPT, add_bos=True)))


def test_any_contiguous_int32_buffer_is_an_input(llm: LLM) -> None:
    ids = llm.tokenize(PROMPT)
    expected = llm.generate(ids, **GREEDY).token_ids.tolist()
    readonly = ids.copy()
    readonly.flags.writeable = False
    for form in (array.array("i", ids), memoryview(ids), readonly, (ctypes.c_int32 * len(ids))(*ids.tolist())):
        assert llm.generate(form, **GREEDY).token_ids.tolist() == expected  # type: ignore[arg-type]


def test_tokens_are_read_where_the_array_lies(llm: LLM) -> None:
    ids = llm.tokenize(PROMPT)
    answer = llm.generate(ids, **GREEDY)
    assert answer.perf is not None
    assert answer.perf.input_address == ids.ctypes.data
    part = np.concatenate([ids, ids])[3:9]
    assert llm.generate(part, **GREEDY).perf.input_address == part.ctypes.data  # type: ignore[union-attr]
    assert llm.generate(PROMPT, **GREEDY).perf.input_address is None  # type: ignore[union-attr]


def test_embeddings_are_read_where_the_array_lies(llm: LLM) -> None:
    rows = np.random.default_rng(1).standard_normal((5, llm.info.dim)).astype(np.float32)
    answer = llm.generate(rows, **GREEDY)
    assert answer.perf is not None
    assert answer.perf.input_address == rows.ctypes.data
    assert answer.perf.prefill_tokens == 5
    assert llm.generate(rows.copy(), **GREEDY).token_ids.tolist() == answer.token_ids.tolist()
    assert llm.logits(rows).shape == (5, llm.info.vocab_size)


def test_an_input_array_is_held_until_the_run_ends_and_not_longer(llm: LLM) -> None:
    ids = array.array("i", llm.tokenize(PROMPT))
    with llm.stream(ids, max_new_tokens=50, ignore_eos=True) as stream:
        next(stream)
        with pytest.raises(BufferError):
            ids.append(1)  # the memory would move under the engine
    ids.append(1)


def test_the_same_seed_gives_the_same_answer(llm: LLM) -> None:
    settings = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "ignore_eos": True, "max_new_tokens": 32}
    first = llm.generate(PROMPT, seed=2**64 - 1, **settings)
    again = llm.generate(PROMPT, seed=2**64 - 1, **settings)
    other = llm.generate(PROMPT, seed=1, **settings)
    assert first.token_ids.tolist() == again.token_ids.tolist()
    assert first.token_ids.tolist() != other.token_ids.tolist()
    assert first.perf is not None
    assert first.perf.seed == 2**64 - 1


def test_log_probabilities_are_those_of_the_models_own_distribution(llm: LLM) -> None:
    ids = llm.tokenize(PROMPT)
    settings = {"temperature": 2.0, "top_k": 5, "seed": 4, "max_new_tokens": 10, "ignore_eos": True}
    answer = llm.generate(ids, logprobs=3, **settings)
    rows = answer.logprobs
    assert rows is not None
    assert [row.token_id for row in rows] == answer.token_ids.tolist()
    logits = llm.logits(np.concatenate([ids, answer.token_ids]))[len(ids) - 1 : -1].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for row, values in zip(rows, expected):
        assert row.logprob == pytest.approx(values[row.token_id], abs=1e-4)
        best = np.argsort(-values, kind="stable")[:3]
        assert [token for token, _ in row.top] == best.tolist()
        assert [number for _, number in row.top] == pytest.approx(values[best], abs=1e-4)
    pieces = list(llm.stream(ids, logprobs=3, **settings))
    assert [(piece.token_id, piece.logprob, piece.top_logprobs) for piece in pieces] == rows
    assert {len(row.top) for row in llm.generate(ids, logprobs=0, **settings).logprobs or []} == {0}


def test_log_probabilities_are_kept_for_long_answers_and_left_out_where_nobody_asks(tiny_model: Path) -> None:
    with LLM(tiny_model, max_context_len=8192, n_threads=1, seed=1, logprobs=1) as model:
        answer = model.generate(PROMPT, max_new_tokens=5000, ignore_eos=True)  # more than the queue holds
        assert answer.logprobs is not None
        assert [row.token_id for row in answer.logprobs] == answer.token_ids.tolist()
        assert all(row.logprob <= row.top[0][1] <= 0.0 for row in answer.logprobs)
        stopped = model.generate(PROMPT, max_new_tokens=30, ignore_eos=True, stop="\n\n\n\n")
        assert stopped.logprobs is not None
        assert len(stopped.logprobs) == len(stopped.token_ids)
        assert model.generate(PROMPT, max_new_tokens=5, logprobs=None).logprobs is None
        piece = next(model.stream(PROMPT, max_new_tokens=5, logprobs=None, ignore_eos=True))
        assert (piece.logprob, piece.top_logprobs) == (None, None)


def test_an_override_lasts_for_one_run(llm: LLM) -> None:
    assert len(llm.generate(PROMPT, ignore_eos=True, max_new_tokens=3).token_ids) == 3
    assert len(llm.generate(PROMPT, ignore_eos=True).token_ids) == 8
    # A run that was refused leaves nothing behind, either.
    with pytest.raises(InvalidArgumentError):
        llm.generate(PROMPT, max_new_tokens=5, top_p=-1.0)
    assert len(llm.generate(PROMPT, ignore_eos=True).token_ids) == 8


def test_a_stop_text_ends_the_answer_before_it(llm: LLM) -> None:
    settings = {"ignore_eos": True, "max_new_tokens": 40, "seed": 6}
    whole = llm.generate(PROMPT, **settings)
    stop = whole.text[11:16]
    before = whole.text[: whole.text.index(stop)]
    for given in (stop, ["never", stop], (stop, "never")):
        answer = llm.generate(PROMPT, stop=given, **settings)
        assert (answer.text, answer.finish_reason) == (before, "stop")
        assert answer.token_ids.tolist() == whole.token_ids.tolist()[: len(answer.token_ids)]
    assert "".join(piece.text for piece in llm.stream(PROMPT, stop=stop, **settings)) == before
    assert llm.generate(PROMPT, **settings).text == whole.text


def test_text_held_back_at_the_end_of_an_answer_is_not_lost(llm: LLM) -> None:
    settings = {"ignore_eos": True, "max_new_tokens": 40, "seed": 6}
    whole = llm.generate(PROMPT, **settings)
    stop = whole.text[-3:] + "and on"
    answer = llm.generate(PROMPT, stop=stop, **settings)
    assert (answer.text, answer.finish_reason) == (whole.text, "length")
    assert answer.token_ids.tolist() == whole.token_ids.tolist()
    pieces = list(llm.stream(PROMPT, stop=stop, **settings))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [piece.token_id for piece in pieces] == [*whole.token_ids.tolist(), -1]


def test_sampling_settings_of_one_run(llm: LLM) -> None:
    settings = {"ignore_eos": True, "max_new_tokens": 20, "seed": 5, "temperature": 2.0, "top_k": 0, "top_p": 1.0}
    plain = llm.generate(PROMPT, **settings).token_ids.tolist()
    for other in ({"mirostat": 1, "mirostat_tau": 1.0}, {"mirostat": 2, "mirostat_eta": 1.0}, {"min_p": 1.0}):
        assert llm.generate(PROMPT, **settings, **other).token_ids.tolist() != plain, other
    assert llm.generate(PROMPT, **settings, logit_bias={65: 1000}).token_ids.tolist() == [65] * 20
    forbidden = dict.fromkeys(plain, float("-inf"))
    assert not set(plain) & set(llm.generate(PROMPT, **settings, logit_bias=forbidden).token_ids.tolist())
    assert llm.generate(PROMPT, **settings, logprobs=3).token_ids.tolist() == plain
    assert llm.generate(PROMPT, **settings).token_ids.tolist() == plain


def test_sampling_settings_of_a_model(tiny_model: Path) -> None:
    settings = {"min_p": 0.5, "logit_bias": {7: 2.5}, "stop": ["x", "yz"], "mirostat": 2, "seed": 3}
    with LLM(tiny_model, max_new_tokens=20, **settings) as model, LLM(tiny_model, max_new_tokens=20) as other:
        expected = other.generate(PROMPT, **settings)
        answer = model.generate(PROMPT)
    assert (answer.text, answer.token_ids.tolist()) == (expected.text, expected.token_ids.tolist())


def test_special_tokens_are_left_out_of_the_text_unless_asked_for(tiny_model: Path) -> None:
    with LLM(tiny_model, max_context_len=512, max_new_tokens=8, top_k=1) as llm:
        (special,) = llm.tokenize("<|im_start|>", parse_special=True).tolist()
        preferred = {"ignore_eos": True, "logit_bias": {special: 1e4}}
        with_them = llm.generate(PROMPT, skip_special_token=False, **preferred)
        without = llm.generate(PROMPT, **preferred)
        assert with_them.token_ids.tolist() == without.token_ids.tolist() == [special] * 8
        assert with_them.text == "<|im_start|>" * 8
        assert without.text == ""


def test_figures_of_a_run(llm: LLM) -> None:
    ids = llm.tokenize(PROMPT)
    answer = llm.generate(ids, reuse_prefix=False, **GREEDY)
    perf = llm.perf
    assert perf == answer.perf
    assert perf is not None
    assert (perf.prefill_tokens, perf.reused_tokens) == (len(ids), 0)
    assert perf.finish_reason == "length"
    assert perf.prefill_tokens_per_second > 0
    assert perf.generate_tokens_per_second > 0
    assert perf.peak_memory_mb > 1


def test_a_run_computes_only_what_it_has_not_in_common_with_the_one_before(llm: LLM) -> None:
    ids = llm.tokenize("The quick brown fox jumps over the lazy dog.")
    other = np.concatenate([ids[:20], llm.tokenize(" And then?")])
    expected = llm.generate(other, reuse_prefix=False, **GREEDY)
    llm.generate(ids, **GREEDY)
    answer = llm.generate(other, **GREEDY)
    assert answer.perf is not None
    assert (answer.perf.reused_tokens, answer.perf.prefill_tokens) == (20, len(other) - 20)
    assert answer.token_ids.tolist() == expected.token_ids.tolist()


def test_a_full_context_goes_on_when_asked(llm: LLM) -> None:
    ids = np.full(250, 5, np.int32)
    answer = llm.generate(ids, max_new_tokens=40, ignore_eos=True, n_keep=4, top_k=1)
    assert (len(answer.token_ids), answer.finish_reason) == (40, "length")
    assert llm.generate(ids, max_new_tokens=40, ignore_eos=True, top_k=1).finish_reason == "context"


@pytest.mark.parametrize("kv_type", ["f16", "f32", "int8"])
def test_keys_and_values_are_kept_as_asked(tiny_model: Path, kv_type: str) -> None:
    with LLM(tiny_model, max_context_len=64, kv_type=kv_type) as model:
        sizes = {"f32": 4.0, "f16": 2.0, "int8": 1.0}
        with LLM(tiny_model, max_context_len=64, kv_type="f32") as largest:
            share = model.info.kv_bytes / largest.info.kv_bytes
            assert share == pytest.approx(sizes[kv_type] / 4.0, abs=0.1)
        assert len(model.generate(PROMPT, **GREEDY).token_ids) == 12


def test_drafted_answers_are_the_same(llm: LLM) -> None:
    ids = np.array(llm.tokenize(PROMPT).tolist() * 4, np.int32)
    plain = llm.generate(ids, top_k=1, max_new_tokens=60, ignore_eos=True)
    drafted = llm.generate(ids, top_k=1, max_new_tokens=60, ignore_eos=True, draft=8)
    assert drafted.token_ids.tolist() == plain.token_ids.tolist()


# ---- embeddings of texts --------------------------------------------------------------------------------------------


def test_a_text_becomes_one_vector(llm: LLM) -> None:
    states = llm.hidden_states(PROMPT)
    mean = llm.embed(PROMPT)
    assert (mean.shape, mean.dtype) == ((llm.info.dim,), np.float32)
    np.testing.assert_allclose(mean, states.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(llm.embed(PROMPT, pooling="last"), states[-1])
    np.testing.assert_array_equal(llm.embed(llm.tokenize(PROMPT, add_bos=True)), mean)
    unit = llm.embed(PROMPT, normalized=True)
    assert np.linalg.norm(unit) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(unit * np.linalg.norm(mean), mean, rtol=1e-5)


def test_a_list_of_texts_becomes_a_matrix(llm: LLM) -> None:
    texts = ["one", "two words", PROMPT]
    matrix = llm.embed(texts, pooling="last")
    assert matrix.shape == (3, llm.info.dim)
    for text, row in zip(texts, matrix):
        np.testing.assert_array_equal(row, llm.embed(text, pooling="last"))
    for wrong, settings in (([], {}), ("", {}), (PROMPT, {"pooling": "max"}), ([PROMPT, None], {})):
        with pytest.raises(InvalidArgumentError):
            llm.embed(wrong, **settings)  # type: ignore[arg-type, call-overload]


def test_a_model_that_has_not_run_has_no_figures(tiny_model: Path) -> None:
    with LLM(tiny_model, max_context_len=64) as fresh:
        assert fresh.perf is None
        assert not fresh.is_running


def test_facts_about_the_model(llm: LLM, tiny_model: Path) -> None:
    info = llm.info
    assert (info.dim, info.n_layers, info.n_heads, info.n_kv_heads, info.head_dim) == (64, 2, 4, 2, 16)
    assert (info.max_context, info.max_context_len, info.n_threads) == (16384, 256, 1)
    assert info.file_bytes == tiny_model.stat().st_size
    assert info.format == "w8a8"
    assert info.isa == rkllm_ext._rkllm.active_isa()  # type: ignore[attr-defined]


def test_without_a_number_the_context_is_4096_or_the_models(tiny_model: Path, tiny_llama: Path, tmp_path: Path) -> None:
    with LLM(tiny_model) as model:
        assert model.info.max_context_len == 4096
    rkllm_ext.convert(tiny_llama, tmp_path / "short.rkllm", "w8a8")
    with LLM(tmp_path / "short.rkllm") as model:
        assert model.info.max_context_len == 512


def test_tokens_and_text(llm: LLM) -> None:
    ids = llm.tokenize("größe <|im_end|>")
    assert llm.detokenize(ids) == "größe <|im_end|>"
    assert llm.detokenize(ids, skip_special=True) == "größe "
    assert len(llm.tokenize("<|im_end|>", parse_special=False)) > 1


# ---- chat -----------------------------------------------------------------------------------------------------------


def test_chat_is_the_rendered_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "hi"}]
    prompt = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    # A template that writes the begin token gets no second one: the ids are those of the text alone.
    ids = llm.tokenize(prompt)
    answer = llm.chat(messages, **GREEDY)
    assert answer.token_ids.tolist() == llm.generate(ids, **GREEDY).token_ids.tolist()
    assert answer.perf is not None
    assert answer.perf.prefill_tokens + answer.perf.reused_tokens == len(ids)
    assert "".join(piece.text for piece in llm.chat_stream(messages, **GREEDY)) == answer.text
    # ... and the next plain prompt is treated as before.
    plain = llm.generate(PROMPT, reuse_prefix=False, **GREEDY)
    assert plain.perf is not None
    assert plain.perf.prefill_tokens == len(llm.tokenize(PROMPT, add_bos=True))


def test_messages_that_are_none_are_refused(llm: LLM) -> None:
    with pytest.raises(InvalidArgumentError):
        llm.chat([])
    with pytest.raises(InvalidArgumentError):
        llm.chat("hi")  # type: ignore[arg-type]


def test_a_model_without_a_template_says_so(tiny_llama: Path, tmp_path: Path) -> None:
    source = tmp_path / "checkpoint"
    source.mkdir()
    for file in tiny_llama.iterdir():
        if file.name != "tokenizer_config.json":
            (source / file.name).write_bytes(file.read_bytes())
    rkllm_ext.convert(source, tmp_path / "plain.rkllm", "w8a8")
    with (
        LLM(tmp_path / "plain.rkllm", max_context_len=64) as model,
        pytest.raises(UnsupportedModelError, match="no chat template"),
    ):
        model.chat([{"role": "user", "content": "hi"}])


def test_begin_and_end_tokens_reach_the_template(llm: LLM) -> None:
    llm.chat([{"role": "user", "content": "hi"}], max_new_tokens=1)
    assert llm._conversations._template is not None
    template, bos = llm._conversations._template
    assert isinstance(template, ChatTemplate)
    assert bos == "<|im_start|>"
    assert template._tokens == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}


# ---- what is refused ------------------------------------------------------------------------------------------------


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
print(status, len(model.generate("x", max_new_tokens=2, ignore_eos=True).token_ids))
"""
    result = subprocess.run([sys.executable, "-c", code, str(tiny_model)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "another process; load it after the fork" in result.stdout
    assert result.stdout.splitlines()[-1] == "0 2"


def test_a_model_answers_without_numpy(tiny_model: Path) -> None:
    code = """
import array, sys

class NoNumpy:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            raise ModuleNotFoundError("No module named 'numpy'", name=name)

sys.meta_path.insert(0, NoNumpy())
from rkllm_ext import LLM
with LLM(sys.argv[1], max_context_len=64, max_new_tokens=3) as llm:
    ids = llm.tokenize("hello")
    answer = llm.generate(array.array("i", ids), ignore_eos=True)
    print(type(ids).__name__, type(answer.token_ids).__name__, len(answer.token_ids), llm.detokenize(ids))
    with llm.session(top_k=1) as session:
        session.prefill(ids)
        session.step(session.sample())
        print(type(session.tokens).__name__, len(session) - len(ids))
"""
    result = subprocess.run([sys.executable, "-c", code, str(tiny_model)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "array array 3 hello\narray 1\n"


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
