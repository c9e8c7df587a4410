# SPDX-License-Identifier: Apache-2.0
"""The Python module on the vendor's library, generation by generation: each argument at its place, each answer taken.

vendor_stub.c stands for the library. It reads and writes at the offsets that were measured from the vendor's headers,
and logs every call.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from compiling import Compile
from vendor_stub import Stub, build

SETTINGS = {
    "top_k": 17,
    "top_p": 0.25,
    "temperature": 0.5,
    "repeat_penalty": 1.25,
    "frequency_penalty": 0.125,
    "presence_penalty": 0.375,
    "mirostat": 2,
    "mirostat_tau": 4.5,
    "mirostat_eta": 0.0625,
}
PERF = {"prefill_ms": 12.5, "prefill_tokens": 21, "generate_ms": 250.0, "generate_tokens": 33, "peak_memory_mb": 640.5}


def sampling_of(call: dict[str, Any]) -> dict[str, Any]:
    return {name: call[name] for name in SETTINGS}


# ---- loading ----


def test_every_setting_arrives_and_the_rest_is_the_librarys_own(stub: Stub) -> None:
    code = f"""
with LLM(sys.argv[1], max_context_len=2048, max_new_tokens=6, skip_special_token=True, img_start="<", img_end=">",
         img_content=".", **{SETTINGS}) as llm:
    pass
"""
    stub.run(code)
    assert {call["call"] for call in stub.calls()} == {"createDefaultParam", "init", "destroy"}
    (call,) = stub.calls("init")
    assert sampling_of(call) == SETTINGS
    assert (call["max_context_len"], call["max_new_tokens"]) == (2048, 6)
    assert Path(call["model_path"]).name == "model.rkllm"
    assert (call["skip_special_token"], call["is_async"]) == (1, 0)
    assert (call["base_domain_id"], call["last_byte"]) == (7, 90)  # what createDefaultParam returned
    if stub.generation == "G":
        assert call["ignore_eos_token"] == 0
    else:
        assert [call[name] for name in ("img_start", "img_end", "img_content")] == ["<", ">", "."]
    if stub.generation != "C":
        assert call["n_keep"] == -1
        assert (call["embed_flash"], call["enabled_cpus_num"], call["enabled_cpus_mask"]) == (0, 0, 0)


def test_n_keep_and_threads_are_set_where_there_is_such_a_thing(stub: Stub) -> None:
    code = """
for setting in ({"n_keep": 5}, {"n_threads": 1}, {"n_threads": 100000}):
    try:
        LLM(sys.argv[1], **setting).close()
    except rkllm_ext.RKLLMError as error:
        print(type(error).__name__, error)
"""
    lines = stub.run(code)
    calls = stub.calls("init")
    if stub.generation == "C":
        assert [line.split(" needs ")[0] for line in lines] == [
            "UnsupportedByRuntimeError n_keep=5",
            "UnsupportedByRuntimeError n_threads=1",
            "UnsupportedByRuntimeError n_threads=100000",
        ]
        assert calls == []
    else:
        assert len(lines) == 1 and lines[0].startswith("InvalidArgumentError n_threads is 100000; this machine has ")
        assert [call["n_keep"] for call in calls] == [5, -1]
        assert [call["enabled_cpus_num"] for call in calls] == [0, 1]
        assert calls[1]["enabled_cpus_mask"] == 1 << (min(os.cpu_count() or 1, 32) - 1)


def test_a_model_that_cannot_be_loaded_is_an_error_with_the_code(stub: Stub) -> None:
    code = """
try:
    LLM(sys.argv[1])
except rkllm_ext.RKLLMError as error:
    print(error)
"""
    (line,) = stub.run(code, STUB_FAIL="init")
    assert line == "rkllm_init failed with -3; RKLLM_LOG_LEVEL=1 makes the library say more"


# ---- runs ----


def test_text_tokens_and_embeddings_generate(stub: Stub) -> None:
    code = """
import array, numpy
with LLM(sys.argv[1], max_new_tokens=6) as llm:
    answer = llm.generate("hello")
    print(answer.text, answer.token_ids.tolist(), answer.finish_reason)
    print(llm.generate(array.array("i", [41, 42])).token_ids.tolist())
    print(llm.generate(numpy.full((3, 8), 7, numpy.float32)).token_ids.tolist())
    print([piece.text for piece in llm.stream("hello")])
"""
    ids = [100, 101, 102, 103, 104, 105]
    assert stub.run(code) == [
        f"tok0 tok1 tok2 é tok5  {ids} length",
        str(ids),
        str(ids),
        "['tok0 ', 'tok1 ', 'tok2 ', '', 'é ', 'tok5 ']",
    ]
    text, tokens, rows, _ = runs = stub.calls("run")
    assert (text["input_type"], text["prompt"]) == (0, "hello")
    assert (tokens["input_type"], tokens["input_ids"], tokens["n_tokens"]) == (1, 41, 2)
    assert (rows["input_type"], rows["embed"], rows["n_tokens"]) == (2, 7.0, 3)
    for call in runs:
        assert call["mode"] == 0 and "lora" not in call and "prompt_cache_path" not in call
        if stub.generation != "C":
            assert (call["role"], call["enable_thinking"], call["keep_history"]) == ("user", 0, 0)
    # The thread that a run has is the binding's: see _generation.h.
    assert stub.calls("run_async") == stub.calls("is_running") == stub.calls("callback did not return 0") == []


def test_a_run_that_says_its_figures_has_them(stub: Stub) -> None:
    code = """
with LLM(sys.argv[1], max_new_tokens=6) as llm:
    print(llm.perf)
    print(llm.generate("hello").perf == llm.perf)
    perf = llm.perf
    print(perf and {name: getattr(perf, name) for name in ("finish_reason", "seed", "prefill_ms", "prefill_tokens",
                                                         "generate_ms", "generate_tokens", "peak_memory_mb")})
"""
    figures = {"finish_reason": "length", "seed": None, **PERF}
    assert stub.run(code) == ["None", "True", "None" if stub.generation == "C" else str(figures)]


def test_images_arrive_with_their_tags_and_their_number(stub: Stub) -> None:
    code = """
import numpy
from rkllm_ext import Multimodal
images = numpy.full((2, 4, 8), 3, numpy.float32)
with LLM(sys.argv[1], max_new_tokens=2, img_start="<", img_end=">", img_content=".") as llm:
    llm.generate(Multimodal("<image> or <image>?", images))
    llm.generate(Multimodal("<image>?", images[0]))
    llm.generate(Multimodal("<image> or <image>?", images[0]))
    for prompt, given in (("<image> <image> <image>", images[0]), ("<image> <image>", [images[0], images[0][:1]])):
        try:
            llm.generate(Multimodal(prompt, given))
        except rkllm_ext.RKLLMError as error:
            print(type(error).__name__, error)
"""
    lines = stub.run(code)
    assert lines[0] == "InvalidArgumentError 4 embeddings cannot be shared by 3 images"
    assert lines[1].startswith("UnsupportedByRuntimeError images of different numbers of embeddings (4,1) needs ")
    both, one, halves = stub.calls("run")
    assert (both["input_type"], both["prompt"], both["image_embed"]) == (3, "<image> or <image>?", 3.0)
    if stub.generation == "C":
        assert [call["n_image_tokens"] for call in (both, one, halves)] == [8, 4, 4]
        return
    assert [(call["n_image_tokens"], call["n_image"]) for call in (both, one, halves)] == [(4, 2), (4, 1), (2, 2)]
    if stub.generation == "F":
        assert (both["image_width"], both["image_height"]) == (0, 0)
    else:
        assert [both[name] for name in ("img_start", "img_end", "img_content", "rest")] == ["<", ">", ".", 0]


def test_sampling_of_one_run_is_possible_from_1_3_on(stub: Stub) -> None:
    code = f"""
with LLM(sys.argv[1], max_new_tokens=6) as llm:
    try:
        answer = llm.generate("hello", max_new_tokens=3, **{SETTINGS})
        print(len(answer.token_ids), answer.finish_reason)
    except rkllm_ext.UnsupportedByRuntimeError as error:
        print(error)
    print(len(llm.generate("hello").token_ids))
"""
    first, second = stub.run(code)
    assert second == "6"
    if stub.generation != "G":
        assert first.startswith("option max_new_tokens=3 needs rkllm_ext's own library; ")
        return
    assert first == "3 length"
    changed, plain = stub.calls("run")
    assert (sampling_of(changed), changed["max_new_tokens"]) == (SETTINGS, 3)
    (init,) = stub.calls("init")
    assert (sampling_of(plain), plain["max_new_tokens"]) == (sampling_of(init), 0)


def test_a_broken_off_stream_and_an_aborted_run_leave_the_model_usable(stub: Stub) -> None:
    code = """
import threading
with LLM(sys.argv[1], max_new_tokens=-1) as llm:
    for piece in llm.stream("hello"):
        break
    stream = llm.stream("hello")
    next(stream)
    print(llm.is_running)
    threading.Thread(target=llm.abort).start()
    text, ids = stream.collect()
    print(len(ids) < 1000000, stream.finish_reason, llm.is_running)
    stream = llm.stream("hello")  # before the library knows of it
    llm.abort()
    print(len(stream.collect()[1]) < 1000000, stream.finish_reason)
    with llm.stream("hello") as stream:
        try:
            llm.generate("again")
        except rkllm_ext.BusyError as error:
            print(type(error).__name__)
"""
    lines = stub.run(code, STUB_TOKENS=1000000, STUB_DELAY_US=200)
    assert lines == ["True", "True abort False", "True abort", "BusyError"]


def test_async_for_works(stub: Stub) -> None:
    code = """
import asyncio
async def read(llm):
    return "".join([piece.text async for piece in llm.astream("hello")])
with LLM(sys.argv[1], max_new_tokens=5) as llm:
    print(asyncio.run(read(llm)))
"""
    assert stub.run(code, STUB_DELAY_US=1000) == ["tok0 tok1 tok2 é "]


@pytest.mark.parametrize(
    ("how", "lines"),
    [
        ("error", 2 * ["the run failed; RKLLM_LOG_LEVEL=1 makes the library say more"]),
        ("return", 2 * ["the run failed with -7; RKLLM_LOG_LEVEL=1 makes the library say more"]),
        ("silent", 2 * ["6 length"]),
    ],
)
def test_however_a_run_ends_its_end_is_noticed(stub: Stub, how: str, lines: list[str]) -> None:
    code = """
with LLM(sys.argv[1], max_new_tokens=6) as llm:
    for _ in range(2):
        try:
            answer = llm.generate("hello")
            print(len(answer.token_ids), answer.finish_reason)
        except rkllm_ext.RKLLMError as error:
            print(error)
"""
    assert stub.run(code, STUB_FAIL=how) == lines


def test_an_end_before_the_limit_is_a_stop(stub: Stub) -> None:
    code = """
with LLM(sys.argv[1], max_new_tokens=-1) as llm:
    print(llm.generate("hello").finish_reason)
"""
    assert stub.run(code, STUB_TOKENS=4) == ["stop"]


# ---- rows of floats ----


def test_hidden_states_are_those_of_the_first_callback(stub: Stub) -> None:
    code = """
with LLM(sys.argv[1], max_new_tokens=6) as llm:
    print(llm.hidden_states("hello").tolist())
    print(llm.embed("hello", pooling="last").tolist())
    print(len(llm.generate("hello").token_ids))
"""
    assert stub.run(code) == ["[[0.5, 1.5, 2.5], [3.5, 4.5, 5.5]]", "[3.5, 4.5, 5.5]", "6"]
    assert [call["mode"] for call in stub.calls("run")] == [1, 1, 0]


def test_logits_exist_from_1_2_on(stub: Stub) -> None:
    code = """
with LLM(sys.argv[1]) as llm:
    try:
        print(llm.logits("hello").tolist())
    except rkllm_ext.UnsupportedByRuntimeError as error:
        print(error)
"""
    (line,) = stub.run(code)
    if stub.generation == "C":
        assert line.startswith("logits() needs rkllm_ext's own library; ")
        assert stub.calls("run") == []
    else:
        assert line == "[[1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0]]"
        assert [call["mode"] for call in stub.calls("run")] == [2]


def test_a_failed_or_interrupted_run_for_rows_is_an_error(stub: Stub) -> None:
    code = """
with LLM(sys.argv[1]) as llm:
    try:
        llm.hidden_states("hello")
    except rkllm_ext.RKLLMError as error:
        print(error)
"""
    failed = "the run failed with -7; RKLLM_LOG_LEVEL=1 makes the library say more"
    assert stub.run(code, STUB_FAIL="return") == [failed]
    code = """
import signal
signal.signal(signal.SIGALRM, lambda *_: 1 / 0)
signal.setitimer(signal.ITIMER_REAL, 0.1)
with LLM(sys.argv[1]) as llm:
    try:
        llm.hidden_states("hello")
    except ZeroDivisionError:
        print("interrupted")
    print(llm.is_running)
"""
    assert stub.run(code, STUB_DELAY_US=500000) == ["interrupted", "False"]


# ---- what is loaded beside the model ----


def test_adapters_are_loaded_and_chosen_by_runs(stub: Stub) -> None:
    code = """
with LLM(sys.argv[1], max_new_tokens=2) as llm:
    llm.load_lora("an adapter", "a", 0.75)
    llm.generate("hello", lora="a")
    llm.generate("hello")
    try:
        llm.release_lora("a")
    except rkllm_ext.UnsupportedByRuntimeError as error:
        print(error)
"""
    (line,) = stub.run(code)
    assert line.startswith("release_lora() needs rkllm_ext's own library; ")
    (loaded,) = stub.calls("load_lora")
    assert loaded == {"call": "load_lora", "path": "an adapter", "name": "a", "scale": 0.75}
    assert [call.get("lora") for call in stub.calls("run")] == ["a", None]


def test_prompt_caches_are_saved_loaded_and_released(stub: Stub) -> None:
    code = """
with LLM(sys.argv[1], max_new_tokens=3) as llm:
    llm.save_prompt_cache("hello", "state")
    llm.load_prompt_cache("state")
    llm.generate("hello")
    llm.release_prompt_cache()
    for use in (lambda: llm.load_prompt_cache("state", "name"), lambda: llm.release_prompt_cache("name")):
        try:
            use()
        except rkllm_ext.UnsupportedByRuntimeError as error:
            print(error)
"""
    lines = stub.run(code)
    assert [line.split(" needs ")[0] for line in lines] == 2 * ["a name for a prompt cache"]
    saving, plain = stub.calls("run")
    assert (saving["save_prompt_cache"], saving["prompt_cache_path"]) == (1, "state")
    assert "prompt_cache_path" not in plain
    assert saving.get("max_new_tokens", 1) == 1
    names = [call["call"] for call in stub.calls()]
    assert names[-4:] == ["load_prompt_cache", "run", "release_prompt_cache", "destroy"]
    assert stub.calls("load_prompt_cache")[0]["path"] == "state"


# ---- conversations ----


def test_conversations_without_a_template_are_what_the_library_makes_of_them(stub: Stub) -> None:
    code = """
talks = [[{"role": "user", "content": "hello"}], [{"role": "system", "content": "hello"}],
         [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]]
with LLM(sys.argv[1], max_new_tokens=2) as llm:
    for messages in talks:
        try:
            print(llm.chat(messages).text)
        except rkllm_ext.UnsupportedByRuntimeError as error:
            print(error)
"""
    lines = stub.run(code)
    if stub.generation == "C":
        assert all(line.startswith("a conversation needs LLM(..., chat_template=...)") for line in lines)
        return
    assert lines[0] == "tok0 tok1 "
    refused = "a conversation of more than one text of the user or a tool needs LLM("
    assert all(line.startswith(refused) for line in lines[1:])
    assert [call["prompt"] for call in stub.calls("run")] == ["hello"]
    assert stub.calls("set_chat_template") == []


def test_a_template_that_is_given_takes_the_place_of_the_librarys(stub: Stub) -> None:
    code = """
template = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"
with LLM(sys.argv[1], max_new_tokens=2, chat_template=template) as llm:
    llm.chat([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])
    llm.generate("raw")
with LLM(sys.argv[1], max_new_tokens=2, chat_template="") as llm:
    llm.generate("raw")
"""
    stub.run(code)
    assert [call["prompt"] for call in stub.calls("run")] == ["[system] a [user] b ", "raw", "raw"]
    off = {"call": "set_chat_template", "system": "", "prefix": "", "postfix": ""}
    assert stub.calls("set_chat_template") == ([] if stub.generation == "C" else [off, off])


def test_a_template_that_cannot_be_set_ends_the_loading(compile_c: Compile, tmp_path: Path) -> None:
    stub = build(compile_c, tmp_path, "F", "1.2.2")
    code = """
try:
    LLM(sys.argv[1], chat_template="")
except rkllm_ext.RKLLMError as error:
    print(error)
"""
    assert stub.run(code, STUB_FAIL="template")[0].startswith("rkllm_init failed with -1; ")
    assert [call["call"] for call in stub.calls()][-2:] == ["set_chat_template", "destroy"]


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def test_turns_of_a_conversation_that_the_library_keeps(stub: Stub) -> None:
    code = """
with LLM(sys.argv[1], max_new_tokens=2) as llm:
    try:
        print(llm.chat([{"role": "user", "content": "a"}], thinking=True, keep_history=True).text)
        llm.chat([{"role": "tool", "content": "[1]"}], keep_history=True)
        llm.generate("b", keep_history=True)
        llm.generate("c")
    except rkllm_ext.UnsupportedByRuntimeError as error:
        print(error)
"""
    (line,) = stub.run(code)
    if stub.generation == "C":
        assert line.startswith("a conversation needs LLM(..., chat_template=...)")
        return
    assert line == "tok0 tok1 "
    seen = [(call["prompt"], call["role"], call["enable_thinking"], call["keep_history"]) for call in stub.calls("run")]
    assert seen == [("a", "user", 1, 1), ("[1]", "tool", 0, 1), ("b", "user", 0, 1), ("c", "user", 0, 0)]


def test_a_run_that_is_to_go_on_is_refused_where_the_library_keeps_nothing(stub: Stub) -> None:
    code = """
with LLM(sys.argv[1], max_new_tokens=2) as llm:
    for use in (lambda: llm.generate("a", keep_history=True), lambda: llm.clear_kv_cache(), lambda: llm.kv_cache_size):
        try:
            print(use())
        except rkllm_ext.UnsupportedByRuntimeError as error:
            print(error)
"""
    answer, nothing, size = stub.run(code)
    if stub.generation == "C":
        names = [line.split(" needs ")[0] for line in (answer, nothing, size)]
        assert names == ["option keep_history=True", "clear_kv_cache()", "kv_cache_size"]
        return
    assert (nothing, size) == ("None", "77")
    (cleared,) = stub.calls("clear_kv_cache")
    assert (cleared["keep_system"], cleared["ranges"]) == (1, 0)


def test_tools_are_told_to_the_library_once(stub: Stub) -> None:
    code = f"""
tools = {TOOLS}
talk = [{{"role": "system", "content": "be brief"}}, {{"role": "user", "content": "a"}}]
with LLM(sys.argv[1], max_new_tokens=2) as llm:
    try:
        for _ in range(2):
            llm.chat(talk, tools=tools)
        llm.chat([{{"role": "tool", "content": "[1]"}}], tools=tools, keep_history=True)
        llm.chat([{{"role": "user", "content": "b"}}])
    except rkllm_ext.UnsupportedByRuntimeError as error:
        print(error)
"""
    (line,) = stub.run(code)
    if stub.generation == "C":
        assert line.startswith("a conversation needs LLM(..., chat_template=...)")
        return
    assert line.startswith("a conversation without the tools of the one before: ")
    (told,) = stub.calls("set_function_tools")
    assert told["system"] == "be brief"
    assert told["tools_bytes"] == len(json.dumps(TOOLS))
    assert told["response_tag"] == "tool_response"
    assert [call["prompt"] for call in stub.calls("run")] == ["a", "a", "[1]"]


def test_tools_that_the_library_refuses_end_the_conversation_before_its_run(compile_c: Compile, tmp_path: Path) -> None:
    stub = build(compile_c, tmp_path, "G", "version: 1.3.0")
    code = f"""
with LLM(sys.argv[1], max_new_tokens=2) as llm:
    try:
        llm.chat([{{"role": "user", "content": "a"}}], tools={TOOLS})
    except rkllm_ext.RKLLMError as error:
        print(error)
"""
    (line,) = stub.run(code, STUB_FAIL="tools")
    assert line.startswith("rkllm_set_function_tools failed with -1; ")
    assert stub.calls("run") == []


def test_a_template_that_is_given_has_tools_thinking_and_history_of_its_own(stub: Stub) -> None:
    code = f"""
template = ("{{% for t in tools or [] %}}({{{{ t.function.name }}}}) {{% endfor %}}{{{{ 'hm' if enable_thinking }}}}"
            "{{% for m in messages %}}[{{{{ m.role }}}}] {{{{ m.content }}}} {{% endfor %}}")
with LLM(sys.argv[1], max_new_tokens=2, chat_template=template) as llm:
    llm.chat([{{"role": "user", "content": "a"}}], keep_history=True)
    llm.chat([{{"role": "user", "content": "b"}}], tools={TOOLS}, thinking=True, keep_history=True)
    llm.chat([{{"role": "user", "content": "c"}}])
"""
    assert stub.run(code) == []
    prompts = [call["prompt"] for call in stub.calls("run")]
    assert prompts == [
        "[user] a ",
        "(weather) hm[user] a [assistant] tok0 tok1  [user] b ",
        "[user] c ",
    ]
    assert [call.get("keep_history", 0) for call in stub.calls("run")] == [0, 0, 0]
    assert stub.calls("set_function_tools") == []
