# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C ends what computes long, and loses nothing."""

from __future__ import annotations

import signal
import threading
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rkllm_ext import LLM
from rkllm_ext.errors import InvalidArgumentError
from rkllm_ext.interruptible import interruptible

LONG = array("i", [5]) * 16000


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[float], None]]:
    """Return ctrl_c(seconds): press it so much later."""

    def press(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, press)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("what", ["logits", "hidden_states", "embed"])
def test_ctrl_c_ends_a_computation_of_rows(tiny_model: Path, ctrl_c: Callable[[float], None], what: str) -> None:
    with LLM(tiny_model, max_context_len=16384, n_threads=1) as llm:
        before = llm.embed("Once upon a time").tobytes()
        ctrl_c(0.05)
        with pytest.raises(KeyboardInterrupt):
            getattr(llm, what)(LONG)
        assert llm.embed("Once upon a time").tobytes() == before


def test_ctrl_c_ends_a_prefill_and_the_session_keeps_what_was_computed(
    tiny_model: Path, ctrl_c: Callable[[float], None]
) -> None:
    with LLM(tiny_model, max_context_len=16384, n_threads=1) as llm, llm.session() as session:
        ctrl_c(0.05)
        with pytest.raises(KeyboardInterrupt):
            session.prefill(LONG)
        kept = len(session)
        assert kept < len(LONG)
        session.step(5)
        assert len(session) == kept + 1


def test_an_abort_is_repeated_until_the_computation_knows_of_it(ctrl_c: Callable[[float], None]) -> None:
    aborts = 0
    enough = threading.Event()

    def abort() -> None:
        nonlocal aborts
        aborts += 1
        if aborts == 3:
            enough.set()

    ctrl_c(0.01)
    with pytest.raises(KeyboardInterrupt):
        interruptible(enough.wait, LONG, abort)
    assert aborts == 3


def test_short_inputs_and_other_threads_compute_where_they_are() -> None:
    def where() -> int:
        return threading.get_ident()

    def stay() -> None:
        raise AssertionError("nothing was to be aborted")

    here = threading.get_ident()
    assert interruptible(where, "short", stay) == here
    assert interruptible(where, LONG, stay) != here
    seen: list[bool] = []

    def other() -> None:
        seen.append(interruptible(where, LONG, stay) == threading.get_ident())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [True]


def test_what_goes_wrong_is_raised_as_it_is(tiny_model: Path) -> None:
    with LLM(tiny_model, max_context_len=16384) as llm:
        for wrong in (array("i", [10**6]) * 100, object()):
            with pytest.raises(InvalidArgumentError):
                llm.logits(wrong)  # type: ignore[arg-type]
