# SPDX-License-Identifier: Apache-2.0
"""The genuine clients against a server with the model of `rkllm-ext demo`, whose answers make sense.

Nothing is fetched for them: they are skipped where the demo has not run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rkllm_ext import LLM
from rkllm_ext.sources import SMOLLM2, cache_folder, cached_conversion, packaged_model

from .conftest import Running
from .test_tools import WEATHER, arguments_fit

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
COUNTRIES = ("France", "Germany", "Italy", "Spain")


@pytest.fixture(scope="module")
def demo_model() -> Path:
    if not any(cache_folder().glob(f"models/*{SMOLLM2.name}")):
        pytest.skip("needs the demo's model: rkllm-ext demo fetches it")
    return cached_conversion(packaged_model(), "w4a16_g32")


@pytest.fixture(scope="module")
def demo(start: Callable[..., Running], demo_model: Path) -> Iterator[Running]:
    running = start(demo_model, "--context", "2048", "--name", "demo")
    running.name = "demo"
    yield running
    assert running.stop() == 0
    assert not any("Traceback" in line for line in running.lines), running.lines


@pytest.fixture
def client(demo: Running) -> Any:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key="none", max_retries=0, timeout=300) as client:
        yield client


def ask(client: Any, country: str, **fields: Any) -> Any:
    messages = [{"role": "user", "content": f"What is the capital of {country}?"}]
    return client.chat.completions.create(model="demo", messages=messages, temperature=0, max_tokens=24, **fields)


def test_openai_gets_the_models_own_answer_whole_and_streamed(client: Any, demo_model: Path) -> None:
    whole = ask(client, "France").choices[0]
    with LLM(demo_model, max_context_len=2048) as llm:
        expected = llm.chat(FRANCE, max_new_tokens=24, temperature=0.0, repeat_penalty=1.0)
    assert whole.message.content == expected.text
    assert whole.finish_reason == expected.finish_reason
    assert "Paris" in whole.message.content
    parts = ask(client, "France", stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole.message.content


def test_clients_at_the_same_time_get_the_answers_of_single_ones(client: Any) -> None:
    def streamed(country: str) -> str:
        return "".join(part.choices[0].delta.content or "" for part in ask(client, country, stream=True))

    alone = {country: ask(client, country).choices[0].message.content for country in COUNTRIES}
    with ThreadPoolExecutor(len(COUNTRIES)) as pool:
        together = dict(zip(COUNTRIES, pool.map(streamed, COUNTRIES)))
    assert together == alone
    assert "Paris" in together["France"]


def test_a_conversation_is_answered_as_a_whole(client: Any, demo_model: Path) -> None:
    talk = [{"role": "user", "content": "My name is Ada."}, {"role": "assistant", "content": "Nice to meet you, Ada."}]
    talk.append({"role": "user", "content": "What is my name?"})
    found = client.chat.completions.create(model="demo", messages=talk, temperature=0, max_tokens=16)
    with LLM(demo_model, max_context_len=2048) as llm:
        expected = llm.chat(talk, max_new_tokens=16, temperature=0.0, repeat_penalty=1.0)
        assert found.usage.prompt_tokens == llm.count_tokens(talk) > llm.count_tokens(talk[-1:])
    assert found.choices[0].message.content == expected.text


def test_answers_have_their_schema_and_calls_their_arguments(client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"capital": {"type": "string", "maxLength": 20}, "letters": {"type": "integer"}},
        "required": ["capital", "letters"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "capital", "schema": schema, "strict": True}}
    found = json.loads(ask(client, "France", response_format=form).choices[0].message.content)
    assert "Paris" in found["capital"]
    assert isinstance(found["letters"], int)
    call = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "How is the weather in Rome tomorrow?"}],
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=80,
    )
    arguments_fit(call.choices[0].message.tool_calls[0].model_dump())
    assert call.choices[0].finish_reason == "tool_calls"


def test_embeddings_of_like_texts_are_closer(client: Any) -> None:
    texts = ["The cat sleeps on the sofa.", "A kitten is sleeping on the couch.", "Shares fell on the stock exchange."]
    rows = [row.embedding for row in client.embeddings.create(model="demo", input=texts).data]
    like, unlike = (sum(a * b for a, b in zip(rows[0], other)) for other in rows[1:])
    assert like > unlike


def test_ollama_answers(demo: Running) -> None:
    ollama = pytest.importorskip("ollama")
    client = ollama.Client(host=demo.url)
    options = {"temperature": 0, "num_predict": 24, "repeat_penalty": 1.0}
    whole = client.chat("demo", messages=FRANCE, options=options).message.content
    assert "Paris" in whole
    parts = client.chat("demo", messages=FRANCE, options=options, stream=True)
    assert "".join(part.message.content for part in parts) == whole


def test_litellm_answers(demo: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or its import asks another machine for prices
    litellm = pytest.importorskip("litellm")
    fields = {"model": "openai/demo", "api_base": f"{demo.url}/v1", "api_key": "none", "num_retries": 0}
    found = litellm.completion(messages=FRANCE, temperature=0, max_tokens=24, **fields)
    assert "Paris" in found.choices[0].message.content


def test_langchain_answers(demo: Running) -> None:
    langchain = pytest.importorskip("langchain_openai")
    model = langchain.ChatOpenAI(
        model="demo", base_url=f"{demo.url}/v1", api_key="none", max_tokens=24, temperature=0, max_retries=0
    )
    assert "Paris" in "".join(str(part.content) for part in model.stream(FRANCE[0]["content"]))


def test_the_page_answers(start: Callable[..., Running], demo_model: Path) -> None:
    pytest.importorskip("gradio", reason="needs the extra ui (gradio)")
    from gradio_client import Client

    page = start(demo_model, "--context", "2048", command="ui")
    try:
        client = Client(page.url, verbose=False, analytics_enabled=False)
        _, history = client.predict(user_message=FRANCE[0]["content"], history=[], api_name="/get_user_input")
        seen = list(client.submit(history=history, api_name="/get_RKLLM_output"))
        assert len(seen) > 1
        assert len(seen[-1][-1][1].split()) >= 3
    finally:
        assert page.stop() == 0
