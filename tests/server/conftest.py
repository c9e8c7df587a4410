# SPDX-License-Identifier: Apache-2.0
"""A real server process on loopback, and small clients of it."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NEEDED = ("flask", "waitress", "pydantic", "prometheus_client", "llguidance")


class Running:
    """A server process, `serve` or `ui`. `ended()` waits for its exit status."""

    def __init__(self, model: Path, *options: str, command: str = "serve") -> None:
        program = "from rkllm_ext.cli import main; main()"
        arguments = [sys.executable, "-c", program, command, str(model), "--port", "0", *options]
        self.process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.lines: list[str] = []
        while " is served on " not in (line := self.process.stderr.readline()):
            assert line, f"the server has ended: {self.lines}"
            self.lines.append(line)
        self.url = line.split(" is served on ")[1].split(",")[0]
        self.port = int(self.url.rpartition(":")[2])
        self.name = model.stem
        self._reader = threading.Thread(target=self._read, daemon=True)  # so that the server never waits for us
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines += self.process.stderr

    def call(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> tuple[int, Any, Any]:
        """Return status, headers and the body, read as JSON where it is."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                status, found, raw = reply.status, reply.headers, reply.read()
        except urllib.error.HTTPError as error:
            status, found, raw = error.code, error.headers, error.read()
        is_json = found.get_content_type() == "application/json"
        return status, found, json.loads(raw) if is_json else raw.decode()

    def stop(self) -> int:
        """Send SIGTERM; return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        status = self.process.wait(timeout=120)
        self._reader.join()
        return status


@pytest.fixture(scope="session")
def start() -> Callable[..., Running]:
    """Return what starts a server process, or skip where the extra is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs the extra server: {', '.join(missing)}")
    return Running


@pytest.fixture(scope="session")
def server(start: Callable[..., Running], tiny_model: Path) -> Iterator[Running]:
    """Return a server that all tests of a run share."""
    running = start(tiny_model, "--context", "2048", "--parallel", "4", "--max-queue", "16")
    yield running
    assert running.stop() == 0
    assert not any("Traceback" in line for line in running.lines), running.lines
