# SPDX-License-Identifier: Apache-2.0
"""The Flask application for ASGI servers, with what waitress gives it: word of clients that go away.

`a2wsgi` and Starlette's middleware leave a thread behind, and an answer that goes on, when a client goes away.
"""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flask

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AsgiApp:
    """An application of `create_app` for an ASGI server.

    Parameters
    ----------
    app : flask.Flask
    threads : int
        Requests that are here at once; others wait.
    """

    def __init__(self, app: flask.Flask, threads: int) -> None:
        self.app = app
        self._threads = ThreadPoolExecutor(threads, "request")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})
        if scope["type"] != "http":
            return
        gone = threading.Event()
        environ = _environ(scope, await self._body(receive))
        environ["waitress.client_disconnected"] = gone.is_set
        # A thread never waits for a client; what waits here is an answer at most.
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(message: Message | None) -> None:
            loop.call_soon_threadsafe(messages.put_nowait, message)

        working = loop.run_in_executor(self._threads, _answer, self.app, environ, tell)
        watching = loop.create_task(_watch(receive, gone))
        try:
            while (message := await messages.get()) is not None:
                await send(message)
            await working
        finally:
            gone.set()
            watching.cancel()

    async def _body(self, receive: Receive) -> bytes:
        # Of a body that is too long only so much that the application sees it.
        most = int(self.app.config["MAX_CONTENT_LENGTH"])
        body = bytearray()
        more = True
        while more and len(body) <= most:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        return bytes(body)


def _answer(app: flask.Flask, environ: dict[str, Any], tell: Callable[[Message | None], None]) -> None:
    # In a thread of the pool.
    def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], None]:
        pairs = [(name.lower().encode("latin1"), value.encode("latin1")) for name, value in headers]
        tell({"type": "http.response.start", "status": int(status.split()[0]), "headers": pairs})
        return lambda data: tell({"type": "http.response.body", "body": data, "more_body": True})

    try:
        parts = app(environ, start)
        try:
            for part in parts:
                tell({"type": "http.response.body", "body": part, "more_body": True})
        finally:
            getattr(parts, "close", lambda: None)()
        tell({"type": "http.response.body", "body": b""})
    finally:
        tell(None)


async def _watch(receive: Receive, gone: threading.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()


def _environ(scope: Message, body: bytes) -> dict[str, Any]:
    host, port = scope.get("server") or ("localhost", 80)
    root = scope.get("root_path", "")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": root.encode().decode("latin1"),
        "PATH_INFO": scope["path"][len(root) if scope["path"].startswith(root) else 0 :].encode().decode("latin1"),
        "QUERY_STRING": scope["query_string"].decode("latin1"),
        "SERVER_NAME": host,
        "SERVER_PORT": str(port or 0),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": (scope.get("client") or ("", 0))[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin1").upper().replace("-", "_"), raw_value.decode("latin1")
        key = name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    environ["CONTENT_LENGTH"] = str(len(body))
    return environ
