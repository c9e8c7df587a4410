# SPDX-License-Identifier: Apache-2.0
"""A page's conversation without the page: messages, settings, and answers that grow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rkllm_ext.errors import InvalidArgumentError
from rkllm_ext.server import Engine, Model, Request
from rkllm_ext.server.dialogue import Settings, answered, page_to_messages, pairs_to_messages, request_of

ASKED = [{"role": "user", "content": "Once upon a time"}]


@pytest.fixture
def engine(tiny_model: Path) -> Iterator[Engine]:
    with Engine(Model(tiny_model, max_context_len=65536), parallel=1, max_queue=2) as engine:
        yield engine


def test_a_history_of_pairs_is_a_conversation() -> None:
    assert pairs_to_messages([["a", "b"], ["c", None]]) == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


@pytest.mark.parametrize("history", [None, "text", [["a"]], [{"role": "user"}], [["a", 1]]])
def test_what_is_no_history_is_refused(history: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="history"):
        pairs_to_messages(history)


def test_a_content_of_parts_is_their_text() -> None:
    parts = [{"type": "text", "text": "a"}, "b"]
    assert page_to_messages([{"role": "user", "content": parts}]) == [{"role": "user", "content": "ab"}]


def test_settings_reach_the_request(engine: Engine) -> None:
    settings = Settings("Be brief.", 0.5, 0.8, 7, 1.3, 12, 99)
    request = request_of(engine, ASKED, settings, "me", 5.0)
    chosen = {"temperature": 0.5, "top_p": 0.8, "top_k": 7, "repeat_penalty": 1.3, "seed": 99}
    assert (request.sampling, request.max_tokens, request.client, request.timeout) == (chosen, 12, "me", 5.0)
    assert len(request.prompt) > len(request_of(engine, ASKED, Settings(), "me", None).prompt)


@pytest.mark.parametrize("messages", [[], [{"role": "assistant", "content": "Hello"}]])
def test_a_conversation_without_a_question_is_refused(engine: Engine, messages: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="must end with a message of the user"):
        request_of(engine, messages, Settings(), "", None)


def test_an_answer_grows_to_that_of_the_engine(engine: Engine) -> None:
    request = request_of(engine, ASKED, Settings(max_tokens=60, seed=3), "", None)
    ((expected, _, _),) = engine.submit(request).collect()

    async def read() -> list[Any]:
        return [progress async for progress in answered(engine, request)]

    seen = asyncio.run(read())
    assert seen[-1].text == expected
    assert all(after.text.startswith(before.text) for before, after in zip(seen, seen[1:]))
    assert seen[-1].status.endswith("tokens/s")


def test_who_closes_an_answer_frees_its_place(engine: Engine) -> None:
    async def leave() -> None:
        answer = answered(engine, Request(engine.model.text_ids("a"), ignore_eos=True))
        async for progress in answer:
            if progress.text:
                break
        await answer.aclose()

    asyncio.run(leave())
    assert engine.drain(timeout=60)
    assert engine.counters.cancelled == 1


def test_who_waits_is_told_so(engine: Engine) -> None:
    ahead = engine.submit(Request(engine.model.text_ids("a"), ignore_eos=True))
    assert ahead.next_event(60) is not None

    async def first() -> str:
        answer = answered(engine, Request([1], max_tokens=1))
        progress = await answer.__anext__()
        await answer.aclose()
        return progress.status

    assert "waiting in a queue of 1" in asyncio.run(first())
    ahead.cancel()
