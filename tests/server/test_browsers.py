# SPDX-License-Identifier: Apache-2.0
"""Browsers of other sites, and clients behind a proxy: who may ask, and whose turn it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rkllm_ext.errors import InvalidArgumentError

from .conftest import Running
from .test_http import CHAT, HELLO
from .test_load import until

SITE, OTHER = "https://chat.example.org", "https://chat.example.org.evil.example"
ASKED = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, content-type",
}


@pytest.fixture(scope="module")
def keyed(start: Callable[..., Running], tiny_model: Path) -> Iterator[Running]:
    """Return a server with a key whose answers one site may read."""
    running = start(tiny_model, "--context", "256", "--api-key", "secret", "--cors-origin", SITE)
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def proxied(start: Callable[..., Running], tiny_model: Path) -> Iterator[Running]:
    """Return a server without a key, behind a proxy on this machine, for one site."""
    options = ("--cors-origin", SITE, "--trusted-proxy", "127.0.0.1", "--log-json", "--parallel", "1")
    running = start(tiny_model, "--context", "256", *options)
    yield running
    assert running.stop() == 0


def test_a_browser_may_ask_for_an_invited_site_and_read_the_answer(keyed: Running) -> None:
    status, headers, _ = keyed.call(CHAT, method="OPTIONS", Origin=SITE, **ASKED)
    assert status == 200
    assert headers["Access-Control-Allow-Origin"] == SITE
    assert "POST" in headers["Access-Control-Allow-Methods"]
    assert "authorization" in headers["Access-Control-Allow-Headers"].lower()
    body = {"model": keyed.name, "messages": HELLO, "max_tokens": 3}
    for fields in ({}, {"stream": True}):
        status, headers, _ = keyed.call(CHAT, {**body, **fields}, Origin=SITE, Authorization="Bearer secret")
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, SITE)
    status, headers, _ = keyed.call(CHAT, body, Origin=SITE)  # so that the page sees what is wrong
    assert (status, headers["Access-Control-Allow-Origin"]) == (401, SITE)


def test_other_sites_are_not_invited(keyed: Running, proxied: Running, server: Running) -> None:
    for origin in (OTHER, "http://chat.example.org", "null"):
        _, headers, _ = keyed.call(CHAT, method="OPTIONS", Origin=origin, **ASKED)
        assert headers["Access-Control-Allow-Origin"] is None
        body = {"model": proxied.name, "messages": HELLO, "max_tokens": 3}
        assert proxied.call(CHAT, body, Origin=origin)[0] == 403
    assert proxied.call(CHAT, {"model": proxied.name, "messages": HELLO, "max_tokens": 3}, Origin=SITE)[0] == 200
    _, headers, _ = server.call(CHAT, method="OPTIONS", Origin=SITE, **ASKED)
    assert headers["Access-Control-Allow-Origin"] is None


@pytest.mark.parametrize("origin", ["chat.example.org", "https://chat.example.org/", "https://*.example.org", ""])
def test_what_is_no_origin_is_refused(tiny_model: Path, start: Callable[..., Running], origin: str) -> None:
    from rkllm_ext.server import create_app

    with pytest.raises(InvalidArgumentError, match="is no origin"):
        create_app(tiny_model, cors_origins=[origin])


def log_of(running: Running, path: str) -> dict[str, Any]:
    rows = [json.loads(line) for line in running.lines if '"path"' in line]
    return [row for row in rows if row["path"] == path][-1]


def test_behind_a_trusted_proxy_the_client_is_whom_it_names(proxied: Running) -> None:
    proxied.call("/v1/models/a", **{"X-Forwarded-For": "10.1.1.1, 10.2.2.2"})
    proxied.call("/v1/models/b")
    until(lambda: any("/v1/models/b" in line for line in proxied.lines))
    assert log_of(proxied, "/v1/models/a")["client"] == "10.2.2.2"  # whom the proxy saw; the rest anybody can write
    assert log_of(proxied, "/v1/models/b")["client"] == "127.0.0.1"


def test_without_a_proxy_nobody_can_be_somebody_else(start: Callable[..., Running], tiny_model: Path) -> None:
    running = start(tiny_model, "--context", "256", "--log-json")
    try:
        running.call("/v1/models/a", **{"X-Forwarded-For": "10.1.1.1"})
    finally:
        assert running.stop() == 0
    assert log_of(running, "/v1/models/a")["client"] == "127.0.0.1"
