# SPDX-License-Identifier: Apache-2.0
"""A conversation on a page: its messages and settings as the engine's request, the answer as text that grows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import InvalidArgumentError
from .engine import Engine
from .request import Request
from .ticket import Ticket

_EVERY = 0.04  # seconds between two looks for new tokens; a page cannot show more
_MOST_CHARACTERS = 400_000  # of a conversation


@dataclass(frozen=True)
class Settings:
    """What a user sets; the defaults are those of the vendor's page."""

    system: str = ""
    temperature: float = 0.8
    top_p: float = 0.9
    top_k: int = 40
    repeat_penalty: float = 1.1
    max_tokens: int | None = None
    seed: int | None = None


class Progress(NamedTuple):
    """How far an answer is: all its text, and a line about its speed or its place in the queue."""

    text: str
    status: str


def pairs_to_messages(history: Any) -> list[dict[str, str]]:
    """Return the messages of the vendor's history, `[[user, assistant], ..., [user, None]]`.

    Raises
    ------
    InvalidArgumentError
        It is none.
    """
    messages = []
    for pair in history if isinstance(history, (list, tuple)) else [None]:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise InvalidArgumentError(f"history must be a list of [user, assistant], but has {pair!r:.80}")
        for role, text in zip(("user", "assistant"), pair):
            if text is not None and not isinstance(text, str):
                raise InvalidArgumentError(f"history: the {role}'s text is {text!r:.80}; give a string")
            if text is not None:
                messages.append({"role": role, "content": text})
    return messages


def page_to_messages(history: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the messages of a page's conversation, whose contents are texts or lists of parts."""
    messages = []
    for message in history:
        content = message["content"]
        if isinstance(content, list):
            content = "".join(part if isinstance(part, str) else part.get("text", "") for part in content)
        messages.append({"role": str(message["role"]), "content": str(content)})
    return messages


def request_of(
    engine: Engine, messages: Sequence[Mapping[str, str]], settings: Settings, client: str, timeout: float | None
) -> Request:
    """Return the engine's request.

    A model without a chat template goes on with the text of the last message.

    Raises
    ------
    RKLLMError
        There is no message of a user at the end, or the template refuses the conversation.
    """
    if not messages or messages[-1]["role"] != "user":
        raise InvalidArgumentError("the conversation must end with a message of the user")
    size = sum(len(message["content"]) for message in messages)
    if size > _MOST_CHARACTERS:
        raise InvalidArgumentError(f"the conversation has {size} characters; {_MOST_CHARACTERS} are possible")
    if engine.model.chat_template is None:
        ids = engine.model.text_ids(settings.system + messages[-1]["content"])
    else:
        system = [{"role": "system", "content": settings.system}] if settings.system.strip() else []
        ids = engine.model.chat_ids([*system, *messages])
    sampling: dict[str, Any] = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "repeat_penalty": settings.repeat_penalty,
    }
    if settings.seed is not None:
        sampling["seed"] = settings.seed
    return Request(ids, max_tokens=settings.max_tokens, sampling=sampling, timeout=timeout, client=client)


async def answered(engine: Engine, request: Request) -> AsyncGenerator[Progress, None]:
    """Yield an answer as it grows. Whoever closes this iterator cancels the request.

    It looks for tokens instead of waiting for them: a page has many users who wait, and each would hold a thread.

    Raises
    ------
    RKLLMError
        The request failed.
    """
    text = ""
    latest = time.monotonic()
    with engine.submit(request) as ticket:
        shown = None
        while not ticket.ended:
            while (event := ticket.next_event(0)) is not None:
                text += event.text
                latest = time.monotonic()
            now = Progress(text, status_of(ticket, engine, latest))
            if now != shown:
                shown = now
                yield now
            await asyncio.sleep(0 if ticket.ended else _EVERY)


def status_of(ticket: Ticket, engine: Engine, latest: float) -> str:
    """Return a line about a request whose latest token came at `latest`: its queue, its prompt, or its speed."""
    timing, usage = ticket.timing, ticket.usage
    if timing.admitted is None:
        return f"waiting in a queue of {max(1, engine.counters.waiting)}"
    if timing.first_token is None:
        return f"reading {usage.prompt_tokens} tokens"
    seconds = (timing.finished or latest) - timing.first_token
    count = f"{usage.completion_tokens} token{'s' * (usage.completion_tokens != 1)}"
    if usage.completion_tokens < 2 or seconds <= 0:
        return count
    # The first token is the prompt's.
    return f"{count}, {(usage.completion_tokens - 1) / seconds:.1f} tokens/s"
