# SPDX-License-Identifier: Apache-2.0
"""Sessions that decode together without coming back to Python: their tokens, their ends, and threads that read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rkllm_ext import LLM, Session, decode_together
from rkllm_ext._rkllm import Decoding
from rkllm_ext.errors import AbortedError, BusyError, ContextFullError, InvalidArgumentError

SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"seed": 3, "top_k": 0, "temperature": 1.2},
    {"seed": 4, "repeat_penalty": 1.5, "top_p": 0.8},
]
PASSES = 20


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> Iterator[LLM]:
    with LLM(tiny_model, max_context_len=128, n_threads=2, seed=1) as model:
        yield model


def some_sessions(llm: LLM) -> tuple[list[Session], list[int]]:
    """Return sessions with settings of their own, and what each has chosen first."""
    sessions = [llm.session(**settings) for settings in SETTINGS]
    for number, session in enumerate(sessions):
        session.prefill("Once upon a time " * (1 + number))
    return sessions, [session.sample() for session in sessions]


@pytest.fixture(scope="module")
def expected(llm: LLM) -> list[list[int]]:
    """Return what the sessions choose one by one, pass by pass."""
    sessions, tokens = some_sessions(llm)
    rows = [tokens]
    for _ in range(PASSES):
        for session, token in zip(sessions, rows[-1]):
            session.step(token)
        rows.append([session.sample() for session in sessions])
    return rows


def test_one_pass_gives_the_tokens_of_steps_and_samples(llm: LLM, expected: list[list[int]]) -> None:
    sessions, tokens = some_sessions(llm)
    rows = [tokens]
    for _ in range(PASSES):
        rows.append(decode_together(sessions, np.array(rows[-1], np.int32)))
    assert rows == expected
    assert decode_together([], []) == []


def test_many_passes_are_read_while_they_are_computed(llm: LLM, expected: list[list[int]]) -> None:
    sessions, tokens = some_sessions(llm)
    decoding = Decoding(sessions, tokens, most=PASSES)
    thread = threading.Thread(target=decoding.run)
    thread.start()
    rows = [tokens]
    while passes := decoding.take():
        rows += passes
    thread.join()
    assert rows == expected
    assert decoding.take() == []
    for session, first in zip(sessions, zip(*expected)):
        assert session.tokens.tolist()[-PASSES:] == list(first[:PASSES])


def test_a_rest_lasts_to_the_last_pass(llm: LLM, expected: list[list[int]]) -> None:
    sessions, tokens = some_sessions(llm)
    decoding = Decoding(sessions, tokens, most=PASSES)
    decoding.rest(1)  # nothing comes
    thread = threading.Thread(target=decoding.run)
    thread.start()
    decoding.rest(60_000)
    assert decoding.take() == expected[1:]
    decoding.rest(60_000)
    assert decoding.take() == []
    thread.join()


def test_an_end_of_one_of_them_is_behind_the_last_pass(llm: LLM, expected: list[list[int]]) -> None:
    sessions, tokens = some_sessions(llm)
    at = next(i for i in range(3, PASSES) if expected[i][1] not in [row[1] for row in expected[:i]])
    ends = [(), (expected[at][1], 1), ()]
    decoding = Decoding(sessions, tokens, ends=ends, most=PASSES)
    decoding.run()
    assert decoding.take() == expected[1 : at + 1]


def test_a_stop_lets_the_present_pass_be_the_last_one(llm: LLM, expected: list[list[int]]) -> None:
    sessions, tokens = some_sessions(llm)
    decoding = Decoding(sessions, tokens, most=PASSES)
    decoding.stop()
    decoding.run()
    assert decoding.take() == [expected[1]]


def test_a_mask_decides_the_first_pass(llm: LLM) -> None:
    sessions, tokens = some_sessions(llm)
    allowed = np.zeros(llm.info.vocab_size, bool)
    allowed[42] = True
    chosen = decode_together(sessions, tokens, [None, allowed, None])
    assert chosen[1] == 42
    with pytest.raises(InvalidArgumentError, match="mask has 3 bytes"):
        decode_together(sessions, tokens, [None, np.zeros(3, np.uint8), None])


def test_the_choice_that_failed_is_told_behind_those_that_did_not(llm: LLM, expected: list[list[int]]) -> None:
    sessions, tokens = some_sessions(llm)
    nothing = np.zeros(llm.info.vocab_size, bool)
    with pytest.raises(InvalidArgumentError, match=r"session 1: .*no token is left"):
        decode_together(sessions, tokens, [None, nothing, None])
    sessions, tokens = some_sessions(llm)
    words = np.zeros((llm.info.vocab_size + 31) // 32, np.uint32)
    decoding = Decoding(sessions, tokens, [None, words, None], most=PASSES)
    decoding.run()
    assert decoding.take() == [[expected[1][0], -1, expected[1][2]]]
    with pytest.raises(InvalidArgumentError, match="session 1: "):
        decoding.take()
    assert decoding.take() == []


def test_what_cannot_be_decoded_is_refused(llm: LLM) -> None:
    sessions, tokens = some_sessions(llm)
    lengths = [len(session) for session in sessions]
    for wrong in ([1], [1, 2, 100000], [-1, 1, 1], [1, 1, "2"]):
        with pytest.raises(InvalidArgumentError):
            decode_together(sessions, wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="a NoneType is given"):
        decode_together([*sessions[:2], None], tokens)  # type: ignore[list-item]
    with pytest.raises(InvalidArgumentError, match="0 passes"):
        Decoding(sessions, tokens, most=0)
    with pytest.raises(BusyError, match="twice"):
        decode_together([sessions[0]] * 2, tokens[:2])
    full = llm.session()
    full.prefill(np.full(128, 5, np.int32))
    with pytest.raises(ContextFullError, match="session 1: "):
        decode_together([sessions[0], full], [1, 1])
    assert [len(session) for session in sessions] == lengths
    sessions[0].close()
    with pytest.raises(InvalidArgumentError, match="closed"):
        decode_together(sessions, tokens)


def test_a_session_that_is_closed_meanwhile_ends_it(tiny_model: Path) -> None:
    with LLM(tiny_model, max_context_len=65536, n_threads=2) as llm:
        sessions, tokens = some_sessions(llm)
        decoding = Decoding(sessions, tokens, most=60000)
        thread = threading.Thread(target=decoding.run)
        thread.start()
        assert decoding.take()
        sessions[2].close()
        with pytest.raises(AbortedError, match="session 2 was aborted"):
            while decoding.take():
                pass
        thread.join()
        assert 0 < len(sessions[0]) < 60000
