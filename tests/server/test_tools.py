# SPDX-License-Identifier: Apache-2.0
"""Calls of functions: the prompt that offers them, the grammar of answers, and reading them however they are cut."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from .conftest import Running
from .test_http import CHAT, HELLO, chat, chunks

pytest.importorskip("pydantic")

from rkllm_ext.server.tools import CallReader, messages_with_tools

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Paris", "Rome"]},
                "days": {"type": "integer", "maximum": 9, "minimum": 0},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
ANSWER = (
    'Let me <see>.<tool_call>\n{"name": "weather", "arguments": {"city": "a}\\nb </tool_call>"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
)


@pytest.mark.parametrize("seed", range(50))
def test_calls_are_read_however_the_text_is_cut(seed: int) -> None:
    rng, reader, at = random.Random(seed), CallReader(), 0
    text, calls = "", {}
    while at < len(ANSWER):
        size = rng.randint(1, 12)
        for delta in reader.push(ANSWER[at : at + size]):
            text += delta.text
            if delta.call is not None:
                name, arguments = calls.get(delta.call, (delta.name, ""))
                calls[delta.call] = name, arguments + delta.arguments
        at += size
    assert reader.finish() == []
    assert text == "Let me <see>."
    assert calls == {0: ("weather", '{"city": "a}\\nb </tool_call>"}'), 1: ("clock", "{}")}


def test_text_that_only_begins_like_a_call_is_text() -> None:
    reader = CallReader()
    assert [delta.text for delta in reader.push("a <tool")] == ["a "]
    assert [delta.text for delta in reader.push("box> <tool_cal")] == ["<toolbox> "]
    assert [delta.text for delta in reader.finish()] == ["<tool_cal"]


def test_templates_get_the_functions_or_a_message_that_explains_them() -> None:
    called: dict[str, Any] = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "clock", "arguments": '{"a": 1}'}}],
    }
    talk = [*HELLO, called, {"role": "tool", "content": "12:00", "tool_call_id": "1"}]
    knows = "{% if tools %}<tool_call>{% endif %}"
    messages, variables = messages_with_tools(talk, [CLOCK], knows)
    assert variables == {"tools": [CLOCK]}
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    messages, variables = messages_with_tools(talk, [CLOCK], "{{ messages }}")
    assert variables == {}
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert '{"name": "clock"}' in messages[0]["content"]
    assert messages[2]["content"] == '<tool_call>\n{"name": "clock", "arguments": {"a": 1}}\n</tool_call>'
    assert "12:00" in messages[3]["content"]


def arguments_fit(call: dict[str, Any]) -> None:
    assert call["type"] == "function"
    arguments = json.loads(call["function"]["arguments"])
    if call["function"]["name"] == "weather":
        assert set(arguments) == {"city", "days"}
        assert arguments["city"] in ("Paris", "Rome")
        assert 0 <= arguments["days"] <= 9
    else:
        assert isinstance(arguments, dict)


@pytest.mark.parametrize("seed", range(3))
def test_required_and_named_functions_are_called_with_arguments_that_fit(server: Running, seed: int) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    fields: dict[str, Any] = {"tools": [WEATHER, CLOCK], "seed": seed, "max_tokens": 200}
    found = chat(server, tool_choice=named, **fields)["choices"][0]
    assert found["finish_reason"] == "tool_calls"
    assert found["message"]["content"] is None
    assert [call["function"]["name"] for call in found["message"]["tool_calls"]] == ["weather"]
    arguments_fit(found["message"]["tool_calls"][0])
    one = chat(server, tool_choice="required", parallel_tool_calls=False, **fields)["choices"][0]
    if one["finish_reason"] == "tool_calls":
        assert len(one["message"]["tool_calls"]) == 1
        arguments_fit(one["message"]["tool_calls"][0])
    else:  # the clock takes any object, which random weights may not close
        assert one["finish_reason"] == "length"


def test_calls_are_streamed_in_pieces(server: Running) -> None:
    fields = {"messages": HELLO, "tools": [WEATHER], "tool_choice": "required", "seed": 1, "max_tokens": 80}
    whole = chat(server, parallel_tool_calls=False, **fields)["choices"][0]["message"]["tool_calls"][0]
    parts = [part["choices"][0]["delta"] for part in chunks(server, CHAT, parallel_tool_calls=False, **fields)]
    calls = [part["tool_calls"][0] for part in parts if "tool_calls" in part]
    assert calls[0]["id"].startswith("call_")
    assert calls[0]["function"] == {"name": "weather", "arguments": ""}
    assert len(calls) > 3
    assert "".join(call["function"]["arguments"] for call in calls) == whole["function"]["arguments"]


def test_functions_may_be_left_uncalled(server: Running) -> None:
    for choice in ("auto", "none"):
        found = chat(server, tools=[WEATHER], tool_choice=choice, max_tokens=10, seed=1)["choices"][0]
        assert found["message"]["content"]
        assert "tool_calls" not in found["message"]
