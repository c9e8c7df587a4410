# SPDX-License-Identifier: Apache-2.0
"""A request in the hands of whoever made it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from .request import Event, Request, Timing, Token, Usage

if TYPE_CHECKING:
    from typing_extensions import Self


class Ticket:
    """A request that the engine has taken: an iterator of its events, and a context manager that cancels what is left.

    One thread reads it; any thread may cancel it. What is not read yet waits here and holds nobody up; it is at most
    the request's own answers.

    Attributes
    ----------
    request : Request
    is_cancelled, is_failed : bool
    usage : Usage
        Exact once the events have ended.
    timing : Timing
    prompt_tokens : list of Token
        With score_prompt: the prompt's tokens with their log-probabilities (the first has none), there before the first
        event of an answer.

    Raises
    ------
    RKLLMError
        When iterated: the request failed. DeadlineError when its time was over.
    """

    def __init__(self, request: Request, wake: Callable[[], None] = lambda: None) -> None:
        self.request = request
        self._wake = wake  # tells the engine that there is something to look at
        self.usage = Usage(len(request.prompt))
        self.timing = Timing(time.monotonic())
        self.prompt_tokens: list[Token] = []
        self.deadline = None if request.timeout is None else self.timing.submitted + request.timeout
        self._events: SimpleQueue[Event | Exception | None] = SimpleQueue()  # None: cancelled
        self._unfinished = request.n
        self._is_over = False
        self.is_cancelled = False
        self.is_failed = False

    # ---- the reader's side ------------------------------------------------------------------------------------------

    def next_event(self, timeout: float | None = None) -> Event | None:
        """Return the next event; None when none came in `timeout` seconds, or there are no more (`ended`)."""
        if self.ended:
            return None
        try:
            event = self._events.get(timeout=timeout)
        except Empty:
            return None
        if not isinstance(event, Event):
            self._is_over = True
            if event is not None:
                raise event
            return None
        if event.finish_reason is not None:
            self._unfinished -= 1
        return event

    @property
    def ended(self) -> bool:
        """Whether all events have been read."""
        return self._unfinished == 0 or self._is_over

    def __iter__(self) -> Iterator[Event]:
        while True:
            event = self.next_event()
            if event is None:
                return
            yield event

    def collect(self) -> list[tuple[str, list[Token], str]]:
        """Read to the end and return (text, tokens, finish_reason) of each answer."""
        texts: list[list[str]] = [[] for _ in range(self.request.n)]
        tokens: list[list[Token]] = [[] for _ in range(self.request.n)]
        reasons = [""] * self.request.n
        for event in self:
            texts[event.choice].append(event.text)
            tokens[event.choice] += event.tokens
            reasons[event.choice] = event.finish_reason or reasons[event.choice]
        return [("".join(texts[i]), tokens[i], reasons[i]) for i in range(self.request.n)]

    def cancel(self) -> None:
        """Give the request up: its place is free before the next token. Its events end without a finish_reason."""
        self.is_cancelled = True
        self._events.put(None)
        self._wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    # ---- the engine's side ------------------------------------------------------------------------------------------

    def put(self, event: Event) -> None:
        """Hand an event to the reader."""
        self._events.put(event)

    def fail(self, error: Exception) -> None:
        """End the request, with all its answers."""
        self.is_failed = True
        self._events.put(error)
