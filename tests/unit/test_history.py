# SPDX-License-Identifier: Apache-2.0
"""Runs that go on behind one another, and what a conversation's template is told, on rkllm_ext's own library."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from rkllm_ext import LLM, Multimodal
from rkllm_ext.errors import InvalidArgumentError, UnsupportedModelError

FIRST, SECOND = array("i", [5, 6, 7, 8]), array("i", [9, 10, 11])
TEMPLATE = (
    "{% for t in tools or [] %}({{ t.function.name }}) {% endfor %}{{ 'hm ' if enable_thinking }}"
    "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"
)
PLAIN = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def llm(tiny_model: Path) -> Iterator[LLM]:
    with LLM(tiny_model, max_context_len=512, max_new_tokens=6, top_k=1, chat_template=TEMPLATE) as opened:
        yield opened


def test_a_run_goes_on_behind_the_tokens_of_the_runs_before(llm: LLM) -> None:
    first = llm.generate(FIRST, keep_history=True).token_ids.tolist()
    second = llm.generate(SECOND, keep_history=True)
    third = llm.generate(array("i", [3]), keep_history=True).token_ids.tolist()
    so_far = [*FIRST, *first, *SECOND]
    assert second.perf is not None and second.perf.reused_tokens >= len(FIRST) + len(first) - 1
    assert llm.kv_cache_size == len(so_far) + 6 + 1 + 6
    assert second.token_ids.tolist() == llm.generate(array("i", so_far)).token_ids.tolist()
    assert third == llm.generate(array("i", [*so_far, *second.token_ids.tolist(), 3])).token_ids.tolist()


@pytest.mark.parametrize("reuse", [True, False])
def test_a_run_without_it_and_clearing_forget(llm: LLM, reuse: bool) -> None:
    alone = llm.generate(SECOND, reuse_prefix=reuse).token_ids.tolist()
    llm.generate(FIRST, keep_history=True)
    assert llm.generate(SECOND, reuse_prefix=reuse).token_ids.tolist() == alone
    assert llm.generate(SECOND, keep_history=True, reuse_prefix=reuse).token_ids.tolist() == alone
    behind = llm.generate(SECOND, keep_history=True, reuse_prefix=reuse).token_ids.tolist()
    llm.clear_kv_cache()
    assert llm.kv_cache_size == 0
    assert llm.generate(SECOND, keep_history=True, reuse_prefix=reuse).token_ids.tolist() == alone
    assert llm.generate(SECOND, keep_history=True, reuse_prefix=reuse).token_ids.tolist() == behind


def test_a_text_gets_its_begin_token_once(llm: LLM) -> None:
    first = llm.generate("Once upon", keep_history=True).token_ids.tolist()
    second = llm.generate(" a time", keep_history=True).token_ids.tolist()
    ids = [*llm.tokenize("Once upon", add_bos=True).tolist(), *first, *llm.tokenize(" a time").tolist()]
    assert second == llm.generate(array("i", ids)).token_ids.tolist()


def test_a_run_that_is_broken_off_is_kept_as_far_as_it_came_and_a_failed_one_is_not(llm: LLM) -> None:
    with llm.stream(FIRST, keep_history=True, max_new_tokens=-1) as stream:
        next(stream)
    assert llm.kv_cache_size > len(FIRST)
    llm.generate(FIRST, keep_history=False)
    kept = llm.generate(FIRST, keep_history=True).token_ids.tolist()
    with pytest.raises(InvalidArgumentError, match="token"):
        llm.generate(array("i", [10**6]), keep_history=True)
    ids = [*FIRST, *kept, *SECOND]
    behind = llm.generate(SECOND, keep_history=True).token_ids.tolist()
    assert behind == llm.generate(array("i", ids)).token_ids.tolist()


def test_what_is_not_tokens_alone_is_refused(llm: LLM) -> None:
    numpy = pytest.importorskip("numpy")
    rows = numpy.zeros((2, llm.info.dim), numpy.float32)
    for x in (rows, Multimodal("<image>", rows)):
        with pytest.raises(InvalidArgumentError, match="keep_history keeps tokens; embeddings and images"):
            llm.generate(x, keep_history=True)


def test_a_conversation_goes_on_with_the_answers_that_were_read(llm: LLM) -> None:
    first = llm.chat(user("a"), keep_history=True).text
    with llm.chat_stream(user("never answered"), keep_history=True) as stream:
        next(stream)
    second = "".join(piece.text for piece in llm.chat_stream(user("b"), keep_history=True))
    third = llm.chat(user("c"), keep_history=True).text
    talk = [*user("a"), {"role": "assistant", "content": first}, *user("b")]
    assert llm.chat(talk).text == second
    assert llm.chat([*talk, {"role": "assistant", "content": second}, *user("c")]).text == third
    alone = llm.chat(user("b")).text
    assert llm.chat(user("b"), keep_history=True).text == alone


def test_a_turn_is_kept_once_however_often_its_end_is_asked_for(llm: LLM) -> None:
    with llm.chat_stream(user("a"), keep_history=True) as stream:
        first = "".join(piece.text for piece in stream)
        assert next(stream, None) is None
        stream.collect()
    second = llm.chat(user("b"), keep_history=True).text
    assert llm.chat([*user("a"), {"role": "assistant", "content": first}, *user("b")]).text == second


def test_tools_and_thinking_reach_the_template(llm: LLM) -> None:
    answer = llm.chat(user("a"), tools=TOOLS, thinking=True).token_ids.tolist()
    assert answer == llm.generate("(weather) hm [user] a ").token_ids.tolist()
    assert llm.chat(user("a"), thinking=False).token_ids.tolist() == llm.generate("[user] a ").token_ids.tolist()


def test_a_template_without_a_place_for_them_is_named(tiny_model: Path) -> None:
    with LLM(tiny_model, max_new_tokens=1, chat_template=PLAIN) as llm:
        with pytest.raises(UnsupportedModelError, match="no place for tools; leave tools away"):
            llm.chat(user("a"), tools=TOOLS)
        with pytest.raises(UnsupportedModelError, match="no place for enable_thinking; leave thinking away"):
            llm.chat(user("a"), thinking=False)
        with pytest.raises(InvalidArgumentError, match="thinking is 'yes'"):
            llm.chat(user("a"), thinking="yes")  # type: ignore[arg-type]
