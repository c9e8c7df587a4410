# SPDX-License-Identifier: Apache-2.0
"""The application behind an ASGI server: the same answers, and clients that go away."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import NEEDED

if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
    pytest.skip(f"needs the extra server: {', '.join(missing)}", allow_module_level=True)
from rkllm_ext.server import create_app
from rkllm_ext.server.asgi import AsgiApp


@pytest.fixture(scope="module")
def app(tiny_model: Path) -> Iterator[AsgiApp]:
    app = AsgiApp(create_app(tiny_model, parallel=1, max_context_len=65536, most_body=20_000), 4)
    yield app
    app.app.extensions["rkllm"].close()


def scope_of(method: str, path: str) -> dict[str, Any]:
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    fixed = {"type": "http", "http_version": "1.1", "query_string": b"", "headers": headers, "client": ("1.2.3.4", 5)}
    return {**fixed, "method": method, "path": path}


def call(app: AsgiApp, method: str, path: str, body: bytes = b"", leave_after: int | None = None) -> tuple[int, bytes]:
    """Return status and body; the client goes away after so many messages."""

    async def run() -> tuple[int, bytes]:
        left = asyncio.Event()
        parts = [
            {"type": "http.request", "body": body[:7], "more_body": True},
            {"type": "http.request", "body": body[7:]},
        ]
        got: list[Any] = []

        async def receive() -> Any:
            if parts:
                return parts.pop(0)
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            got.append(message)
            if len(got) == leave_after:
                left.set()

        await app(scope_of(method, path), receive, send)
        assert [each["type"] for each in got[:2]] == ["http.response.start", "http.response.body"]
        return got[0]["status"], b"".join(each.get("body", b"") for each in got[1:])

    return asyncio.run(run())


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "tiny", "prompt": "Once upon a time", "max_tokens": 20, "seed": 1, **fields}).encode()


def test_answers_are_those_of_the_application(app: AsgiApp) -> None:
    assert call(app, "GET", "/health") == (200, b'{"status":"ok"}')
    expected = app.app.test_client().post("/v1/completions", data=body()).get_json()["choices"]
    status, found = call(app, "POST", "/v1/completions", body())
    assert (status, json.loads(found)["choices"]) == (200, expected)


def test_a_stream_comes_in_pieces_with_the_same_text(app: AsgiApp) -> None:
    status, found = call(app, "POST", "/v1/completions", body(stream=True))
    rows = [line[6:] for line in found.decode().splitlines() if line.startswith("data: ")]
    text = "".join(json.loads(row)["choices"][0]["text"] for row in rows[:-1])
    whole = json.loads(call(app, "POST", "/v1/completions", body())[1])["choices"][0]["text"]
    assert (status, rows[-1], text) == (200, "[DONE]", whole)


def test_a_body_that_is_too_long_is_refused(app: AsgiApp) -> None:
    status, found = call(app, "POST", "/v1/completions", body(prompt="a" * 50_000))
    assert status == 413
    assert "larger than 20000 bytes" in json.loads(found)["error"]["message"]


def test_a_client_that_goes_away_frees_its_place(app: AsgiApp) -> None:
    engine = app.app.extensions["rkllm"].first
    before = engine.counters.cancelled
    call(app, "POST", "/v1/completions", body(stream=True, max_tokens=60000, ignore_eos=True), leave_after=3)
    deadline = time.monotonic() + 60
    while engine.counters.cancelled == before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.counters.cancelled == before + 1
