# SPDX-License-Identifier: Apache-2.0
"""Ollama's routes, for tools that were written for it."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import flask

from .._rkllm import version as library_version
from . import ollama_fields as fields
from .chat import ChatAnswer
from .engine import Engine
from .model import Model
from .refusals import Refusal, bad_field
from .request import Event, Request
from .serving import Serving, Watched, answered, stream, to_json
from .ticket import Ticket
from .tools import MARKS, Choice, grammar, messages_with_tools

# Ollama's own defaults
_DEFAULTS = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "repeat_penalty": 1.1}
_NOT_SAMPLING = {"num_predict", "num_ctx", "stop", "repeat_last_n", "seed"}


def routes(serving: Serving) -> flask.Blueprint:
    """Return /api/generate, chat, tags, show, ps, embed and version."""
    blueprint = flask.Blueprint("ollama", __name__, url_prefix="/api")

    def engine_of(name: str) -> Engine:
        return serving.models.get(name[: -len(":latest")] if name.endswith(":latest") else name)

    @blueprint.post("/generate")
    def generate() -> flask.Response:
        body = serving.body(fields.GenerateBody)
        engine = engine_of(body.model)
        if not body.prompt:  # how tools load a model
            return answered({**_head(body.model), "response": "", "done": True, "done_reason": "load"})
        if body.raw or engine.model.chat_template is None:
            ids = engine.model.text_ids(body.prompt)
        else:
            messages = [{"role": "user", "content": body.prompt}]
            if body.system:
                messages.insert(0, {"role": "system", "content": body.system})
            ids = engine.model.chat_ids(messages)
        watched = serving.submit(engine, _request(serving, body, engine, ids, _schema_form(body)))
        return _reply(body, engine, watched, None)

    @blueprint.post("/chat")
    def chat() -> flask.Response:
        body = serving.body(fields.ChatBody)
        engine = engine_of(body.model)
        tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()]
        messages = [_message(message) for message in body.messages]
        prompt, variables = messages_with_tools(messages, tools, engine.model.chat_template)
        form = _schema_form(body)
        if tools:
            form = "grammar", grammar(Choice(tools), None if form is None else json.loads(form[1]))
        ids = engine.model.chat_ids(prompt, **variables)
        watched = serving.submit(engine, _request(serving, body, engine, ids, form))
        return _reply(body, engine, watched, ChatAnswer(engine, bool(tools), False))

    @blueprint.get("/tags")
    def tags() -> flask.Response:
        return answered({"models": [_entry(each.model) for each in serving.models.loaded]})

    @blueprint.get("/ps")
    def ps() -> flask.Response:
        never = "9999-12-31T23:59:59Z"
        rows = [{**_entry(each.model), "expires_at": never, "size_vram": 0} for each in serving.models.loaded]
        return answered({"models": rows})

    @blueprint.post("/show")
    def show() -> flask.Response:
        body = serving.body(fields.ShowBody)
        name = body.model or body.name
        if name is None:
            raise bad_field("model", "the field is missing", "missing_required_parameter")
        return answered(_shown(engine_of(name).model))

    @blueprint.post("/embed")
    def embed() -> flask.Response:
        began = time.monotonic_ns()
        body = serving.body(fields.EmbedBody)
        engine = engine_of(body.model)
        texts = [body.input] if isinstance(body.input, str) else body.input
        most = engine.model.info.max_context_len
        prompts = [engine.model.text_ids(text) for text in texts]
        if body.truncate is not False:
            prompts = [prompt[:most] for prompt in prompts]
        if not all(prompts):
            raise bad_field("input", "a text is empty")
        vectors = serving.embed(engine, prompts, body.dimensions).tolist() if prompts else []
        return answered(
            {
                "model": body.model,
                "embeddings": vectors,
                "total_duration": time.monotonic_ns() - began,
                "load_duration": 0,
                "prompt_eval_count": sum(map(len, prompts)),
            }
        )

    @blueprint.get("/version")
    def version() -> flask.Response:
        return answered({"version": library_version()})

    return blueprint


def _schema_form(body: fields.Common) -> tuple[str, str] | None:
    if body.format in (None, ""):
        return None
    return "json_schema", json.dumps({"type": "object"} if body.format == "json" else body.format)


def _request(
    serving: Serving, body: fields.Common, engine: Engine, ids: list[int], form: tuple[str, str] | None
) -> Request:
    given = body.options.model_dump(exclude_none=True) if body.options else {}
    if given.get("num_ctx", 0) > engine.model.info.max_context_len:
        most = engine.model.info.max_context_len
        raise bad_field("options.num_ctx", f"it is {given['num_ctx']}, but the server's context is {most}")
    sampling = {**_DEFAULTS, **{name: value for name, value in given.items() if name not in _NOT_SAMPLING}}
    if "seed" in given:
        sampling["seed"] = given["seed"] % 2**64
    stop, limit = given.get("stop", []), given.get("num_predict", -1)
    calls = form is not None and form[0] == "grammar"
    return Request(
        ids,
        max_tokens=limit if limit >= 0 else None,
        sampling=sampling,
        stop=[stop] if isinstance(stop, str) else stop,
        form=form,
        visible=engine.model.ids_of(MARKS) if calls else (),
        timeout=serving.timeout,
        client=serving.client,
    )


def _message(message: fields.Message) -> dict[str, Any]:
    # As OpenAI has it, whose tools.py speaks.
    plain: dict[str, Any] = {"role": message.role, "content": message.content or ""}
    if message.tool_calls:
        plain["tool_calls"] = [
            {
                "type": "function",
                "function": {"name": call.function.name, "arguments": json.dumps(call.function.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_name is not None:
        plain["name"] = message.tool_name
    return plain


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat().replace("+00:00", "Z")


def _head(name: str) -> dict[str, Any]:
    return {"model": name, "created_at": _now()}


def _reply(body: fields.Common, engine: Engine, watched: Watched, chat: ChatAnswer | None) -> flask.Response:
    if body.stream is not False:
        return stream(_lines(body, watched, chat), "application/x-ndjson", _failed)
    texts: list[str] = []
    reason = ""
    for event in watched:
        if chat is not None:
            chat.take(event)
        texts.append(event.text)
        reason = event.finish_reason or reason
    if chat is None:
        content: dict[str, Any] = {"response": "".join(texts)}
    else:
        whole = chat.message()
        message: dict[str, Any] = {"role": "assistant", "content": whole["content"] or ""}
        calls = _calls(whole)
        content = {"message": {**message, "tool_calls": calls} if calls else message}
    return answered({**_head(body.model), **content, **_end(watched.ticket, reason)})


def _lines(body: fields.Common, watched: Watched, chat: ChatAnswer | None) -> Iterator[bytes]:
    def line(value: dict[str, Any]) -> bytes:
        return (to_json({**_head(body.model), **value}) + "\n").encode()

    def piece(event: Event) -> list[dict[str, Any]]:
        if chat is None:
            return [{"response": event.text}] if event.text else []
        texts = [delta["content"] for delta in chat.take(event) if "content" in delta]
        return [{"message": {"role": "assistant", "content": text}} for text in texts]

    for batch in watched.batches():
        parts = []
        for event in batch:
            parts += [line({**found, "done": False}) for found in piece(event)]
            if event.finish_reason is None:
                continue
            last: dict[str, Any] = {"response": ""}
            if chat is not None:
                calls = _calls(chat.message())
                if calls:  # whole, since arguments are objects here
                    message = {"role": "assistant", "content": "", "tool_calls": calls}
                    parts.append(line({"message": message, "done": False}))
                last = {"message": {"role": "assistant", "content": ""}}
            parts.append(line({**last, **_end(watched.ticket, event.finish_reason)}))
        if parts:
            yield b"".join(parts)


def _calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for call in message.get("tool_calls", []):
        try:
            arguments = json.loads(call["function"]["arguments"])
        except ValueError:  # the answer ended in the midst of them
            continue
        found.append({"function": {"name": call["function"]["name"], "arguments": arguments}})
    return found


def _end(ticket: Ticket, reason: str) -> dict[str, Any]:
    timing = ticket.timing
    end = timing.finished or timing.submitted
    first = timing.first_token or end
    begun = timing.admitted or timing.submitted
    return {
        "done": True,
        "done_reason": reason,
        "total_duration": _nanoseconds(timing.submitted, end),
        "load_duration": 0,
        "prompt_eval_count": ticket.usage.prompt_tokens,
        "prompt_eval_duration": _nanoseconds(begun, first),
        "eval_count": ticket.usage.completion_tokens,
        "eval_duration": _nanoseconds(first, end),
    }


def _nanoseconds(begin: float, end: float) -> int:
    return max(0, int((end - begin) * 1e9))


def _failed(refusal: Refusal) -> bytes:
    return (to_json({"error": refusal.message}) + "\n").encode()


def _details(model: Model) -> dict[str, Any]:
    family = model.llm.handle.metadata("rkllm.family") or model.llm.handle.metadata("general.architecture") or ""
    return {
        "parent_model": "",
        "format": "rkllm",
        "family": family,
        "families": [family],
        "parameter_size": f"{model.info.n_parameters / 1e6:.0f}M",
        "quantization_level": model.info.format,
    }


def _entry(model: Model) -> dict[str, Any]:
    status = os.stat(model.path)
    modified = datetime.datetime.fromtimestamp(status.st_mtime, datetime.timezone.utc)
    return {
        "name": f"{model.name}:latest",
        "model": f"{model.name}:latest",
        "modified_at": modified.isoformat().replace("+00:00", "Z"),
        "size": status.st_size,
        "digest": _digest(model.path, status.st_size),
        "details": _details(model),
    }


def _digest(path: str, size: int) -> str:
    # Of the header and the size: the header has a checksum of every tensor.
    with open(path, "rb") as file:
        return hashlib.sha256(file.read(2**20) + str(size).encode()).hexdigest()


def _shown(model: Model) -> dict[str, Any]:
    family = _details(model)["family"]
    return {
        "modelfile": f"FROM {model.name}",
        "parameters": "\n".join(f"{name} {value}" for name, value in _DEFAULTS.items()),
        "template": model.chat_template or "",
        "details": _details(model),
        "model_info": {
            "general.architecture": family,
            "general.parameter_count": model.info.n_parameters,
            f"{family}.context_length": model.info.max_context_len,
            f"{family}.embedding_length": model.info.dim,
            f"{family}.block_count": model.info.n_layers,
        },
        "capabilities": ["completion", "embedding", *(["tools"] if model.chat_template else [])],
    }
