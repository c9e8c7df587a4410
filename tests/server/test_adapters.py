# SPDX-License-Identifier: Apache-2.0
"""Adapters, prompt caches and further models that requests name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from adapters import random_pairs, write_peft

from rkllm_ext import LLM, convert
from rkllm_ext.lora import convert_lora

from .conftest import Running
from .test_http import COMPLETE, HELLO, refused

TARGETS = {"model.layers.0.self_attn.q_proj": (64, 64), "model.layers.1.mlp.down_proj": (64, 128)}
STORY = "Once upon a time there was a robot who lived in a house by the sea"


def test_requests_name_adapters_caches_and_models(
    start: Callable[..., Running], tiny_llama: Path, tmp_path: Path
) -> None:
    convert(tiny_llama, tmp_path / "first.rkllm", "w8a8")
    convert(tiny_llama, tmp_path / "second.rkllm", "fp32")
    peft = write_peft(tmp_path / "peft", random_pairs(TARGETS, 4))
    convert_lora(peft, tiny_llama, tmp_path / "a_lora.rkllm")
    settings = {"max_new_tokens": 12, "temperature": 0.0, "repeat_penalty": 1.0}
    with LLM(tmp_path / "first.rkllm") as llm:
        llm.save_prompt_cache(STORY, tmp_path / "story.cache")
        plain = llm.generate("Once", **settings).text
        llm.load_lora(tmp_path / "a_lora.rkllm", "a")
        adapted = llm.generate("Once", lora="a", **settings).text
    with LLM(tmp_path / "second.rkllm") as llm:
        second = llm.generate("Once", **settings).text
    options = ["--lora", f"a={tmp_path / 'a_lora.rkllm'}", "--prompt-cache", f"story={tmp_path / 'story.cache'}"]
    server = start(tmp_path / "first.rkllm", *options, "--also", str(tmp_path / "second.rkllm"))
    try:
        body = {"model": "first", "prompt": "Once", "max_tokens": 12, "temperature": 0}
        for fields, expected in (({}, plain), ({"lora": "a"}, adapted), ({}, plain), ({"model": "second"}, second)):
            assert server.call(COMPLETE, {**body, **fields})[2]["choices"][0]["text"] == expected
        assert plain != adapted
        assert [model["id"] for model in server.call("/v1/models")[2]["data"]] == ["first", "second"]
        usage = server.call(COMPLETE, {**body, "prompt": STORY + " and", "prompt_cache": "story"})[2]["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] >= 20
        told = refused(server, "/v1/chat/completions", 400, {"model": "first", "messages": HELLO, "lora": "b"})
        assert "loaded are: a" in told["message"]
    finally:
        assert server.stop() == 0
