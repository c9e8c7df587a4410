# SPDX-License-Identifier: Apache-2.0
"""`/v1/completions`: a body as requests of the engine, one for each prompt, and events as OpenAI's objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .engine import Engine
from .fields import CompletionBody, Prompt
from .refusals import bad_field
from .request import Event, Request, Token
from .sampling import settings_of

_DEFAULT_TOKENS = 16  # OpenAI's
_MOST_PROMPTS = 256


def prompts_of(given: Prompt, engine: Engine, field: str) -> list[list[int]]:
    """Return the ids of each prompt of a field that may hold one or several, as texts or ids.

    Raises
    ------
    Refusal
        There is none, or too many, or one is empty, or an id is not in the vocabulary.
    """
    if isinstance(given, str):
        prompts = [engine.model.text_ids(given)]
    elif given and isinstance(given[0], int):
        prompts = [[int(token) for token in given if isinstance(token, int)]]
    else:
        prompts = [engine.model.text_ids(each) if isinstance(each, str) else _ids(each) for each in given]
    if not 0 < len(prompts) <= _MOST_PROMPTS:
        raise bad_field(field, f"{len(prompts)} are given; 1 ... {_MOST_PROMPTS} are possible")
    size = engine.model.info.vocab_size
    for prompt in prompts:
        if not prompt:
            raise bad_field(field, "it is empty; at least one token is needed")
        if max(prompt) >= size:
            raise bad_field(field, f"token {max(prompt)} is not in the vocabulary of 0 ... {size - 1}")
    return prompts


def _ids(given: Any) -> list[int]:
    return list(given)


def completion_requests(body: CompletionBody, engine: Engine, client: str, timeout: float | None) -> list[Request]:
    """Return the engine's requests.

    Raises
    ------
    Refusal, RKLLMError
        A field is not possible.
    """
    common = settings_of(body, engine, client, timeout)
    limit = _DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
    scores = bool(body.echo) and body.logprobs is not None
    return [
        Request(prompt, max_tokens=limit, logprobs=body.logprobs, score_prompt=scores, **common)
        for prompt in prompts_of(body.prompt, engine, "prompt")
    ]


def echoes_of(body: CompletionBody, requests: Sequence[Request], engine: Engine) -> list[str]:
    """Return the text of each prompt: as it was given, or that of its ids."""
    if isinstance(body.prompt, str):
        return [body.prompt]
    given = [*body.prompt, *[None] * len(requests)]  # one prompt of ids is several numbers
    return [
        text if isinstance(text, str) else engine.model.llm.detokenize(list(request.prompt))
        for text, request in zip(given, requests)
    ]


class CompletionAnswer:
    """Turns one answer's events into OpenAI's objects.

    Parameters
    ----------
    engine : Engine
    body : CompletionBody
    prompt : str
        What an echo begins with.
    scored : list of Token
        The prompt's tokens with their log-probabilities, as the ticket fills it.
    """

    def __init__(self, engine: Engine, body: CompletionBody, prompt: str, scored: Sequence[Token]) -> None:
        self._engine = engine
        self._echo = bool(body.echo)
        self._prompt_text = prompt
        self._scored = scored
        self._with_logprobs = body.logprobs is not None
        self._offset = 0
        self._begun = False

    def piece(self, event: Event) -> tuple[str, dict[str, Any] | None]:
        """Return the text of an event and its log-probabilities; the first one's begin with an echoed prompt."""
        text, tokens = event.text, list(event.tokens)
        if not self._begun and self._echo:
            text = self._prompt_text + text
            tokens = [*self._scored, *tokens]
        self._begun = True
        return text, self._logprobs(tokens) if self._with_logprobs else None

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        names: list[str] = []
        offsets: list[int] = []
        top: list[dict[str, float] | None] = []
        for token in tokens:
            name = self._name(token.token_id)
            names.append(name)
            offsets.append(self._offset)
            self._offset += len(name)
            # As OpenAI has it, the token itself is among its alternatives.
            if token.top is None or token.logprob is None:
                top.append(None)
            else:
                rows = {self._name(other): value for other, value in reversed(token.top)}
                rows.setdefault(name, token.logprob)
                top.append(rows)
        return {
            "tokens": names,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": top,
            "text_offset": offsets,
        }

    def _name(self, token: int) -> str:
        data = self._engine.model.tokens[token]
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def joined(pieces: Sequence[tuple[str, dict[str, Any] | None]]) -> tuple[str, dict[str, Any] | None]:
    """Return the text and the log-probabilities of a whole answer."""
    text = "".join(piece for piece, _ in pieces)
    found = [logprobs for _, logprobs in pieces if logprobs is not None]
    if not found:
        return text, None
    return text, {key: [row for logprobs in found for row in logprobs[key]] for key in found[0]}
