# SPDX-License-Identifier: Apache-2.0
"""Calls of functions: how a prompt offers them, the grammar that an answer with calls has, and reading it as it comes.

A call is written as Hermes and Qwen models know it, `<tool_call>` around {"name": ..., "arguments": ...}. A template
that speaks of it gets the functions itself; for other models, a system message explains them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .text import overlap

MARKS = OPEN, CLOSE = "<tool_call>", "</tool_call>"
_MOST_CALLS = 16
_END = "}\n" + CLOSE
_EXPLAINED = (
    "You may call functions to answer. These are there, each as a JSON object:\n{tools}\n"
    "To call one, write\n" + OPEN + '\n{{"name": <its name>, "arguments": <an object of its parameters>}}\n' + CLOSE
)


@dataclass(frozen=True)
class Choice:
    """What an answer may call.

    Attributes
    ----------
    tools : list
        OpenAI's objects, those that may be called.
    must : bool
        The answer consists of calls.
    several : bool
        More than one call is possible.
    """

    tools: Sequence[Mapping[str, Any]]
    must: bool = False
    several: bool = True


class Delta(NamedTuple):
    """A piece of an answer: of its text, or of call number `call`, which begins with its id and name."""

    text: str = ""
    call: int | None = None
    id: str | None = None
    name: str | None = None
    arguments: str = ""


def messages_with_tools(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], template: str | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the messages and variables with which a chat template tells the model of tools and earlier calls."""
    if template is not None and OPEN in template and "tools" in template:
        return [_with_objects(message) for message in messages], {"tools": list(tools)} if tools else {}
    plain = [_in_words(message) for message in messages]
    if tools:
        lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
        explained = _EXPLAINED.format(tools=lines)
        if plain[0]["role"] == "system":
            plain[0] = {**plain[0], "content": f"{plain[0]['content']}\n\n{explained}"}
        else:
            plain.insert(0, {"role": "system", "content": explained})
    return plain, {}


def _with_objects(message: Mapping[str, Any]) -> dict[str, Any]:
    # Templates write arguments as JSON themselves.
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    read = [{**call, "function": {**call["function"], "arguments": _object(call)}} for call in calls]
    return {**message, "content": message.get("content") or "", "tool_calls": read}


def _in_words(message: Mapping[str, Any]) -> dict[str, Any]:
    # For templates that know neither calls nor their results.
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = [
        OPEN + "\n" + json.dumps({"name": call["function"]["name"], "arguments": _object(call)}) + "\n" + CLOSE
        for call in message.get("tool_calls") or []
    ]
    kept = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**kept, "content": "\n".join(filter(None, [message.get("content"), *calls]))}


def _object(call: Mapping[str, Any]) -> Any:
    try:
        return json.loads(call["function"]["arguments"])
    except ValueError:  # whoever made it wrong shall see it as it was
        return call["function"]["arguments"]


def grammar(choice: Choice, text_schema: Mapping[str, Any] | None = None) -> str:
    """Return the Lark grammar of an answer; `text_schema` is that of its text where there is one."""
    rules = []
    for index, tool in enumerate(choice.tools):
        function = tool["function"]
        head = json.dumps(json.dumps(function["name"]) + ', "arguments": ')
        rules.append(f"one{index}: {head} args{index}")
        rules.append(f"args{index}: %json {json.dumps(_parameters(function))}")
    names = " | ".join(f"one{index}" for index in range(len(choice.tools)))
    marks = {name: json.dumps(text) for name, text in (("open", OPEN + '\n{"name": '), ("close", _END))}
    calls = f"call (NEXT call){{0,{_MOST_CALLS - 1}}}" if choice.several else "call"
    if choice.must:
        start = f"start: {calls}"
    elif text_schema is not None:
        start = f"start: text | {calls}\ntext: %json {json.dumps(text_schema)}"
    else:
        start = f"start: TEXT | TEXT? {calls}\nTEXT: /(?s:.+)/ & ~/(?s:.*){OPEN}(?s:.*)/"
    return "\n".join([start, 'NEXT: "\\n"', f"call: {marks['open']} ({names}) {marks['close']}", *rules])


def _parameters(function: Mapping[str, Any]) -> Mapping[str, Any]:
    given = function.get("parameters")
    return {"type": "object", **given} if given else {"type": "object"}


class CallReader:
    """Reads an answer with calls as it comes."""

    def __init__(self) -> None:
        self.calls = 0
        self._held = ""
        self._state = self._in_text

    def push(self, text: str) -> list[Delta]:
        """Return what the text adds to the answer; what may be part of a mark is held back."""
        self._held += text
        deltas: list[Delta] = []
        while self._state(deltas):
            pass
        return deltas

    def finish(self) -> list[Delta]:
        """Return what is held: the answer has ended."""
        rest, self._held = self._held, ""
        if self._state == self._in_arguments:
            return [Delta(call=self.calls - 1, arguments=rest)] if rest else []
        return [Delta(rest)] if rest.strip() and self._state == self._in_text else []

    def _in_text(self, deltas: list[Delta]) -> bool:
        before, found, after = self._held.partition(OPEN)
        if found:
            self._held, self._state = after, self._in_head
        else:
            edge = len(before) - overlap(before, OPEN)
            before, self._held = before[:edge], before[edge:]
        if self.calls:  # nothing but line ends between calls
            before = before.strip("\n")
        if before:
            deltas.append(Delta(before))
        return bool(found)

    def _in_head(self, deltas: list[Delta]) -> bool:
        # \n{"name": "f", "arguments":
        head, found, rest = self._held.partition(', "arguments": ')
        if not found:
            return False
        name = json.loads(head.partition(":")[2])
        self._held, self._state = rest, self._in_arguments
        deltas.append(Delta(call=self.calls, id=f"call_{secrets.token_hex(12)}", name=name))
        self.calls += 1
        return True

    def _in_arguments(self, deltas: list[Delta]) -> bool:
        arguments, found, rest = self._held.partition(_END)
        if found:
            self._held, self._state = rest, self._in_text
        else:
            edge = len(arguments) - overlap(arguments, _END)
            arguments, self._held = arguments[:edge], arguments[edge:]
        if arguments:
            deltas.append(Delta(call=self.calls - 1, arguments=arguments))
        return bool(found)
