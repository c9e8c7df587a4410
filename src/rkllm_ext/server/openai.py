# SPDX-License-Identifier: Apache-2.0
"""OpenAI's routes."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Iterator
from typing import Any

import flask
import numpy as np

from .._rkllm import version as library_version
from .chat import ChatAnswer, chat_request, usage_object
from .completions import CompletionAnswer, completion_requests, echoes_of, joined, prompts_of
from .engine import Engine
from .fields import ChatBody, Common, CompletionBody, EmbeddingBody
from .refusals import Refusal, bad_field
from .request import Usage
from .serving import Serving, Watched, answered, stream, to_json

_DONE = b"data: [DONE]\n\n"


def routes(serving: Serving) -> flask.Blueprint:
    """Return /v1/models, /v1/chat/completions, /v1/completions and /v1/embeddings."""
    blueprint = flask.Blueprint("openai", __name__, url_prefix="/v1")

    @blueprint.get("/models")
    def models() -> flask.Response:
        return answered({"object": "list", "data": [_model(serving, name) for name in serving.models.names]})

    @blueprint.get("/models/<path:name>")
    def model(name: str) -> flask.Response:
        if name not in serving.models.names:
            serving.models.get(name)  # says which there are
        return answered(_model(serving, name))

    @blueprint.post("/chat/completions")
    def chat() -> flask.Response:
        body = serving.body(ChatBody)
        engine = serving.models.get(body.model)
        request, with_calls = chat_request(body, engine, serving.client, serving.timeout)
        watched = serving.submit(engine, request)
        answers = [ChatAnswer(engine, with_calls, bool(body.logprobs)) for _ in range(request.n)]
        if body.stream:
            return sse(_chat_chunks(body, engine, watched, answers))
        for event in watched:
            answers[event.choice].take(event)
        choices = [answer.choice(index) for index, answer in enumerate(answers)]
        head = _head("chatcmpl", "chat.completion", engine)
        return answered({**head, "choices": choices, "usage": usage_object([watched.ticket.usage])})

    @blueprint.post("/completions")
    def completions() -> flask.Response:
        body = serving.body(CompletionBody)
        engine = serving.models.get(body.model)
        requests = completion_requests(body, engine, serving.client, serving.timeout)
        all_watched = serving.submit_all(engine, requests)
        echoes = echoes_of(body, requests, engine)
        if body.stream:
            return sse(_completion_chunks(body, engine, all_watched, echoes))
        choices: list[dict[str, Any]] = []
        try:
            for watched, echo in zip(all_watched, echoes):
                choices += _choices(body, engine, watched, echo, len(choices))
        finally:
            for watched in all_watched:
                watched.close()
        usage = usage_object([watched.ticket.usage for watched in all_watched])
        return answered({**_head("cmpl", "text_completion", engine), "choices": choices, "usage": usage})

    @blueprint.post("/embeddings")
    def embeddings() -> flask.Response:
        body = serving.body(EmbeddingBody)
        engine = serving.models.get(body.model)
        dim = engine.model.info.dim
        if body.dimensions is not None and body.dimensions > dim:
            raise bad_field("dimensions", f"it is {body.dimensions}, but the model has {dim}")
        prompts = prompts_of(body.input, engine, "input")
        vectors = serving.embed(engine, prompts, body.dimensions)
        as_text = body.encoding_format == "base64"
        rows = [
            {"object": "embedding", "index": index, "embedding": _base64(row) if as_text else row.tolist()}
            for index, row in enumerate(vectors)
        ]
        n = sum(map(len, prompts))
        usage = {"prompt_tokens": n, "total_tokens": n}
        return answered({"object": "list", "data": rows, "model": engine.model.name, "usage": usage})

    return blueprint


def _model(serving: Serving, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": serving.models.created, "owned_by": "rkllm_ext"}


def _base64(row: Any) -> str:
    return base64.b64encode(np.asarray(row, "<f4").tobytes()).decode()


def _head(prefix: str, kind: str, engine: Engine) -> dict[str, Any]:
    info = engine.model.info
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": engine.model.name,
        "system_fingerprint": f"rkllm_ext-{library_version()}-{info.format}",
    }


def sse(parts: Iterator[bytes]) -> flask.Response:
    """Return a stream of server-sent events."""

    def failed(refusal: Refusal) -> bytes:
        return _data(refusal.body())

    return stream(parts, "text/event-stream", failed)


def _data(value: Any) -> bytes:
    return f"data: {to_json(value)}\n\n".encode()


def _wants_usage(body: Common) -> bool:
    return bool(body.stream_options and body.stream_options.include_usage)


def _chat_chunks(body: ChatBody, engine: Engine, watched: Watched, answers: list[ChatAnswer]) -> Iterator[bytes]:
    head = _head("chatcmpl", "chat.completion.chunk", engine)
    wants_usage = _wants_usage(body)
    tail = {"usage": None} if wants_usage else {}
    begun: set[int] = set()

    def chunk(index: int, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return _data({**head, "choices": [choice], **tail})

    for batch in watched.batches():
        parts = []
        for event in batch:
            answer = answers[event.choice]
            if event.choice not in begun:
                begun.add(event.choice)
                parts.append(chunk(event.choice, {"role": "assistant", "content": ""}))
            deltas = answer.take(event)
            logprobs = answer.logprobs(event.tokens) if body.logprobs and event.tokens else None
            if logprobs is not None and logprobs["content"] and not deltas:
                deltas = [{"content": ""}]
            for position, delta in enumerate(deltas):
                parts.append(chunk(event.choice, delta, logprobs if position == 0 else None))
            if event.finish_reason is not None:
                parts.append(chunk(event.choice, {}, None, answer.finish_reason))
        if parts:
            yield b"".join(parts)
    if wants_usage:
        yield _data({**head, "choices": [], "usage": usage_object([watched.ticket.usage])})
    yield _DONE


def _completion_chunks(
    body: CompletionBody, engine: Engine, all_watched: list[Watched], echoes: list[str]
) -> Iterator[bytes]:
    head = _head("cmpl", "text_completion", engine)
    wants_usage = _wants_usage(body)
    tail = {"usage": None} if wants_usage else {}
    try:
        first = 0
        for watched, echo in zip(all_watched, echoes):
            request = watched.ticket.request
            answers = [CompletionAnswer(engine, body, echo, watched.ticket.prompt_tokens) for _ in range(request.n)]
            for batch in watched.batches():
                parts = []
                for event in batch:
                    text, logprobs = answers[event.choice].piece(event)
                    choice = {
                        "text": text,
                        "index": first + event.choice,
                        "logprobs": logprobs,
                        "finish_reason": event.finish_reason,
                    }
                    parts.append(_data({**head, "choices": [choice], **tail}))
                yield b"".join(parts)
            first += request.n
    finally:
        for watched in all_watched:
            watched.close()
    if wants_usage:
        usages: list[Usage] = [watched.ticket.usage for watched in all_watched]
        yield _data({**head, "choices": [], "usage": usage_object(usages)})
    yield _DONE


def _choices(body: CompletionBody, engine: Engine, watched: Watched, echo: str, first: int) -> list[dict[str, Any]]:
    n = watched.ticket.request.n
    answers = [CompletionAnswer(engine, body, echo, watched.ticket.prompt_tokens) for _ in range(n)]
    pieces: list[list[Any]] = [[] for _ in answers]
    reasons: list[str | None] = [None] * len(answers)
    for event in watched:
        pieces[event.choice].append(answers[event.choice].piece(event))
        reasons[event.choice] = event.finish_reason
    choices = []
    for index, found in enumerate(pieces):
        text, logprobs = joined(found)
        choice = {"text": text, "index": first + index, "logprobs": logprobs, "finish_reason": reasons[index]}
        choices.append(choice)
    return choices
