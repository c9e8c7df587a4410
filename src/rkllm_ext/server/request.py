# SPDX-License-Identifier: Apache-2.0
"""What is asked of the engine, and what it answers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import RKLLMError
from ..options import Form

LOG = logging.getLogger("rkllm_ext.server")


class QueueFullError(RKLLMError):
    """As many requests wait as may; try again later."""


class DrainingError(RKLLMError):
    """The engine is being shut down and takes no new requests."""


class DeadlineError(RKLLMError):
    """The time that a request had is over."""


@dataclass(frozen=True)
class Request:
    """One request: a prompt and how it is to be answered.

    Attributes
    ----------
    prompt : sequence of int
        The token ids of the whole prompt, begin token included: `Model.text_ids` or `Model.chat_ids`.
    max_tokens : int, optional
        Tokens of an answer at most, 0 or more; None: until it ends or the context is full.
    sampling : mapping
        The settings of `LLM.session`: temperature, top_k, top_p, ... What is not given is off: temperature 1, all
        tokens, no penalties. A seed is that of the first answer; the next ones get the numbers behind it.
    stop : sequence of str
        Texts that end an answer, which ends before them.
    form : (kind, text), optional
        Of an answer: ("json_schema", ...), ("regex", ...) or ("grammar", ...), as in `LLM.generate`.
    logprobs : int, optional
        0 ... 20 alternatives beside each token's log-probability; None: no log-probabilities.
    score_prompt : bool
        Give the log-probabilities of the prompt's tokens, too, with as many alternatives (`Ticket.prompt_tokens`).
    n : int
        Answers, 1 or more.
    lora : str
        The adapter to answer with; "": none.
    reuse_prefix : bool
        Start from what a sequence that is still there has in common with the prompt. Changes the speed only.
    ignore_eos, skip_special : bool
        End tokens do not end an answer; special tokens are left out of its text.
    visible : collection of int
        Special tokens that are part of the text all the same.
    timeout : float, optional
        Seconds from now on, waiting included, after which the request fails with DeadlineError.
    client : str
        Whose request it is: clients take turns.
    """

    prompt: Sequence[int]
    max_tokens: int | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    stop: Sequence[str] = ()
    form: Form | None = None
    logprobs: int | None = None
    score_prompt: bool = False
    n: int = 1
    lora: str = ""
    reuse_prefix: bool = True
    ignore_eos: bool = False
    skip_special: bool = True
    visible: Collection[int] = ()
    timeout: float | None = None
    client: str = ""


class Token(NamedTuple):
    """A token; its natural log-probability and (id, log-probability) of the likeliest ones, where asked for."""

    token_id: int
    logprob: float | None = None
    top: list[tuple[int, float]] | None = None


class Event(NamedTuple):
    """What has come of one answer since the event before.

    Attributes
    ----------
    choice : int
        Which of the n answers.
    text : str
        Whole characters. Empty while a token's bytes complete none, or while it may belong to a stop text.
    tokens : list of Token
        Those that the text is made of; a token comes with the first event that holds a part of its text. The end token,
        which has no text, comes with the last event.
    finish_reason : str or None
        "stop" or "length" with the last event of an answer.
    """

    choice: int
    text: str
    tokens: list[Token]
    finish_reason: str | None


@dataclass
class Usage:
    """Tokens of a request: of its prompt, of these those whose state was there already, and of all its answers.

    All tokens that were chosen count: end tokens and those of a stop text, too.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    completion_tokens: int = 0


@dataclass
class Timing:
    """When things happened, in seconds of `time.monotonic`; None: not yet."""

    submitted: float
    admitted: float | None = None
    first_token: float | None = None
    finished: float | None = None
