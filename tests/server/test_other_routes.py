# SPDX-License-Identifier: Apache-2.0
"""Ollama's routes and the vendor's, as their clients read them."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest

from .conftest import Running
from .test_http import HELLO


def lines(server: Running, path: str, body: Any) -> list[dict[str, Any]]:
    status, _, text = server.call(path, body)
    assert status == 200, text
    return [json.loads(line) for line in text.splitlines() if line]


def test_ollama_streams_lines_and_counts(server: Running) -> None:
    body = {"model": f"{server.name}:latest", "messages": HELLO, "options": {"seed": 4, "num_predict": 20}}
    *parts, last = lines(server, "/api/chat", body)
    assert not any(part["done"] for part in parts)
    assert last["done"] and last["done_reason"] in ("stop", "length")
    assert 0 < last["eval_count"] <= 20
    whole = server.call("/api/chat", {**body, "stream": False})[2]
    assert "".join(part["message"]["content"] for part in parts) == whole["message"]["content"]
    assert whole["prompt_eval_count"] == last["prompt_eval_count"]
    raw = server.call("/api/generate", {"model": server.name, "prompt": "Once", "raw": True, "stream": False})[2]
    assert raw["response"] and raw["done"]


def test_ollama_formats_and_functions(server: Running) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    body = {"model": server.name, "prompt": "x", "format": schema, "stream": False}
    assert json.loads(server.call("/api/generate", body)[2]["response"])["a"] in (1, 2)
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    called = [{"function": {"name": "f", "arguments": {"a": 1}}}]
    talk = [*HELLO, {"role": "assistant", "tool_calls": called}, {"role": "tool", "content": "2", "tool_name": "f"}]
    found = server.call("/api/chat", {"model": server.name, "messages": talk, "tools": tools, "stream": False})[2]
    assert found["message"]["role"] == "assistant"


def test_ollama_tells_about_models(server: Running) -> None:
    entry = server.call("/api/tags")[2]["models"][0]
    assert entry["name"] == f"{server.name}:latest"
    assert entry["details"]["quantization_level"] == "w8a8"
    shown = server.call("/api/show", {"model": entry["name"]})[2]
    assert "completion" in shown["capabilities"]
    assert server.call("/api/ps")[2]["models"][0]["name"] == entry["name"]
    assert server.call("/api/version")[0] == 200
    vectors = server.call("/api/embed", {"model": server.name, "input": ["a", "b"]})[2]["embeddings"]
    assert len(vectors) == 2


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/api/chat", {"model": "x", "messages": HELLO}, 404, "no model 'x'"),
        ("/api/chat", {"messages": HELLO}, 400, "model: the field is missing"),
        ("/api/generate", {"model": "tiny", "prompt": "a", "images": ["x"]}, 400, "images: a .rkllm file holds no"),
        ("/api/chat", {"model": "tiny", "messages": [{**HELLO[0], "images": ["x"]}]}, 400, "messages.0.images: a"),
        ("/api/generate", {"model": "tiny", "prompt": "a", "options": {"num_gpu": 1}}, 400, "options.num_gpu"),
        ("/api/generate", {"model": "tiny", "prompt": "a", "options": {"num_ctx": 4096}}, 400, "context is 2048"),
    ],
)
def test_ollama_refusals_are_sentences(server: Running, path: str, body: Any, status: int, words: str) -> None:
    found, _, told = server.call(path, body)
    assert found == status
    assert words in told["error"]


def test_the_vendors_client_reads_the_answers(server: Running) -> None:
    # What the vendor's example client does with a reply, whole and streamed.
    body: dict[str, Any] = {"model": "whatever is deployed", "messages": HELLO, "stream": False}
    whole = server.call("/rkllm_chat", body)[2]
    assert (whole["id"], whole["object"]) == ("rkllm_chat", "rkllm_chat")
    assert isinstance(whole["choices"][-1]["message"]["content"], str)
    assert whole["choices"][-1]["finish_reason"] == "stop"
    data = json.dumps({**body, "stream": True}).encode()
    texts, reasons = [], []
    with urllib.request.urlopen(server.url + "/rkllm_chat", data, timeout=60) as reply:
        for line in reply:
            if line.strip():
                choice = json.loads(line)["choices"][-1]
                reasons.append(choice["finish_reason"])
                if choice["finish_reason"] != "stop":
                    texts.append(choice["delta"]["content"])
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert all(texts)
    assert server.call("/rkllm_chat", {"model": "x"})[2]["status"] == "error"
