# SPDX-License-Identifier: Apache-2.0
"""The engine layer without HTTP: what it answers, who waits for whom, and how requests end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rkllm_ext import LLM
from rkllm_ext.errors import ContextFullError, InvalidArgumentError
from rkllm_ext.server import Engine, Model, Request, Ticket
from rkllm_ext.server import decoder as decoder_module
from rkllm_ext.server import engine as engine_module
from rkllm_ext.server.request import DeadlineError, DrainingError, QueueFullError

PROMPT = "Once upon a time there was"
GREEDY = {"temperature": 0.0}
ENDLESS: dict[str, Any] = {"max_tokens": 60000, "ignore_eos": True, "sampling": GREEDY}


@pytest.fixture
def engine(tiny_model: Path) -> Iterator[Engine]:
    with Engine(Model(tiny_model, max_context_len=65536), parallel=4, max_queue=8) as engine:
        yield engine


@pytest.fixture
def narrow(tiny_model: Path) -> Iterator[Engine]:
    """Return an engine that computes one answer at a time."""
    with Engine(Model(tiny_model, max_context_len=65536), parallel=1, max_queue=8) as engine:
        yield engine


def ask(engine: Engine, text: str = PROMPT, **settings: Any) -> Ticket:
    return engine.submit(Request(engine.model.text_ids(text), **settings))


def first_event(ticket: Ticket) -> None:
    assert ticket.next_event(timeout=60) is not None


def ids_of(ticket: Ticket) -> list[list[int]]:
    return [[token.token_id for token in tokens] for _, tokens, _ in ticket.collect()]


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0.0}, {"seed": 7}, {"seed": 1, "top_k": 20, "top_p": 0.8, "repeat_penalty": 1.2}]
)
def test_an_answer_is_that_of_generate(engine: Engine, tiny_model: Path, sampling: dict[str, Any]) -> None:
    off = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repeat_penalty": 1.0}
    with LLM(tiny_model) as llm:
        expected = llm.generate(PROMPT, max_new_tokens=40, logprobs=2, **{**off, **sampling})
    ticket = ask(engine, max_tokens=40, sampling=sampling, logprobs=2)
    ((text, tokens, reason),) = ticket.collect()
    assert text == expected.text
    rows = [tuple(token) for token in tokens if token.token_id not in engine.model.ends]
    assert rows == [tuple(row) for row in expected.logprobs or []]
    assert reason == expected.finish_reason
    assert ticket.usage.completion_tokens == len(tokens)
    assert ticket.usage.prompt_tokens == len(engine.model.text_ids(PROMPT))


def test_answers_together_are_those_of_single_ones(engine: Engine) -> None:
    texts = [f"{PROMPT} {i} {'robots and ' * i}" for i in range(8)]
    alone = [ids_of(ask(engine, text, max_tokens=30, sampling={"seed": i})) for i, text in enumerate(texts)]
    tickets = [ask(engine, text, max_tokens=30, sampling={"seed": i}) for i, text in enumerate(texts)]
    assert [ids_of(ticket) for ticket in tickets] == alone


def test_passes_that_wait_for_nobody_give_what_single_ones_give(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcome(**settings: Any) -> Any:
        ticket = ask(engine, ignore_eos=True, **settings)
        return [(text, reason) for text, _, reason in ticket.collect()], ticket.usage.completion_tokens

    whole = ask(engine, max_tokens=60, sampling={"seed": 5}, ignore_eos=True).collect()[0][0]
    for settings in (
        {"max_tokens": 60, "sampling": {"seed": 5}},
        {"max_tokens": 60, "sampling": {"seed": 5}, "stop": [whole[10:13], "never there"]},  # noticed a pass late
        {"max_tokens": 200, "sampling": {"seed": 6, "repeat_penalty": 1.3}, "n": 2},  # several rounds of passes
    ):
        single = outcome(logprobs=0, **settings)
        assert outcome(**settings) == single
        with monkeypatch.context() as patch:
            patch.setattr(decoder_module, "_TOGETHER", 1e6)  # events wait for each other until the end
            assert outcome(**settings) == single


def test_several_answers_have_the_seeds_that_follow_and_one_prefill(engine: Engine) -> None:
    single = [ids_of(ask(engine, max_tokens=20, sampling={"seed": seed}))[0] for seed in (5, 6, 7)]
    before = engine.counters.prompt_tokens
    ticket = ask(engine, "A new prompt that nobody had before", max_tokens=20, n=3, sampling={"seed": 5})
    ticket.collect()
    assert engine.counters.prompt_tokens - before <= ticket.usage.prompt_tokens + 2
    assert ids_of(ask(engine, max_tokens=20, n=3, sampling={"seed": 5})) == single
    assert len({tuple(ids) for ids in single}) == 3


def test_a_prompt_starts_from_what_an_earlier_one_had(engine: Engine) -> None:
    story = PROMPT + " a robot who lived in a house by the sea and counted waves" * 5
    ask(engine, story, max_tokens=4).collect()
    ticket = ask(engine, story + " and stars", max_tokens=4)
    ticket.collect()
    assert ticket.usage.cached_tokens >= len(engine.model.text_ids(story)) - 2
    fresh = ask(engine, story, max_tokens=4, reuse_prefix=False)
    fresh.collect()
    assert fresh.usage.cached_tokens == 0


def test_a_cancelled_request_frees_its_place_within_a_token(narrow: Engine) -> None:
    endless = ask(narrow, **ENDLESS)
    first_event(endless)
    endless.cancel()
    produced = endless.usage.completion_tokens
    assert ids_of(ask(narrow, max_tokens=3, ignore_eos=True))[0]
    assert endless.usage.completion_tokens <= produced + 1
    assert list(endless) == [] or endless.ended


def test_a_waiting_request_can_be_cancelled(narrow: Engine) -> None:
    endless = ask(narrow, **ENDLESS)
    first_event(endless)
    waiting = ask(narrow, max_tokens=3)
    waiting.cancel()
    assert list(waiting) == []
    endless.cancel()
    assert narrow.drain(timeout=60)
    assert narrow.counters.cancelled == 2
    assert waiting.usage.completion_tokens == 0


def test_a_reader_that_does_not_read_holds_nobody_up(narrow: Engine) -> None:
    unread = ask(narrow, max_tokens=500, ignore_eos=True, sampling=GREEDY)
    assert len(ids_of(ask(narrow, max_tokens=5, ignore_eos=True))[0]) == 5
    assert unread.usage.completion_tokens == 500
    assert len(ids_of(unread)[0]) == 500


def test_a_long_prompt_does_not_hold_up_answers(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_MOST_AT_ONCE", 64)
    endless = ask(engine, **ENDLESS)
    first_event(endless)
    produced = endless.usage.completion_tokens
    long = engine.submit(Request([5] * 4000, max_tokens=1, ignore_eos=True))
    long.collect()
    endless.cancel()
    assert endless.usage.completion_tokens - produced >= 4000 // 64 - 1


def test_more_than_may_wait_are_refused(narrow: Engine) -> None:
    endless = ask(narrow, **ENDLESS)
    first_event(endless)
    tickets = [ask(narrow, max_tokens=1) for _ in range(8)]
    with pytest.raises(QueueFullError, match="8 answers wait already, 8 may"):
        ask(narrow, max_tokens=1)
    endless.cancel()
    assert all(len(ticket.collect()) == 1 for ticket in tickets)
    assert narrow.counters.refused == 1


def test_clients_take_turns(narrow: Engine) -> None:
    endless = ask(narrow, **ENDLESS)
    first_event(endless)
    greedy = [ask(narrow, max_tokens=5, ignore_eos=True, client="greedy") for _ in range(6)]
    modest = ask(narrow, max_tokens=5, ignore_eos=True, client="modest")
    endless.cancel()
    modest.collect()
    for ticket in greedy:
        ticket.collect()
    began = [ticket.timing.admitted or 0.0 for ticket in greedy]
    assert began == sorted(began)
    assert (modest.timing.admitted or 0.0) < began[1]


def test_a_request_fails_when_its_time_is_over(narrow: Engine) -> None:
    endless = ask(narrow, timeout=0.2, **ENDLESS)
    waiting = ask(narrow, timeout=0.05, max_tokens=1)
    with pytest.raises(DeadlineError, match=r"not done in 0\.05 seconds"):
        waiting.collect()
    with pytest.raises(DeadlineError):
        endless.collect()
    assert len(ask(narrow, max_tokens=1).collect()) == 1


def test_an_answer_that_fails_fails_alone(engine: Engine) -> None:
    good = ask(engine, max_tokens=200, ignore_eos=True)
    forbidden = dict.fromkeys(range(engine.model.info.vocab_size), float("-inf"))
    bad = ask(engine, max_tokens=5, sampling={"logit_bias": forbidden})
    with pytest.raises(InvalidArgumentError, match="no token is left"):
        bad.collect()
    with pytest.raises(InvalidArgumentError, match="temperature"):
        ask(engine, max_tokens=5, sampling={"temperature": -1.0}).collect()
    assert len(ids_of(good)[0]) == 200


def test_a_mistake_in_the_engine_is_told_and_later_requests_are_served(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("made by the test")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_admit", fails)
        bad = ask(engine, max_tokens=5)
        endless = ask(engine, **ENDLESS)
        while not caplog.records:
            time.sleep(0.01)
    assert "the engine failed" in caplog.text
    assert len(bad.collect()) == 1  # it had not begun
    first_event(endless)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_prefill", fails)
        with pytest.raises(ZeroDivisionError):
            endless.collect()
    assert len(ask(engine, max_tokens=5).collect()) == 1


def test_drain_lets_requests_end_and_takes_no_new_ones(narrow: Engine) -> None:
    tickets = [ask(narrow, max_tokens=300, ignore_eos=True) for _ in range(3)]
    assert narrow.drain(timeout=120)
    with pytest.raises(DrainingError):
        ask(narrow, max_tokens=1)
    assert [len(ids_of(ticket)[0]) for ticket in tickets] == [300] * 3


def test_close_ends_requests_with_a_sentence(tiny_model: Path) -> None:
    engine = Engine(Model(tiny_model, max_context_len=65536), parallel=1)
    tickets = [ask(engine, **ENDLESS) for _ in range(2)]
    first_event(tickets[0])
    engine.close()
    engine.close()
    for ticket in tickets:
        with pytest.raises(DrainingError, match="shut down"):
            ticket.collect()


def test_sequences_are_bounded(tiny_model: Path) -> None:
    with Engine(Model(tiny_model), parallel=2, kept=1) as engine:
        for i in range(12):
            ask(engine, f"{i} {'words of its own ' * i}", max_tokens=2).collect()
        assert engine.drain(60)
        assert engine.counters.sessions == 3


def test_a_full_context_ends_an_answer(tiny_model: Path) -> None:
    with Engine(Model(tiny_model, max_context_len=64)) as engine:
        ((_, tokens, reason),) = engine.submit(Request([5] * 60, ignore_eos=True)).collect()
        assert (len(tokens), reason) == (5, "length")
        with pytest.raises(ContextFullError, match="65 tokens, but the context is 64"):
            engine.submit(Request([5] * 65))


def test_no_tokens_can_be_asked_for_and_prompts_be_scored(engine: Engine, tiny_model: Path) -> None:
    ids = engine.model.text_ids(PROMPT + " and another" * 30)
    ask(engine, PROMPT, max_tokens=1).collect()  # a prefix that must not be used
    ticket = engine.submit(Request(ids, max_tokens=0, score_prompt=True, logprobs=2))
    assert ticket.collect() == [("", [], "length")]
    with LLM(tiny_model) as llm:
        logits = llm.logits(np.asarray(ids, np.int32)).astype(np.float64)
    exact = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert [token.token_id for token in ticket.prompt_tokens] == ids
    assert ticket.prompt_tokens[0].logprob is None
    for i, token in enumerate(ticket.prompt_tokens[1:]):
        assert token.logprob == pytest.approx(exact[i, ids[i + 1]], abs=1e-4)
        assert token.top is not None
        assert token.top[0][1] == pytest.approx(exact[i].max(), abs=1e-4)


def test_an_answer_has_the_form_that_was_asked_for(engine: Engine) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = ("json_schema", json.dumps(schema))
    for text, _, reason in ask(engine, max_tokens=60, form=form, n=2).collect():
        assert isinstance(json.loads(text)["a"], int)
        assert reason == "stop"
    with pytest.raises(InvalidArgumentError, match="json_schema"):
        ask(engine, form=("json_schema", '{"type": "nonsense"}'))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"n": 0}, "n is 0"),
        ({"n": 100}, "at most 12"),
        ({"max_tokens": -1}, "max_tokens is -1"),
        ({"logprobs": 21}, "logprobs is 21"),
        ({"lora": "none"}, "no adapter 'none'"),
        ({"stop": [""]}, "stop text is empty"),
        ({"sampling": {"top_kk": 1}}, "did you mean 'top_k'"),
    ],
)
def test_what_is_not_possible_is_refused_at_once(engine: Engine, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidArgumentError, match=sentence):
        ask(engine, **settings)
    with pytest.raises(InvalidArgumentError, match="prompt is empty"):
        engine.submit(Request([]))


def test_embeddings_are_made_beside_answers(engine: Engine) -> None:
    endless = ask(engine, **ENDLESS)
    first_event(endless)
    prompts = [engine.model.text_ids(text) for text in ("a house", "another house")]
    vectors = engine.embed(prompts)
    endless.cancel()
    assert vectors.shape == (2, engine.model.info.dim)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0)
    assert np.allclose(vectors[1], engine.model.llm.embed("another house", normalized=True), atol=1e-6)
    with pytest.raises(InvalidArgumentError, match="dimensions is 0"):
        engine.embed(prompts, 0)
