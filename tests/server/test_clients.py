# SPDX-License-Identifier: Apache-2.0
"""The real client packages against a real server: openai, ollama, litellm, langchain-openai."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Running
from .test_http import HELLO
from .test_tools import WEATHER, arguments_fit

NAMED: dict[str, Any] = {"type": "function", "function": {"name": "weather"}}


@pytest.fixture
def client(server: Running) -> Any:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def test_openai_answers_whole_and_streamed(client: Any, server: Running) -> None:
    fields = {"model": server.name, "messages": HELLO, "max_tokens": 20, "seed": 1}
    whole = client.chat.completions.create(**fields)
    stream = client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **fields)
    parts = list(stream)
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content
    assert parts[-1].usage.completion_tokens == whole.usage.completion_tokens == 20
    assert client.completions.create(model=server.name, prompt="Once", max_tokens=5, seed=1).choices[0].text
    assert [model.id for model in client.models.list()] == [server.name]


def test_openai_makes_embeddings(client: Any, server: Running) -> None:
    # The package asks for base64 and decodes it.
    found = client.embeddings.create(model=server.name, input=["one", "two"])
    assert len(found.data) == 2
    assert sum(value * value for value in found.data[0].embedding) == pytest.approx(1.0, abs=1e-4)


def test_openai_parses_answers_of_a_schema(client: Any, server: Running) -> None:
    from typing import Literal

    pydantic = pytest.importorskip("pydantic")
    Choice = pydantic.create_model("Choice", letter=(Literal["x", "y"], ...))
    found = client.chat.completions.parse(
        model=server.name, messages=HELLO, response_format=Choice, max_completion_tokens=60
    )
    assert found.choices[0].message.parsed.letter in ("x", "y")


def test_openai_reads_calls_and_errors(client: Any, server: Running) -> None:
    import openai

    fields = {"model": server.name, "messages": HELLO, "tools": [WEATHER], "tool_choice": NAMED, "max_tokens": 80}
    call = client.chat.completions.create(**fields).choices[0].message.tool_calls[0]
    arguments_fit(call.model_dump())
    pieces = [
        part.choices[0].delta.tool_calls[0].function.arguments
        for part in client.chat.completions.create(stream=True, **fields)
        if part.choices[0].delta.tool_calls
    ]
    assert set(json.loads("".join(pieces))) == {"city", "days"}
    with pytest.raises(openai.NotFoundError, match="no model 'x'"):
        client.chat.completions.create(model="x", messages=HELLO)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=server.name, messages=HELLO, extra_body={"top_q": 1})
    assert caught.value.param == "top_q"


def test_ollama_chats_generates_and_lists(server: Running) -> None:
    ollama = pytest.importorskip("ollama")
    client = ollama.Client(host=server.url)
    options = {"seed": 2, "num_predict": 16}
    whole = client.chat(server.name, messages=HELLO, options=options)
    parts = list(client.chat(server.name, messages=HELLO, options=options, stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert parts[-1].eval_count == whole.eval_count
    assert client.generate(server.name, "Once", options=options).response
    assert client.list().models[0].model == f"{server.name}:latest"
    assert "completion" in client.show(server.name).capabilities
    assert len(client.embed(server.name, ["a", "b"]).embeddings) == 2
    with pytest.raises(ollama.ResponseError, match="no model 'x'"):
        client.chat("x", messages=HELLO)


def test_litellm_answers_and_streams(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or its import asks another machine for prices
    litellm = pytest.importorskip("litellm")
    fields = {
        "model": f"openai/{server.name}",
        "api_base": f"{server.url}/v1",
        "api_key": "none",
        "messages": HELLO,
        "max_tokens": 12,
        "seed": 3,
        "num_retries": 0,
    }
    whole = litellm.completion(**fields)
    parts = list(litellm.completion(stream=True, **fields))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole.choices[0].message.content
    assert whole.usage.completion_tokens == 12


def test_langchain_answers_streams_and_binds_functions(server: Running) -> None:
    langchain = pytest.importorskip("langchain_openai")
    model = langchain.ChatOpenAI(
        model=server.name, base_url=f"{server.url}/v1", api_key="none", max_tokens=12, seed=4, max_retries=0
    )
    whole = model.invoke("Hello")
    parts = list(model.stream("Hello"))
    assert "".join(str(part.content) for part in parts) == whole.content
    assert whole.usage_metadata["output_tokens"] == 12
    calling = model.bind(max_tokens=80).bind(tools=[WEATHER], tool_choice=NAMED)
    assert set(calling.invoke("Hello").tool_calls[0]["args"]) == {"city", "days"}
