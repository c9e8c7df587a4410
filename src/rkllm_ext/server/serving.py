# SPDX-License-Identifier: Apache-2.0
"""What every route has: the models, the limits, and requests that end when their client goes away."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import flask
from pydantic import BaseModel

from .bodies import parsed
from .engine import Engine
from .metrics import Metrics
from .models import Models
from .refusals import Refusal, refusal_of
from .request import LOG, DeadlineError, Event, Request
from .ticket import Ticket

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_POLL = 0.25  # seconds between two looks at whether the client is there while no token comes
_MOST_EVENTS = 64  # that go out together when the client is slower than the model
Fields = TypeVar("Fields", bound=BaseModel)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class GoneError(Exception):
    """The client has closed its connection."""


@dataclass
class Serving:
    """What the routes of one application share.

    Attributes
    ----------
    models : Models
    metrics : Metrics
    timeout : float or None
        Seconds that a request may take.
    """

    models: Models
    metrics: Metrics
    timeout: float | None

    @property
    def client(self) -> str:
        """Whose the present request is."""
        return flask.request.remote_addr or ""

    def body(self, kind: type[Fields]) -> Fields:
        """Return the fields of the present request's body. Raises Refusal."""
        return parsed(kind, flask.request.get_data(cache=False))

    def submit(self, engine: Engine, request: Request) -> Watched:
        """Queue a request that ends when the present client goes away."""
        gone = flask.request.environ.get("waitress.client_disconnected")
        return Watched(engine.submit(request), gone, self.metrics)

    def embed(self, engine: Engine, prompts: Sequence[Sequence[int]], dimensions: int | None) -> NDArray[np.float32]:
        """Return `Engine.embed`'s vectors, unless the present client goes away or its time is over."""
        gone = flask.request.environ.get("waitress.client_disconnected")
        deadline = None if self.timeout is None else time.monotonic() + self.timeout

        def go_on() -> None:
            if gone is not None and gone():
                raise GoneError
            if deadline is not None and time.monotonic() >= deadline:
                raise DeadlineError(f"the request was not done in {self.timeout:g} seconds")

        return engine.embed(prompts, dimensions, go_on)

    def submit_all(self, engine: Engine, requests: Iterable[Request]) -> list[Watched]:
        """Queue several requests; all or none."""
        submitted: list[Watched] = []
        try:
            for request in requests:
                submitted.append(self.submit(engine, request))
        except BaseException:
            for watched in submitted:
                watched.close()
            raise
        return submitted


class Watched:
    """A ticket whose client may go away."""

    def __init__(self, ticket: Ticket, gone: Callable[[], bool] | None, metrics: Metrics) -> None:
        self.ticket = ticket
        self._gone = gone
        self._metrics = metrics
        self._open = True

    def batches(self) -> Iterator[list[Event]]:
        """Return the events as they come, those together that are there at the same time.

        Raises
        ------
        GoneError
            The client has gone; the request is cancelled.
        RKLLMError
            The request failed.
        """
        try:
            while not self.ticket.ended:
                event = self.ticket.next_event(_POLL)
                if self._gone is not None and self._gone():
                    raise GoneError
                if event is None:
                    continue
                batch = [event]
                while len(batch) < _MOST_EVENTS and (more := self.ticket.next_event(0)) is not None:
                    batch.append(more)
                yield batch
        finally:
            self.close()

    def __iter__(self) -> Iterator[Event]:
        for batch in self.batches():
            yield from batch

    def close(self) -> None:
        """Give up what has not ended."""
        if self._open:
            self._open = False
            if not self.ticket.ended:
                self.ticket.cancel()
            self._metrics.ended(self.ticket)


def stream(parts: Iterator[bytes], mimetype: str, failed: Callable[[Refusal], bytes]) -> flask.Response:
    """Return a response that is sent as it comes into being.

    It begins with the first part, so that a request which fails before it gets a status of its own.

    Parameters
    ----------
    parts : iterator of bytes
        Closed when the client goes away.
    mimetype : str
    failed : callable
        What is sent when it fails later.
    """
    first = next(parts, b"")

    def rest() -> Iterator[bytes]:
        try:
            yield first
            yield from parts
        except GoneError:
            return
        except Exception as error:
            refusal = refusal_of(error)
            if refusal.status == 500:
                LOG.exception("a stream failed")
            yield failed(refusal)
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                close()

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return flask.Response(rest(), mimetype=mimetype, headers=headers)


def to_json(value: Any) -> str:
    """Return JSON without spaces, in UTF-8's own characters."""
    return _ENCODER.encode(value)


def answered(value: Any, status: int = 200) -> flask.Response:
    """Return a JSON response."""
    return flask.Response(to_json(value), status, mimetype="application/json")
