# SPDX-License-Identifier: Apache-2.0
"""OpenAI's routes of a real server process: what each field does, and what is refused by which name."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rkllm_ext import LLM

from .conftest import Running

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "Hello"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


def chat(server: Running, **fields: Any) -> dict[str, Any]:
    status, _, body = server.call(CHAT, {"model": server.name, "messages": HELLO, "max_tokens": 12, **fields})
    assert status == 200, body
    return dict(body)


def complete(server: Running, **fields: Any) -> dict[str, Any]:
    status, _, body = server.call(COMPLETE, {"model": server.name, "prompt": "Once", **fields})
    assert status == 200, body
    return dict(body)


def chunks(server: Running, path: str, **fields: Any) -> list[dict[str, Any]]:
    status, headers, body = server.call(path, {"model": server.name, "stream": True, **fields})
    assert status == 200, body
    assert headers["Content-Type"].startswith("text/event-stream")
    assert body.endswith("\n\ndata: [DONE]\n\n")
    lines = [line for line in body.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line[6:]) for line in lines[:-1]]


def refused(server: Running, path: str, status: int, body: Any, **headers: str) -> dict[str, Any]:
    found, _, told = server.call(path, body, **headers)
    assert found == status, told
    assert set(told["error"]) == {"message", "type", "param", "code"}
    return dict(told["error"])


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> Any:
    with LLM(tiny_model, max_context_len=2048, temperature=0.0, repeat_penalty=1.0) as llm:
        yield llm


def test_an_answer_is_that_of_the_model(server: Running, llm: LLM) -> None:
    expected = llm.chat(HELLO, max_new_tokens=20)
    found = chat(server, temperature=0, max_tokens=20)
    assert found["choices"][0]["message"] == {"role": "assistant", "content": expected.text, "refusal": None}
    assert found["choices"][0]["finish_reason"] == expected.finish_reason
    assert found["usage"]["prompt_tokens"] == llm.count_tokens(HELLO)
    assert (
        complete(server, temperature=0, max_tokens=20)["choices"][0]["text"]
        == llm.generate("Once", max_new_tokens=20).text
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_is_the_whole_answer_in_pieces(server: Running, seed: int) -> None:
    fields = {"messages": HELLO, "max_tokens": 40, "seed": seed, "n": 2, "logprobs": True, "top_logprobs": 2}
    whole = chat(server, **fields)
    parts = chunks(server, CHAT, stream_options={"include_usage": True}, **fields)
    *parts, last = parts
    assert last["choices"] == []
    assert {**last["usage"], "prompt_tokens_details": 0} == {**whole["usage"], "prompt_tokens_details": 0}
    assert len({part["id"] for part in parts}) == 1
    for choice in whole["choices"]:
        own = [part["choices"][0] for part in parts if part["choices"][0]["index"] == choice["index"]]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(part["delta"].get("content", "") for part in own) == choice["message"]["content"]
        assert [part["finish_reason"] for part in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1]["finish_reason"] == choice["finish_reason"]
        rows = [row for part in own if part["logprobs"] for row in part["logprobs"]["content"]]
        assert rows == choice["logprobs"]["content"]
        assert all(len(row["top_logprobs"]) == 2 for row in rows)


def test_a_stream_of_completions_is_the_whole_in_pieces(server: Running) -> None:
    fields = {"prompt": ["Once", "Twice"], "max_tokens": 20, "seed": 1, "n": 2, "logprobs": 2, "echo": True}
    whole = complete(server, **fields)
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert whole["choices"][2]["text"].startswith("Twice")
    parts = chunks(server, COMPLETE, **fields)
    for choice in whole["choices"]:
        own = [part["choices"][0] for part in parts if part["choices"][0]["index"] == choice["index"]]
        assert "".join(part["text"] for part in own) == choice["text"]
        assert [token for part in own for token in part["logprobs"]["tokens"]] == choice["logprobs"]["tokens"]
        assert [at for part in own for at in part["logprobs"]["text_offset"]] == choice["logprobs"]["text_offset"]


def test_no_chunk_cuts_a_character(server: Running, llm: LLM) -> None:
    # Random weights write bytes of many broken characters.
    for seed in range(5):
        parts = chunks(server, COMPLETE, prompt="é", max_tokens=100, seed=seed, top_k=0, temperature=2)
        text = "".join(part["choices"][0]["text"] for part in parts)
        assert (
            text
            == complete(server, prompt="é", max_tokens=100, seed=seed, top_k=0, temperature=2)["choices"][0]["text"]
        )


def test_sampling_fields_do_what_they_do_in_the_library(server: Running, llm: LLM) -> None:
    fields = {
        "seed": 11,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 30,
        "min_p": 0.01,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "repeat_penalty": 1.2,
    }
    expected = llm.generate("Once", max_new_tokens=30, logit_bias={5: -float("inf"), 6: 2.0}, **fields)
    found = complete(server, max_tokens=30, logit_bias={"5": -100, "6": 2}, **fields)
    assert found["choices"][0]["text"] == expected.text
    mirostat = {"mirostat": 2, "mirostat_tau": 3.0, "mirostat_eta": 0.2, "seed": 3}
    expected = llm.generate("Once", max_new_tokens=30, temperature=1.0, top_k=40, top_p=1.0, **mirostat)
    assert complete(server, max_tokens=30, **mirostat)["choices"][0]["text"] == expected.text


def test_stop_texts_end_answers_and_are_not_part_of_them(server: Running) -> None:
    whole = complete(server, max_tokens=60, seed=5)["choices"][0]["text"]
    stop = whole[10:13]
    found = complete(server, max_tokens=60, seed=5, stop=[stop, "never there"])["choices"][0]
    assert found["text"] == whole[: whole.index(stop)]
    assert found["finish_reason"] == "stop"
    parts = chunks(server, COMPLETE, prompt="Once", max_tokens=60, seed=5, stop=stop)
    assert "".join(part["choices"][0]["text"] for part in parts) == found["text"]


def test_echoed_prompts_have_log_probabilities(server: Running, llm: LLM) -> None:
    ids = llm.tokenize("Once upon a time").tolist()
    found = complete(server, prompt=ids, echo=True, logprobs=1, max_tokens=1, temperature=0)["choices"][0]["logprobs"]
    assert len(found["tokens"]) == len(ids) + 1
    assert found["token_logprobs"][0] is None
    assert all(value < 0 for value in found["token_logprobs"][1:])
    assert found["token_logprobs"][-1] == max(found["top_logprobs"][-1].values())
    only = complete(server, prompt=ids, echo=True, logprobs=1, max_tokens=0)["choices"][0]
    assert only["logprobs"]["token_logprobs"] == found["token_logprobs"][:-1]
    assert only["text"] == "Once upon a time"


def test_a_response_format_is_kept(server: Running) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema, "strict": True}}
    found = chat(server, response_format=form, max_tokens=60)["choices"][0]
    assert json.loads(found["message"]["content"])["a"] in ("x", "y")
    anything = chat(server, response_format={"type": "json_object"}, max_tokens=60)["choices"][0]
    assert isinstance(json.loads(anything["message"]["content"]), dict)
    assert chat(server, response_format={"type": "text"})["choices"][0]["message"]["content"]


def test_roles_and_parts_of_contents_are_read(server: Running) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    fields = {"temperature": 0, "max_tokens": 8}
    assert (
        chat(server, messages=[{"role": "user", "content": parts}], **fields)["choices"][0]["message"]
        == chat(server, **fields)["choices"][0]["message"]
    )
    talk = [{"role": "developer", "content": "Be brief"}, *HELLO, {"role": "assistant", "content": "Hi"}, *HELLO]
    old = [{"role": "system", "content": "Be brief"}, *talk[1:]]
    assert (
        chat(server, messages=talk, **fields)["usage"]["prompt_tokens"]
        == chat(server, messages=old, **fields)["usage"]["prompt_tokens"]
    )


@pytest.mark.parametrize(
    ("path", "fields", "param", "words"),
    [
        (CHAT, {"temprature": 1}, "temprature", "no such field"),
        (CHAT, {"temperature": 3}, "temperature", "less than or equal to 2"),
        (CHAT, {"temperature": "1"}, "temperature", "valid number"),
        (CHAT, {"messages": []}, "messages", "at least 1"),
        (CHAT, {"messages": [{"role": "robot", "content": "x"}]}, "messages.0", "role"),
        (CHAT, {"messages": [{"role": "user"}]}, "messages.0.content", "missing"),
        (CHAT, {"messages": [*HELLO, {"role": "user", "content": [IMAGE]}]}, "messages.1.content.0", "image_url: "),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages.0.content.0", "file: files"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "messages.0.content.0.type", "'text'"),
        (CHAT, {"functions": []}, "functions", "use tools"),
        (CHAT, {"audio": {}}, "audio", "voice"),
        (CHAT, {"store": True}, "store", "keeps nothing"),
        (CHAT, {"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens", "give one"),
        (CHAT, {"top_logprobs": 2}, "top_logprobs", "only possible with logprobs"),
        (CHAT, {"tool_choice": "required"}, "tool_choice", "no tools"),
        (CHAT, {"stream_options": {"include_usage": True}}, "stream_options", "only possible with stream"),
        (CHAT, {"lora": "none"}, "lora", "no adapter 'none'"),
        (CHAT, {"prompt_cache": "none"}, "prompt_cache", "no prompt cache 'none'"),
        (CHAT, {"logit_bias": {"300": 1}}, "logit_bias", "no token 300"),
        (CHAT, {"n": 100}, None, "n is 100"),
        (CHAT, {"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4"),
        (COMPLETE, {"suffix": "x"}, "suffix", "does not fill in"),
        (COMPLETE, {"best_of": 2}, "best_of", "use n"),
        (COMPLETE, {"prompt": []}, "prompt", "0 are given"),
        (COMPLETE, {"prompt": [300]}, "prompt", "token 300"),
        (COMPLETE, {"prompt": [5] * 2049}, None, "the context is 2048"),
    ],
)
def test_what_is_not_possible_is_refused_by_name(
    server: Running, path: str, fields: dict[str, Any], param: str | None, words: str
) -> None:
    base: dict[str, Any] = {"messages": HELLO} if path == CHAT else {"prompt": "Once"}
    told = refused(server, path, 400, {"model": server.name, **base, **fields})
    assert told["param"] == param
    assert words in told["message"]


def test_fields_that_ask_for_nothing_are_taken(server: Running) -> None:
    chat(server, store=False, best_of=None, suffix=None, service_tier="auto", modalities=["text"], user="me")


def test_other_failures_have_openais_error_object(server: Running) -> None:
    assert refused(server, CHAT, 404, {"model": "x", "messages": HELLO})["code"] == "model_not_found"
    for bad in (b"{", b"[1]", b'{"a": NaN}', b"\xff", b"[" * 100000, b'{"model": "\\ud800"}'):
        assert refused(server, CHAT, 400, bad)["code"] == "invalid_json"
    assert refused(server, "/nowhere", 404, None)["message"].startswith("there is no route /nowhere")
    assert server.call(CHAT, None)[0] == 405
    assert refused(server, CHAT, 403, {"model": "x"}, Origin="http://elsewhere.example")["code"] == "origin"


OPENAIS: dict[str, Any] = {"error": {"message": "", "type": "invalid_request_error", "param": None, "code": None}}


@pytest.mark.parametrize(
    ("path", "length", "header", "status", "sentence", "told"),
    [
        (CHAT, 9 << 20, 0, 413, "the body is larger than 8388608 bytes", OPENAIS),
        ("/api/chat", 9 << 20, 0, 413, "the body is larger than 8388608 bytes", {"error": ""}),
        ("/rkllm_chat", 9 << 20, 0, 413, "the body is larger than 8388608 bytes", {"status": "error", "message": ""}),
        (CHAT, 0, 40000, 431, "the header is larger than 32768 bytes", OPENAIS),
    ],
)
def test_what_is_refused_before_it_is_read_is_told_as_everything_is(
    server: Running, path: str, length: int, header: int, status: int, sentence: str, told: dict[str, Any]
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 60) as client:
        client.sendall(f"POST {path} HTTP/1.1\r\nContent-Length: {length}\r\nX: {'x' * header}\r\n\r\n".encode())
        reply = http.client.HTTPResponse(client)
        reply.begin()
        assert (reply.status, reply.headers["Content-Type"]) == (status, "application/json")
        assert json.dumps(json.loads(reply.read())) == json.dumps(told).replace('""', f'"{sentence}"')


def test_a_header_that_cannot_be_read_is_refused_by_the_same_object(server: Running) -> None:
    for text in ("POST /api/chat HTTP/1.1\r\nBad Name: x\r\n\r\n", "GET\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), 60) as client:
            client.sendall(text.encode())
            reply = http.client.HTTPResponse(client)
            reply.begin()
            assert (reply.status, json.loads(reply.read())["error"]["type"]) == (400, "invalid_request_error")


def test_embeddings_are_unit_vectors(server: Running, llm: LLM) -> None:
    body = {"model": server.name, "input": ["a house", "a sea"]}
    found = server.call("/v1/embeddings", body)[2]
    vectors = [row["embedding"] for row in found["data"]]
    assert vectors[1] == pytest.approx(llm.embed("a sea", normalized=True).tolist(), abs=1e-6)
    coded = server.call("/v1/embeddings", {**body, "encoding_format": "base64"})[2]["data"][1]["embedding"]
    assert list(struct.unpack(f"<{len(vectors[1])}f", base64.b64decode(coded))) == pytest.approx(vectors[1])
    short = server.call("/v1/embeddings", {**body, "dimensions": 8})[2]["data"][0]["embedding"]
    assert len(short) == 8
    assert sum(value * value for value in short) == pytest.approx(1.0, abs=1e-5)
    assert refused(server, "/v1/embeddings", 400, {**body, "dimensions": 10000})["param"] == "dimensions"
    assert found["usage"]["prompt_tokens"] == sum(len(llm.tokenize(text)) for text in body["input"])


def test_tokens_of_texts_and_texts_of_tokens(server: Running, llm: LLM) -> None:
    found = server.call("/tokenize", {"content": "Once é", "with_pieces": True})[2]
    assert found["tokens"] == llm.tokenize("Once é").tolist()
    assert found["count"] == len(found["tokens"]) == len(found["pieces"])
    assert server.call("/detokenize", {"tokens": found["tokens"]})[2] == {"content": "Once é"}
    assert refused(server, "/detokenize", 400, {"tokens": [300]})["param"] == "tokens"


def test_the_server_tells_about_itself(server: Running) -> None:
    assert server.call("/health")[2] == {"status": "ok"}
    assert server.call("/ready")[2] == {"status": "ready"}
    assert [model["id"] for model in server.call("/v1/models")[2]["data"]] == [server.name]
    assert server.call(f"/v1/models/{server.name}")[2]["object"] == "model"
    chat(server)
    figures = server.call("/metrics")[2]
    lines = dict(line.rsplit(" ", 1) for line in figures.splitlines() if not line.startswith("#"))
    assert float(lines[f'rkllm_completion_tokens_total{{model="{server.name}"}}']) > 0
    assert float(lines["rkllm_time_to_first_token_seconds_count"]) > 0


def test_a_key_is_asked_for_everywhere_but_at_health(start: Callable[..., Running], tiny_model: Path) -> None:
    server = start(tiny_model, "--context", "256", "--api-key", "secret", "--log-json")
    try:
        paths = ["/v1/models", "/metrics", "/openapi.json", "/ready", "/api/tags", "/nowhere"]
        for path in paths:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
                assert server.call(path, **headers)[0] == 401, path
        assert server.call("/v1/models", Authorization="Bearer wrong")[2]["error"]["code"] == "invalid_api_key"
        assert server.call("/health")[0] == 200
        assert server.call("/v1/models", Authorization="Bearer secret")[0] == 200
    finally:
        assert server.stop() == 0
    rows = [json.loads(line) for line in server.lines]
    assert rows[0]["message"] == "RKLLM Model has been initialized successfully!"
    assert {row["status"] for row in rows[1:]} == {200, 401}
    assert all("secret" not in line for line in server.lines)
