# SPDX-License-Identifier: Apache-2.0
"""One answer on its way: its sequence, the choice of its tokens, its text and its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .._rkllm import top_logprobs
from ..options import Value, checked_sampling
from .model import Model
from .pool import Slot
from .request import Event, Request, Token
from .text import TextStream
from .ticket import Ticket

if TYPE_CHECKING:
    from ..constrain import Constraint
    from ..session import Session

_SCORED_ROWS = 32  # logits of so many positions are in memory at once
_NEUTRAL: dict[str, Value] = {  # the settings that a request does not give
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repeat_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "mirostat": 0,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
    "logit_bias": "",
}


def sampling_of(request: Request) -> dict[str, Value]:
    """Return all settings that choose tokens, seed excluded. Raises InvalidArgumentError."""
    settings = {**_NEUTRAL, **checked_sampling(request.sampling)}
    settings.pop("seed", None)
    return settings


class Answer:
    """One of the answers of a ticket. Used by the engine's thread only.

    Attributes
    ----------
    slot : Slot or None
        Where it is computed, from its admission on.
    is_ready : bool
        The prompt has been computed: the next token can be chosen.
    finish_reason : str or None
    next_token : int or None
        Chosen, and to be appended by the next pass.
    mask : bytes or None
        Which tokens that pass may choose; None: any.
    ends : frozenset of int
        Tokens that end it.
    cached, produced : int
        Positions of the prompt whose state was there already; tokens that have been chosen.
    """

    def __init__(
        self, model: Model, ticket: Ticket, index: int, seed: int, sampling: dict[str, Value], form: Constraint | None
    ) -> None:
        request = ticket.request
        self.ticket = ticket
        self.index = index
        self.slot: Slot | None = None
        self.is_ready = False
        self.finish_reason: str | None = None
        self.next_token: int | None = None
        self.mask: bytes | None = None
        self.ends: frozenset[int] = frozenset() if request.ignore_eos else model.ends
        self._model = model
        self._prompt = np.asarray(request.prompt, np.int32)
        self._limit = request.max_tokens
        self._seed = seed
        self._sampling = sampling
        self._constraint = form
        self._mask_bytes = 4 * ((model.info.vocab_size + 31) // 32)
        self._chosen: list[int] = []  # since the constraint was asked last
        hidden = model.special.difference(request.visible) if request.skip_special else ()
        self._text = TextStream(model.tokens, hidden, request.stop)
        self.cached = 0
        self.produced = 0
        self._has_begun = False
        self._undelivered: list[Event] = []

    # ---- the prompt -------------------------------------------------------------------------------------------------

    @property
    def scores(self) -> bool:
        """Whether the prompt's own log-probabilities are asked for, which one answer of the ticket gives."""
        return self.ticket.request.score_prompt and self.index == 0

    def begin(self, slot: Slot) -> None:
        """Be admitted: the slot's session is this answer's from now on."""
        self.slot = slot
        if self.scores:
            slot.session.truncate(0)
            self.ticket.prompt_tokens.append(Token(int(self._prompt[0])))
        if self.ticket.timing.admitted is None:
            self.ticket.timing.admitted = time.monotonic()

    def prefill(self, most: int) -> int:
        """Compute at most so many positions of the prompt. Return how many were."""
        if self.scores:
            most = min(most, _SCORED_ROWS)
        computed, left, logits = self.session.append_part(self._prompt, most, self.scores)
        first = len(self._prompt) - left - computed
        if logits is not None:
            for row, target in zip(logits, self._prompt[first + 1 :]):
                found = top_logprobs(row, int(target), self.ticket.request.logprobs or 0)
                self.ticket.prompt_tokens.append(Token(int(target), *found))
        if not self._has_begun:
            self._has_begun = True
            self.cached = first
            if self.index == 0:
                self.ticket.usage.cached_tokens = first
        if left == 0:
            self.is_ready = True
            if self._limit == 0:
                self._finish("length")
        return computed

    # ---- the answer -------------------------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The sequence it is computed in."""
        assert self.slot is not None
        return self.slot.session

    @property
    def is_over(self) -> bool:
        """Whether nothing more is wanted of it."""
        return self.finish_reason is not None or self.ticket.is_cancelled or self.ticket.is_failed

    @property
    def is_free(self) -> bool:
        """Whether tokens can be chosen without a look at the one before."""
        return self._constraint is None and self.ticket.request.logprobs is None

    @property
    def room(self) -> int:
        """How many more tokens it can have."""
        left = self._model.info.max_context_len - len(self._prompt) + 1
        return (left if self._limit is None else min(left, self._limit)) - self.produced

    def choose(self) -> None:
        """Choose the first token, behind the prompt."""
        if self._ask_form():
            self.take(self.session.choose(self.mask, {**self._sampling, "seed": self._seed}))

    def prepare(self) -> bool:
        """Get ready for a pass that appends `next_token` and chooses another one. Whether there is one to append."""
        return self.next_token is not None and self._ask_form()

    def take(self, token: int) -> None:
        """Go on with the token that was chosen: it is text, or the end."""
        self.next_token = None
        wanted = self.ticket.request.logprobs
        row = Token(token) if wanted is None else Token(token, *self.session.logprobs(token, wanted))
        self._count()
        if token in self.ends:
            self._finish("stop", end=row)
            return
        text, tokens = self._text.push(row)
        if self._text.stopped:
            self._finish("stop", text, tokens)
        elif self.room <= 0:
            self._finish("length", text, tokens)
        else:
            self.next_token = token
            if self._constraint is not None:
                self._chosen.append(token)
            if text or tokens:
                self._undelivered.append(Event(self.index, text, tokens, None))

    def _ask_form(self) -> bool:
        # Which tokens may come next. False: the form says that none may.
        if self._constraint is None:
            return True
        mask = self._constraint(self._chosen)
        self._chosen = []
        if mask is None:
            self.next_token = None
            self._finish("stop")
            return False
        self.mask = mask[: self._mask_bytes]
        return True

    def deliver(self) -> None:
        """Hand what has come to the reader."""
        for event in self._undelivered:
            self.ticket.put(event)
        self._undelivered.clear()

    def _count(self) -> None:
        self.produced += 1
        self.ticket.usage.completion_tokens += 1
        if self.ticket.timing.first_token is None:
            self.ticket.timing.first_token = time.monotonic()

    def _finish(self, reason: str, text: str = "", tokens: Sequence[Token] = (), end: Token | None = None) -> None:
        rest, held = self._text.finish()
        self.finish_reason = reason
        self.ticket.timing.finished = time.monotonic()
        every = [*tokens, *held, *([] if end is None else [end])]
        self._undelivered.append(Event(self.index, text + rest, every, reason))
