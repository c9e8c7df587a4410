# SPDX-License-Identifier: Apache-2.0
"""LLM: inputs and settings, answers and figures."""

from __future__ import annotations

import array
import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import rkllm_ext
from rkllm_ext import LLM
from rkllm_ext.chat import ChatTemplate
from rkllm_ext.errors import InvalidArgumentError, UnsupportedModelError

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
    assert (info.max_context, info.max_context_len, info.n_threads) == (65536, 256, 1)
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
    for wrong in (None, 3):
        with pytest.raises(InvalidArgumentError, match="which is no array"):
            llm.detokenize(wrong)  # type: ignore[arg-type]
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
