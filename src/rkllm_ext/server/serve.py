# SPDX-License-Identifier: Apache-2.0
"""Running the application: waitress, a graceful end on SIGTERM, and log lines."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import flask
from waitress import create_server, wasyncore
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer
from waitress.task import ErrorTask

from .models import Models
from .refusals import Refusal
from .request import LOG
from .serving import to_json

_SPARE_THREADS = 8  # for requests that are answered at once, and those that are refused
_TICK = 0.5  # seconds between two looks at whether the server is to end
_MOST_HEADER = 32768  # bytes
_MOST_CONNECTIONS = 512
_IDLE = 60  # seconds without a byte after which a connection is closed


class JsonLines(logging.Formatter):
    """Log records as JSON objects, one a line."""

    _FIELDS = ("method", "path", "client", "status", "seconds")

    def format(self, record: logging.LogRecord) -> str:
        row: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        row.update({name: getattr(record, name) for name in self._FIELDS if hasattr(record, name)})
        if record.exc_info:
            row["exception"] = self.formatException(record.exc_info)
        return json.dumps(row, ensure_ascii=False)


def log_to_stderr(as_json: bool) -> None:
    """Let the server's log go to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else logging.Formatter("%(asctime)s %(message)s"))
    LOG.handlers[:] = [handler]
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)


class _ErrorTask(ErrorTask):  # type: ignore[misc]
    """Tells what waitress refuses before the application sees it, in the application's words."""

    def execute(self) -> None:
        error, limits = self.request.error, self.channel.server.adj
        sentences = {
            413: f"the body is larger than {limits.max_request_body_size} bytes",
            431: f"the header is larger than {limits.max_request_header_size} bytes",
        }
        kind = "invalid_request_error" if error.code < 500 else "server_error"
        refusal = Refusal(error.code, sentences.get(error.code, error.body), kind)
        path = getattr(self.request, "path", "")  # of a header that cannot be read there is none
        data = to_json(refusal.body(path)).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(data)
        self.write(data)


class _Channel(HTTPChannel):  # type: ignore[misc]
    error_task_class = _ErrorTask


class Server:
    """An application on a port.

    Parameters
    ----------
    app : flask.Flask
        Of `create_app`.
    host : str
    port : int
        0: any that is free.
    drain : float
        Seconds that requests have to end when the server is stopped.
    trusted_proxy : str, optional
        The address of a proxy whose `X-Forwarded-For` and `X-Forwarded-Proto` say who the client is; "*": any.

    Attributes
    ----------
    port : int
        It listens on.
    """

    def __init__(
        self,
        app: flask.Flask,
        host: str = "127.0.0.1",
        port: int = 8080,
        drain: float = 30.0,
        trusted_proxy: str | None = None,
    ) -> None:
        self._models: Models = app.extensions["rkllm"]
        first = self._models.first
        self._channels: dict[int, Any] = {}
        self._server = create_server(
            app,
            map=self._channels,
            host=host,
            port=port,
            # Whoever waits or is answered has a thread; idle ones cost next to nothing.
            threads=first.parallel + first.max_queue + _SPARE_THREADS,
            channel_request_lookahead=1,  # so that it is noticed when a client goes away
            max_request_body_size=app.config["MAX_CONTENT_LENGTH"],
            max_request_header_size=_MOST_HEADER,
            connection_limit=_MOST_CONNECTIONS,
            channel_timeout=_IDLE,
            cleanup_interval=5,
            asyncore_use_poll=True,
            ident="rkllm_ext",
            trusted_proxy=trusted_proxy,
            trusted_proxy_headers={"x-forwarded-for", "x-forwarded-proto"} if trusted_proxy else set(),
            clear_untrusted_proxy_headers=True,
        )
        for listener in self._listeners:
            listener.channel_class = _Channel
        self.port = int(self._listeners[0].socket.getsockname()[1])
        self._drain = drain
        self._signals = 0

    @property
    def _listeners(self) -> list[BaseWSGIServer]:
        return [each for each in self._channels.values() if isinstance(each, BaseWSGIServer)]

    def stop(self) -> None:
        """End gracefully; a second call ends at once. May be called in a signal handler."""
        self._signals += 1

    def stop_on_signals(self) -> None:
        """Let SIGTERM and SIGINT stop the server."""

        def handler(_: int, __: FrameType | None) -> None:
            self.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, handler)

    def run(self) -> bool:
        """Serve until `stop`. Return whether all requests have ended by themselves and all answers have been sent."""
        self._loop_until(lambda: self._signals > 0)
        deadline = time.monotonic() + self._drain
        dispatcher = self._listeners[0].task_dispatcher
        for listener in self._listeners:  # who comes now is told so by the system, and asks another server
            wasyncore.dispatcher.close(listener)
        drained: list[bool] = []
        waiter = threading.Thread(target=lambda: drained.append(self._models.drain(self._drain)), daemon=True)
        waiter.start()
        self._loop_until(lambda: bool(drained) or self._signals > 1)
        done = bool(drained and drained[0])
        if done:  # what has been answered is on its way to slow clients
            self._loop_until(lambda: self._all_sent() or self._signals > 1 or time.monotonic() > deadline)
            done = self._all_sent()
        self._models.close()
        dispatcher.shutdown(cancel_pending=True, timeout=2)
        return done

    def _all_sent(self) -> bool:
        return not any(
            getattr(channel, "requests", None) or getattr(channel, "total_outbufs_len", 0)
            for channel in list(self._channels.values())
        )

    def _loop_until(self, is_over: Callable[[], bool]) -> None:
        while not is_over():
            wasyncore.loop(timeout=_TICK, use_poll=True, map=self._channels, count=1)
