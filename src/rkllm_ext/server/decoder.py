# SPDX-License-Identifier: Apache-2.0
"""Answers that are brought on together: passes that wait for no Python, and what becomes of their tokens meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING

from .._rkllm import Decoding
from .answer import Answer

if TYPE_CHECKING:
    from .engine import Counters

_TOGETHER = 16  # milliseconds in which passes wait for each other: to wake threads costs more than to make an event
_MOST_PASSES = 64  # between two looks at everything else; a new request, or one that ends, makes it fewer


class Decoder:
    """Chooses the tokens of the answers of one engine. Used by the engine's thread, but for `interrupt`.

    A thread of its own computes pass after pass, and chooses tokens, without Python's lock; meanwhile the engine's
    thread makes texts and events of the passes before. So an answer that ends by its text is noticed when later tokens
    are computed: those are dropped.

    Parameters
    ----------
    name : str
        Of the thread.
    counters : Counters
        The engine's.
    fail : callable
        Called with an answer and what went wrong with it.
    """

    def __init__(self, name: str, counters: Counters, fail: Callable[[Answer, Exception], None]) -> None:
        self._counters = counters
        self._fail = fail
        self._current: Decoding | None = None
        self._interrupted = False
        self._taken = 0.0  # when, in seconds of time.monotonic
        self._todo: SimpleQueue[Decoding | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._compute, name=name, daemon=True)
        self._thread.start()

    def interrupt(self) -> None:
        """Let `advance` return behind the present pass: there is something else to do. Any thread may call it."""
        self._interrupted = True  # before the look at what is being computed: see _run
        current = self._current
        if current is not None:
            current.stop()

    def ready(self) -> None:
        """Forget interruptions: whoever calls this looks at everything now."""
        self._interrupted = False

    def advance(self, active: Sequence[Answer]) -> None:
        """Bring answers on whose prompts have been computed: by a token, or until something else is to be done."""
        ready = [answer for answer in active if answer.is_ready and not answer.is_over]
        for answer in ready:
            if answer.next_token is None:
                self.guarded(answer, answer.choose)
        company = [answer for answer in ready if self.guarded(answer, answer.prepare)]
        for answer in active:
            answer.deliver()
        if not company:
            return
        free = len(ready) == len(active) and all(answer.is_free for answer in company)
        most = min([_MOST_PASSES, *(answer.room for answer in company)]) if free else 1
        self._run(company, most)

    def guarded(self, answer: Answer, function: Callable[..., int | None], *arguments: int) -> int | None:
        """Call what brings an answer on and return what it returns; what goes wrong is that answer's alone: None."""
        before = answer.produced
        try:
            return function(*arguments)
        except Exception as error:
            self._fail(answer, error)
            return None
        finally:
            self._counters.completion_tokens += answer.produced - before

    def close(self) -> None:
        """End the thread."""
        self._todo.put(None)
        self._thread.join()

    def _compute(self) -> None:
        while (decoding := self._todo.get()) is not None:
            decoding.run()

    def _run(self, company: Sequence[Answer], most: int) -> None:
        decoding = Decoding(
            [answer.session for answer in company],
            [answer.next_token for answer in company if answer.next_token is not None],
            [answer.mask for answer in company],
            [answer.ends for answer in company],
            most,
        )
        self._current = decoding
        if self._interrupted:
            decoding.stop()
        try:
            if most > 1:
                self._todo.put(decoding)
            else:
                decoding.run()
            while passes := self._next(decoding):
                self._take(company, passes)
                for answer in company:
                    answer.deliver()
                if self._is_enough(company):
                    decoding.stop()
        except Exception as error:  # those have lost their place; the engine itself goes on
            decoding.stop()
            without = [answer for answer in company if answer.next_token == -1]
            for answer in without or company:
                self._fail(answer, error)
        finally:
            self._current = None

    def _next(self, decoding: Decoding) -> list[list[int]]:
        rest = _TOGETHER - int(1000 * (time.monotonic() - self._taken))
        if rest > 0:
            decoding.rest(rest)
        passes = decoding.take()
        self._taken = time.monotonic()
        return passes

    def _take(self, company: Sequence[Answer], passes: Sequence[Sequence[int]]) -> None:
        self._counters.steps += len(passes)
        for tokens in passes:
            for answer, token in zip(company, tokens):
                if token < 0:
                    answer.next_token = token  # and why is told at the end
                elif not answer.is_over:
                    self.guarded(answer, answer.take, token)

    def _is_enough(self, company: Sequence[Answer]) -> bool:
        deadlines = [answer.ticket.deadline for answer in company]
        is_late = any(deadline is not None and self._taken >= deadline for deadline in deadlines)
        return is_late or any(answer.is_over for answer in company)
