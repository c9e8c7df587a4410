# SPDX-License-Identifier: Apache-2.0
"""Many requests on one model: a fair queue, and one thread that steps all admitted answers together."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..errors import ContextFullError, InvalidArgumentError
from .answer import Answer, sampling_of
from .decoder import Decoder
from .model import Model
from .pool import Pool
from .queue import FairQueue
from .request import LOG, DeadlineError, DrainingError, QueueFullError, Request
from .ticket import Ticket

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

_SHUT_DOWN = "the server is being shut down; ask another one, or later"
_MOST_AT_ONCE = 512  # positions of a prompt between two looks at what else is to be done, when nobody else computes
_LEAST_AT_ONCE = 8
_LOOK = 0.25  # seconds between two looks at whether who waits is still there
_PAUSE = 0.05  # seconds that a long prompt may hold up the answers of others between two of their tokens


@dataclass
class Counters:
    """What the engine has done since it was made, and what it does now. Read by any thread."""

    requests: int = 0
    refused: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0  # computed
    cached_tokens: int = 0  # whose state was there already
    completion_tokens: int = 0
    steps: int = 0
    waiting: int = 0
    active: int = 0
    embeddings_waiting: int = 0
    sessions: int = 0
    kv_positions: int = 0  # whose keys and values are in memory


class Engine:
    """Answers requests on a model, several at once. A context manager.

    `submit` may be called by any thread and does not wait. One thread of the engine's admits requests in a fair order,
    computes prompts piece by piece and steps all answers together; it waits for no reader. The sequences of answers
    stay until their place is needed, and a prompt starts from the one it has most in common with.

    Parameters
    ----------
    model : Model
        Closed with the engine.
    parallel : int
        Answers that are computed together.
    max_queue : int
        Answers that may wait beside these.
    kept : int, optional
        Idle sequences that are kept for prompts which begin as they do; None: as many as `parallel`.

    Examples
    --------
    >>> with Engine(Model(model_path)) as engine:
    ...     ticket = engine.submit(Request(engine.model.text_ids("Once upon a time"), max_tokens=4))
    ...     text = "".join(event.text for event in ticket)
    >>> ticket.usage.completion_tokens
    4
    """

    def __init__(self, model: Model, parallel: int = 4, max_queue: int = 64, kept: int | None = None) -> None:
        for name, value, least in (("parallel", parallel, 1), ("max_queue", max_queue, 0)):
            if value < least:
                raise InvalidArgumentError(f"{name} is {value}; at least {least} is needed")
        self.model = model
        self.parallel = parallel
        self.max_queue = max_queue
        self.counters = Counters()
        self.most_sessions = parallel + (parallel if kept is None else kept)
        self._pool = Pool(model.open_session, self.most_sessions)
        self._waiting: FairQueue[Answer] = FairQueue()
        self._active: list[Answer] = []
        self._changed = threading.Condition()
        self._embedding_turn = threading.Lock()
        self._draining = False
        self._closing = False
        self._rate = 0.0  # positions of prompts per second
        self._decoder = Decoder(f"passes {model.name}", self.counters, self._fail)
        self._thread = threading.Thread(target=self._work, name=f"engine {model.name}", daemon=True)
        self._thread.start()

    # ---- for any thread ---------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> Ticket:
        """Queue a request and return its ticket.

        Raises
        ------
        QueueFullError
            As many answers wait as may.
        DrainingError
            The engine is being shut down.
        ContextFullError
            The prompt leaves no room for an answer.
        InvalidArgumentError
            A setting is not possible; some are found out only when the answer begins, and come from the ticket.
        """
        self._check(request)
        ticket = Ticket(request, self._decoder.interrupt)
        sampling = sampling_of(request)
        seed = request.sampling.get("seed")
        first = secrets.randbits(63) if seed is None else int(seed)
        answers = []
        for index in range(request.n):
            form = None if request.form is None else self.model.constraint(request.form, self._room(request))
            answers.append(Answer(self.model, ticket, index, (first + index) % 2**64, sampling, form))
        with self._changed:
            if self._draining:
                raise DrainingError(_SHUT_DOWN)
            room = self.max_queue + max(0, self.parallel - len(self._active))
            if len(self._waiting) + request.n > room:
                self.counters.refused += 1
                raise QueueFullError(
                    f"{len(self._waiting)} answers wait already, {self.max_queue} may; try again later"
                )
            self.counters.requests += 1
            for answer in answers:
                self._waiting.put(request.client, answer)
            if len(self._active) < self.parallel:
                self._decoder.interrupt()
            self._changed.notify()
        return ticket

    def drain(self, timeout: float | None = None) -> bool:
        """Take no new requests and wait for those that are here. Whether they have ended within `timeout` seconds."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: self.is_idle, timeout)

    def stop_taking(self) -> None:
        """Refuse new requests from now on."""
        self._draining = True

    @property
    def is_idle(self) -> bool:
        """Whether nothing is computed and nobody waits."""
        return not self._active and not len(self._waiting) and not self.counters.embeddings_waiting

    @property
    def is_draining(self) -> bool:
        """Whether new requests are refused for good."""
        return self._draining

    def embed(
        self,
        prompts: Sequence[Sequence[int]],
        dimensions: int | None = None,
        go_on: Callable[[], None] = lambda: None,
    ) -> NDArray[np.float32]:
        """Return one vector of length 1 for each prompt, float32 [n, dim]: the mean of its final hidden states.

        With `dimensions`, the first so many numbers of each, brought to length 1 again. Waits for others who do the
        same; answers go on meanwhile. `go_on` is called before each prompt and now and then while others have their
        turn; what it raises ends the request.

        Raises
        ------
        QueueFullError, DrainingError, ContextFullError, InvalidArgumentError
            As `submit`.
        """
        import numpy as np

        for prompt in prompts:
            self._check(Request(prompt))
        dim = self.model.info.dim
        if dimensions is not None and not 1 <= dimensions <= dim:
            raise InvalidArgumentError(f"dimensions is {dimensions}; 1 ... {dim} is possible with this model")
        with self._changed:
            if self._draining:
                raise DrainingError(_SHUT_DOWN)
            if self.counters.embeddings_waiting > self.max_queue:
                here = self.counters.embeddings_waiting
                raise QueueFullError(f"{here} requests for embeddings wait already; try again later")
            self.counters.embeddings_waiting += 1
        try:
            vectors = np.stack([self._embed(prompt, go_on) for prompt in prompts])[:, :dimensions]
            return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        finally:
            with self._changed:
                self.counters.embeddings_waiting -= 1
                self._changed.notify_all()

    def _embed(self, prompt: Sequence[int], go_on: Callable[[], None]) -> NDArray[np.float32]:
        go_on()
        while not self._embedding_turn.acquire(timeout=_LOOK):
            go_on()
        try:
            return self.model.embed(prompt)
        finally:
            self._embedding_turn.release()

    def close(self) -> None:
        """End all requests, which fail with DrainingError, and free the model. A second call does nothing."""
        with self._changed:
            self._draining = self._closing = True
            self._decoder.interrupt()
            self._changed.notify_all()
        self._thread.join()
        self._decoder.close()
        self._pool.close()
        self.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, request: Request) -> None:
        most = self.model.info.max_context_len
        if not request.prompt:
            raise InvalidArgumentError("the prompt is empty; give at least one token")
        if len(request.prompt) > most:
            raise ContextFullError(
                f"the prompt has {len(request.prompt)} tokens, but the context is {most}; shorten it"
            )
        if request.n < 1:
            raise InvalidArgumentError(f"n is {request.n}; at least 1 is needed")
        if request.n > self.parallel + self.max_queue:
            raise InvalidArgumentError(f"n is {request.n}; at most {self.parallel + self.max_queue} is possible here")
        if request.max_tokens is not None and request.max_tokens < 0:
            raise InvalidArgumentError(f"max_tokens is {request.max_tokens}; 0 or more is needed")
        if request.logprobs is not None and not 0 <= request.logprobs <= 20:
            raise InvalidArgumentError(f"logprobs is {request.logprobs}; 0 ... 20 is possible")
        if request.lora and request.lora not in self.model.loras:
            known = ", ".join(self.model.loras) or "none"
            raise InvalidArgumentError(f"there is no adapter {request.lora!r}; loaded are: {known}")
        if any(not stop for stop in request.stop):
            raise InvalidArgumentError("a stop text is empty; at least one character is needed")

    def _room(self, request: Request) -> int:
        left = self.model.info.max_context_len - len(request.prompt) + 1
        return left if request.max_tokens is None else min(left, request.max_tokens)

    # ---- the engine's thread ----------------------------------------------------------------------------------------

    def _work(self) -> None:
        while self._wait():
            try:
                self._decoder.ready()
                self._give_up()
                self._admit()
                self._prefill()
                self._decoder.advance(self._active)
                self._retire()
            except Exception as error:  # a mistake of ours: who is served now is told, later ones are served
                LOG.exception("the engine failed")
                for answer in self._active:
                    self._fail(answer, error)
                self._pool.close()
                with self._changed:
                    self._active = []
                    self._changed.notify_all()
        for answer in [*self._active, *self._waiting]:
            self._fail(answer, DrainingError("the server was shut down"))
        self._retire()

    def _wait(self) -> bool:
        # Until there is something to do. False: close.
        with self._changed:
            self._changed.wait_for(lambda: self._closing or bool(self._active) or len(self._waiting) > 0)
            return not self._closing

    def _give_up(self) -> None:
        # What nobody waits for any more, or too long.
        now = time.monotonic()

        def is_over(answer: Answer) -> bool:
            ticket = answer.ticket
            return ticket.is_cancelled or (ticket.deadline is not None and now >= ticket.deadline)

        with self._changed:
            over = self._waiting.remove(is_over)
        for answer in [*over, *filter(is_over, self._active)]:
            if answer.ticket.is_cancelled:
                answer.finish_reason = "cancelled"
                self.counters.cancelled += answer.index == 0
            else:
                self._fail(
                    answer, DeadlineError(f"the request was not done in {answer.ticket.request.timeout:g} seconds")
                )
        self._retire()

    def _admit(self) -> None:
        while len(self._active) < self.parallel:
            with self._changed:
                answer = self._waiting.take(self._may_begin)
                if answer is None:
                    return
                self._active.append(answer)
            self._decoder.guarded(answer, partial(self._begin, answer))

    def _may_begin(self, answer: Answer) -> bool:
        # Further answers to a prompt start from the first one's, when that has been computed.
        return answer.index == 0 or not any(
            other.ticket is answer.ticket and other.index == 0 and not other.is_ready
            for other in [*self._active, *self._waiting]
        )

    def _begin(self, answer: Answer) -> None:
        request = answer.ticket.request
        answer.begin(self._pool.take(request.prompt, request.lora, request.reuse_prefix and not answer.scores))

    def _prefill(self) -> None:
        # One piece of the prompt that was admitted first, or of several short ones.
        busy = any(answer.is_ready for answer in self._active)
        budget = max(_LEAST_AT_ONCE, min(int(self._rate * _PAUSE), _MOST_AT_ONCE)) if busy else _MOST_AT_ONCE
        for answer in self._active:
            if answer.is_ready or answer.finish_reason or budget <= 0:
                continue
            began = time.monotonic()
            computed = self._decoder.guarded(answer, answer.prefill, budget) or 0
            if computed >= _LEAST_AT_ONCE:
                rate = computed / max(time.monotonic() - began, 1e-6)
                self._rate = rate if self._rate == 0.0 else 0.7 * self._rate + 0.3 * rate
            self.counters.prompt_tokens += computed
            budget -= max(computed, 1)

    def _fail(self, answer: Answer, error: Exception) -> None:
        answer.finish_reason = "error"
        if not answer.ticket.is_failed:
            answer.ticket.fail(error)
            self.counters.failed += 1

    def _retire(self) -> None:
        # Free the places of what has ended. A ticket that has failed ends with all its answers.
        done = [answer for answer in self._active if answer.finish_reason or answer.ticket.is_failed]
        for answer in done:
            self.counters.cached_tokens += answer.cached
            if answer.slot is not None:
                keep = not answer.ticket.is_failed and answer.ticket.request.reuse_prefix
                self._pool.give_back(answer.slot, keep)
                answer.slot = None
        counters = self.counters
        counters.sessions, counters.kv_positions = len(self._pool), self._pool.positions
        with self._changed:
            self._active = [answer for answer in self._active if answer not in done]
            self._waiting.remove(lambda answer: answer.ticket.is_failed)
            counters.active, counters.waiting = len(self._active), len(self._waiting)
            if self.is_idle:
                self._changed.notify_all()
