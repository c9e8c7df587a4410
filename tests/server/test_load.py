# SPDX-License-Identifier: Apache-2.0
"""Many clients at once: nobody is forgotten, nobody holds up others, and an end is graceful."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Running
from .test_http import COMPLETE


class Client(threading.Thread):
    """Streams completions one after another until it is told to end; counts what came."""

    def __init__(self, server: Running, tokens: int, number: int) -> None:
        super().__init__(daemon=True)
        self._server, self._tokens, self._number = server, tokens, number
        self.over = threading.Event()
        self.received = 0
        self.statuses: list[int] = []
        self.failures: list[str] = []

    def run(self) -> None:
        body = {"model": self._server.name, "prompt": f"Once {self._number}", "max_tokens": self._tokens}
        body.update(stream=True, ignore_eos=True, user=str(self._number))
        while not self.over.is_set():
            try:
                self._one(json.dumps(body))
            except Exception as error:
                self.failures.append(repr(error))
                return

    def _one(self, body: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=120)
        connection.request("POST", COMPLETE, body)
        reply = connection.getresponse()
        self.statuses.append(reply.status)
        if reply.status != 200:
            assert reply.status in (429, 503) and reply.headers["Retry-After"]
            reply.read()
            time.sleep(0.05)
            return
        last = b""
        for line in reply:
            if line.startswith(b"data: "):
                self.received += last.startswith(b"data: {")
                last = line
        assert last == b"data: [DONE]\n", last
        connection.close()


def memory_of(process: int) -> int:
    """Return the resident memory of a process, bytes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def load(server: Running, seconds: float) -> None:
    clients = [Client(server, 12, number) for number in range(64)]
    for client in clients:
        client.start()
    time.sleep(seconds / 2)
    half = memory_of(server.process.pid)
    time.sleep(seconds / 2)
    for client in clients:
        client.over.set()
    for client in clients:
        client.join(120)
    assert [failure for client in clients for failure in client.failures] == []
    counts = sorted(client.received for client in clients)
    refused = sum(status != 200 for client in clients for status in client.statuses)
    print(f"{sum(counts)} tokens, {counts[0]} ... {counts[-1]} of a client, {refused} refused")
    assert counts[0] >= statistics.median(counts) / 2
    assert memory_of(server.process.pid) < half * 1.2 + 2**24
    assert refused == 0
    figures = server.call("/metrics")[2]
    assert 'rkllm_active{model="tiny"} 0.0' in figures
    assert 'rkllm_waiting{model="tiny"} 0.0' in figures


@pytest.mark.parametrize("seconds", [4.0, pytest.param(60.0, marks=pytest.mark.slow)])
def test_64_streaming_clients_are_served_evenly(
    start: Callable[..., Running], tiny_model: Path, seconds: float
) -> None:
    server = start(tiny_model, "--context", "256", "--parallel", "8", "--max-queue", "64")
    try:
        load(server, seconds)
    finally:
        assert server.stop() == 0


def test_a_full_queue_refuses_with_retry_after(start: Callable[..., Running], tiny_model: Path) -> None:
    server = start(tiny_model, "--context", "65536", "--parallel", "1", "--max-queue", "1")
    try:
        streams = [open_stream(server, 60000) for _ in range(2)]
        until(lambda: figure(server, "waiting") == 1.0)
        status, headers, told = server.call(COMPLETE, {"model": "tiny", "prompt": "a"})
        assert (status, headers["Retry-After"]) == (429, "2")
        assert told["error"]["code"] == "queue_full"
        assert server.call("/health")[0] == 200
        for stream in streams:
            stream.close()
    finally:
        assert server.stop() == 0


def open_stream(server: Running, tokens: int, **fields: Any) -> socket.socket:
    """Return a connection on which an answer is asked for, and nothing is read."""
    body = {"model": server.name, "prompt": "Once", "max_tokens": tokens, "stream": True, "ignore_eos": True, **fields}
    data = json.dumps(body).encode()
    client = socket.create_connection(("127.0.0.1", server.port), 60)
    client.sendall(f"POST {COMPLETE} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    return client


def figure(server: Running, name: str) -> float:
    lines = server.call("/metrics")[2].splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"rkllm_{name}{{"))


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that must happen."""
    for _ in range(600):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it has not happened")


@pytest.mark.parametrize("stream", [True, False])
def test_who_goes_away_frees_the_place(start: Callable[..., Running], tiny_model: Path, stream: bool) -> None:
    server = start(tiny_model, "--context", "65536", "--parallel", "1")
    try:
        running = open_stream(server, 60000, stream=stream)
        until(lambda: figure(server, "active") == 1.0)
        waiting = open_stream(server, 60000, stream=stream)
        until(lambda: figure(server, "waiting") == 1.0)
        waiting.close()
        until(lambda: figure(server, "waiting") == 0.0)
        running.close()
        until(lambda: figure(server, "active") == 0.0)
        assert figure(server, "cancelled_total") == 2.0
        assert figure(server, "completion_tokens_total") < 60000
    finally:
        assert server.stop() == 0


def test_who_waits_for_embeddings_and_goes_away_is_not_computed(
    start: Callable[..., Running], tiny_model: Path
) -> None:
    server = start(tiny_model, "--context", "65536", "--threads", "1")
    routes = 'http_responses_total{route="/v1/embeddings",status='
    try:
        # Long ones, so that there is somebody to wait for.
        running = ask_embeddings(server, [[5] * 16000] * 4)
        until(lambda: figure(server, "embeddings_waiting") == 1.0)
        waiting = ask_embeddings(server, [[6] * 16000] * 40)
        until(lambda: figure(server, "embeddings_waiting") == 2.0)
        waiting.close()
        until(lambda: f'{routes}"499"}} 1.0' in server.call("/metrics")[2])
        assert f'{routes}"200"}}' not in server.call("/metrics")[2]  # the first one is still at it
        running.close()
        until(lambda: figure(server, "embeddings_waiting") == 0.0)
    finally:
        assert server.stop() == 0


def ask_embeddings(server: Running, prompts: list[list[int]]) -> socket.socket:
    """Return a connection on which vectors are asked for."""
    data = json.dumps({"model": server.name, "input": prompts}).encode()
    client = socket.create_connection(("127.0.0.1", server.port), 60)
    client.sendall(f"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    return client


def test_slow_readers_hold_nobody_up(start: Callable[..., Running], tiny_model: Path) -> None:
    server = start(tiny_model, "--context", "16384", "--parallel", "2", "--max-queue", "8")
    try:
        slow = [
            open_stream(server, 8000) for _ in range(4)
        ]  # more than are computed at once; megabytes that nobody reads
        until(lambda: figure(server, "active") == 2.0)
        assert server.call(COMPLETE, {"model": "tiny", "prompt": "Once", "max_tokens": 5})[0] == 200
        until(lambda: figure(server, "active") == 0.0)
        read = b""
        while not read.endswith(b"0\r\n\r\n"):
            read += slow[0].recv(2**16)
        assert read.count(b"data: {") == 8000
        for each in slow:
            each.close()
    finally:
        assert server.stop() == 0


def test_sigterm_lets_answers_end_and_takes_no_new_ones(start: Callable[..., Running], tiny_model: Path) -> None:
    server = start(tiny_model, "--context", "8192", "--parallel", "1")
    clients = [open_stream(server, 6000) for _ in range(3)]
    until(lambda: figure(server, "active") == 1.0)
    server.process.send_signal(signal.SIGTERM)
    for client in clients:
        read = b""
        while more := client.recv(2**16):
            read += more
            if read.endswith(b"0\r\n\r\n"):
                break
        assert read.count(b"data: {") == 6000
        assert b"data: [DONE]" in read
    assert server.ended() == 0
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.port), 5)


def test_an_end_does_not_wait_for_ever(start: Callable[..., Running], tiny_model: Path) -> None:
    server = start(tiny_model, "--context", "65536", "--drain", "0.5")
    client = open_stream(server, 60000)
    until(lambda: figure(server, "active") == 1.0)
    assert server.stop() == 1
    assert not any("Traceback" in line for line in server.lines), server.lines
    client.close()


def test_an_answer_that_nobody_reads_does_not_hold_up_an_end_and_is_told(
    start: Callable[..., Running], tiny_model: Path
) -> None:
    server = start(tiny_model, "--context", "8192", "--drain", "0.5")
    client = open_stream(server, 8000, n=4)  # more than the system keeps for a connection
    until(lambda: figure(server, "completion_tokens_total") >= 32000)
    until(lambda: figure(server, "active") == 0.0)
    assert server.stop() == 1
    client.close()


def test_a_killed_server_starts_again(start: Callable[..., Running], tiny_model: Path) -> None:
    server = start(tiny_model, "--context", "256")
    body = {"model": "tiny", "prompt": "Once", "max_tokens": 9, "seed": 1}
    before = server.call(COMPLETE, body)[2]["choices"]
    server.process.kill()
    server.ended()
    again = start(tiny_model, "--context", "256", "--port", str(server.port))
    assert again.port == server.port
    assert again.call(COMPLETE, body)[2]["choices"] == before
    assert again.stop() == 0


def test_the_benchmark_measures_engine_and_server(start: Callable[..., Running], tiny_model: Path, repo: Path) -> None:
    script = repo / "benchmarks" / "bench_server.py"
    options = ["--tokens", "6", "--rounds", "1", "--clients", "1", "2", "--json"]
    ran = subprocess.run([sys.executable, script, tiny_model, *options], capture_output=True, text=True, check=True)
    speeds = json.loads(ran.stdout)["tokens_per_second"]
    assert set(speeds) == {"engine", "sessions, 1", "sessions, 2", "server, 1", "server, 2"}
    assert min(speeds.values()) > 0
