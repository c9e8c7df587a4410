# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C ends what computes long, and loses nothing."""

from __future__ import annotations

import signal
import threading
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rkllm_ext import LLM, loaded, session
from rkllm_ext.errors import AbortedError, InvalidArgumentError
from rkllm_ext.interruptible import interruptible

LONG = array("i", [5]) * 60000


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[float], None]]:
    """Return ctrl_c(seconds): press it so much later."""

    def press(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, press)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def aborted(monkeypatch: pytest.MonkeyPatch, ctrl_c: Callable[[float], None]) -> list[AbortedError]:
    """Press Ctrl-C when a long computation has begun. Return the list of those that ended early."""
    errors: list[AbortedError] = []

    def pressed(call: Callable[[], object], x: object, abort: Callable[[], None]) -> object:
        def begun() -> object:
            ctrl_c(0.05)
            try:
                return call()
            except AbortedError as error:
                errors.append(error)
                raise

        return interruptible(begun, x, abort)

    for module in (loaded, session):
        monkeypatch.setattr(module, "interruptible", pressed)
    return errors


@pytest.mark.parametrize("what", ["logits", "hidden_states", "embed"])
def test_ctrl_c_ends_a_computation_of_rows(tiny_model: Path, aborted: list[AbortedError], what: str) -> None:
    with LLM(tiny_model, max_context_len=65536, n_threads=1) as llm:
        before = llm.handle.hidden_states("Once upon a time", {"add_bos": "auto"}).tobytes()
        with pytest.raises(KeyboardInterrupt):
            getattr(llm, what)(LONG)
        assert len(aborted) == 1
        assert llm.handle.hidden_states("Once upon a time", {"add_bos": "auto"}).tobytes() == before


def test_ctrl_c_ends_a_prefill_and_the_session_keeps_what_was_computed(
    tiny_model: Path, aborted: list[AbortedError]
) -> None:
    with LLM(tiny_model, max_context_len=65536, n_threads=1) as llm, llm.session() as sequence:
        with pytest.raises(KeyboardInterrupt):
            sequence.prefill(LONG)
        assert len(aborted) == 1
        kept = len(sequence)
        assert kept < len(LONG)
        sequence.step(5)
        assert len(sequence) == kept + 1


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
    with LLM(tiny_model, max_context_len=65536) as llm:
        for wrong in (array("i", [10**6]) * 100, object()):
            with pytest.raises(InvalidArgumentError):
                llm.logits(wrong)  # type: ignore[arg-type]
