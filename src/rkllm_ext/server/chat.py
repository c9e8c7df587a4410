# SPDX-License-Identifier: Apache-2.0
"""`/v1/chat/completions`: a body as the engine's request, and events as OpenAI's objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..options import Form
from .engine import Engine
from .fields import ChatBody, JsonSchemaFormat, TextFormat
from .refusals import bad_field
from .request import Event, Request, Token, Usage
from .sampling import settings_of
from .tools import MARKS, CallReader, Choice, Delta, grammar, messages_with_tools


def usage_object(usages: Sequence[Usage]) -> dict[str, Any]:
    """Return OpenAI's usage object of one or several tickets."""
    prompt, answer = (sum(getattr(u, name) for u in usages) for name in ("prompt_tokens", "completion_tokens"))
    cached = sum(u.cached_tokens for u in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def chat_request(body: ChatBody, engine: Engine, client: str, timeout: float | None) -> tuple[Request, bool]:
    """Return the engine's request, and whether the answer may hold calls.

    Raises
    ------
    Refusal, RKLLMError
        A field is not possible, or the model has no chat template.
    """
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise bad_field("max_tokens", "max_completion_tokens is given, too; give one of them")
    if body.top_logprobs is not None and not body.logprobs:
        raise bad_field("top_logprobs", "only possible with logprobs")
    choice = _choice(body)
    messages = [_message(message.model_dump(exclude_none=True)) for message in body.messages]
    tools = list(choice.tools) if choice else []
    prompt, variables = messages_with_tools(messages, tools, engine.model.chat_template)
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    request = Request(
        engine.model.chat_ids(prompt, **variables),
        max_tokens=limit,
        form=_form(body, choice),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        visible=engine.model.ids_of(MARKS) if choice else (),
        **settings_of(body, engine, client, timeout),
    )
    return request, choice is not None


def _message(message: dict[str, Any]) -> dict[str, Any]:
    # What templates know: roles of old, contents that are one text.
    if message["role"] == "developer":
        message["role"] = "system"
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text", part.get("refusal", "")) for part in content)
    refusal = message.pop("refusal", None)
    message["content"] = content if content is not None else refusal
    if message["content"] is None:
        if not message.get("tool_calls"):
            raise bad_field("messages", "a message of the assistant needs a content or tool_calls")
        message["content"] = ""
    return message


def _choice(body: ChatBody) -> Choice | None:
    # What may be called; None: nothing.
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()]
    names = [tool["function"]["name"] for tool in tools]
    if len(set(names)) < len(names):
        raise bad_field("tools", "two functions have the same name")
    wanted = body.tool_choice
    if not tools:
        if wanted not in (None, "none", "auto"):
            raise bad_field("tool_choice", "no tools are given")
        return None
    if wanted == "none":
        return None
    several = body.parallel_tool_calls is not False
    if wanted in (None, "auto", "required"):
        return Choice(tools, wanted == "required", several)
    assert wanted is not None and not isinstance(wanted, str)
    if wanted.function.name not in names:
        raise bad_field("tool_choice", f"there is no function {wanted.function.name!r} in tools")
    return Choice([tool for tool in tools if tool["function"]["name"] == wanted.function.name], True, False)


def _form(body: ChatBody, choice: Choice | None) -> Form | None:
    schema: Mapping[str, Any] | None = None
    if isinstance(body.response_format, JsonSchemaFormat):
        schema = body.response_format.json_schema.schema_
    elif body.response_format is not None and not isinstance(body.response_format, TextFormat):
        schema = {"type": "object"}
    if (schema is not None or choice is not None) and body.ignore_eos:
        raise bad_field("ignore_eos", "not possible with tools or a response_format, which say where the answer ends")
    if choice is not None:
        return "grammar", grammar(choice, schema)
    return None if schema is None else ("json_schema", json.dumps(schema))


class ChatAnswer:
    """Turns one answer's events into deltas of OpenAI's, and at the end into its message."""

    def __init__(self, engine: Engine, with_calls: bool, with_logprobs: bool) -> None:
        self._engine = engine
        self._reader = CallReader() if with_calls else None
        self._with_logprobs = with_logprobs
        self._texts: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._logprobs: list[dict[str, Any]] = []
        self.finish_reason: str | None = None

    def take(self, event: Event) -> list[dict[str, Any]]:
        """Return the deltas of an event."""
        if self._with_logprobs:
            self._logprobs += self.logprobs(event.tokens)["content"]
        if self._reader is None:
            found = [Delta(event.text)] if event.text else []
        else:
            found = self._reader.push(event.text)
            if event.finish_reason is not None:
                found += self._reader.finish()
        if event.finish_reason is not None:
            called = bool(self._calls or any(delta.call is not None for delta in found))
            self.finish_reason = "tool_calls" if called and event.finish_reason == "stop" else event.finish_reason
        return [self._add(delta) for delta in found]

    def _add(self, delta: Delta) -> dict[str, Any]:
        if delta.call is None:
            self._texts.append(delta.text)
            return {"content": delta.text}
        function: dict[str, Any] = {"arguments": delta.arguments}
        if delta.id is None:
            self._calls[delta.call]["function"]["arguments"] += delta.arguments
            return {"tool_calls": [{"index": delta.call, "function": function}]}
        function = {"name": delta.name, **function}
        self._calls.append({"id": delta.id, "type": "function", "function": dict(function)})
        call = {"index": delta.call, "id": delta.id, "type": "function", "function": function}
        return {"tool_calls": [call]}

    def message(self) -> dict[str, Any]:
        """Return the whole message."""
        text = "".join(self._texts)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if self._calls:
            message.update(content=text or None, tool_calls=self._calls)
        return message

    def choice(self, index: int) -> dict[str, Any]:
        """Return the whole choice."""
        logprobs = {"content": self._logprobs, "refusal": None} if self._with_logprobs else None
        return {
            "index": index,
            "message": self.message(),
            "logprobs": logprobs,
            "finish_reason": self.finish_reason,
        }

    def logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """Return OpenAI's object for the log-probabilities of tokens; end tokens are no part of a message."""
        model = self._engine.model
        rows = []
        for token in tokens:
            if token.token_id not in model.ends and token.logprob is not None:
                top = [_row(model.tokens[other], value) for other, value in token.top or ()]
                rows.append({**_row(model.tokens[token.token_id], token.logprob), "top_logprobs": top})
        return {"content": rows, "refusal": None}


def _row(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(token)}
