# SPDX-License-Identifier: Apache-2.0
"""Two servers behind Debian's nginx, with the configuration of docs/scaling.md."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from .conftest import Running


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Nginx:
    """nginx in front of two ports, as a process."""

    def __init__(self, repo: Path, folder: Path, ports: tuple[int, int]) -> None:
        text = (repo / "docs" / "scaling.md").read_text()
        block = re.search(r"<!-- test: nginx -->\n```nginx\n(.*?)```", text, re.DOTALL)
        assert block is not None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        http = block[1].replace("listen 80;", f"listen 127.0.0.1:{self.port};")
        for address, port in zip(("192.168.1.11:8080", "192.168.1.12:8080"), ports):
            assert address in http
            http = http.replace(address, f"127.0.0.1:{port}")
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        own = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
        user = "user root;\n" if os.geteuid() == 0 else ""
        head = f"{user}daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        (folder / "nginx.conf").write_text(f"{head}http {{\naccess_log off;\n{own}{http}}}\n")
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        self.process = subprocess.Popen([program, "-p", folder, "-c", folder / "nginx.conf"])
        wait_for(self._listens)

    def _listens(self) -> bool:
        assert self.process.poll() is None
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def open(self, path: str, body: Any = None, **headers: str) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        return urllib.request.urlopen(request, timeout=120)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module", autouse=True)
def needs_nginx() -> None:
    if shutil.which("nginx") is None and not Path("/usr/sbin/nginx").exists():
        pytest.skip("needs nginx: apt-get install nginx-light")


@pytest.fixture
def pair(start: Callable[..., Running], tiny_model: Path) -> Iterator[list[Running]]:
    options = ("--context", "65536", "--parallel", "2", "--trusted-proxy", "127.0.0.1", "--log-json")
    servers = [start(tiny_model, *options) for _ in range(2)]
    yield servers
    for server in servers:
        if server.process.poll() is None:
            assert server.stop() == 0


@pytest.fixture
def balancer(repo: Path, tmp_path: Path, pair: list[Running]) -> Iterator[Nginx]:
    nginx = Nginx(repo, tmp_path, (pair[0].port, pair[1].port))
    yield nginx
    nginx.close()


def question(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": text, "max_tokens": 4, "temperature": 0, **fields}


def metrics(server: Running) -> str:
    _, _, text = server.call("/metrics")
    return str(text)


def answered(server: Running) -> int:
    """Return how many completions a server has answered."""
    found = re.search(r'^rkllm_http_responses_total{route="/v1/completions",status="200"} (\S+)', metrics(server), re.M)
    return int(float(found[1])) if found else 0


def test_a_conversation_stays_with_its_server_and_finds_its_beginning(balancer: Nginx, pair: list[Running]) -> None:
    story = "Once upon a time there was a robot who lived by the sea. " * 5
    for name in range(8):
        cached = []
        before = [answered(server) for server in pair]
        for turn in range(3):
            body = question(f"{name} {story}{'And then? ' * turn}")
            with balancer.open("/v1/completions", body, **{"X-Session-Id": f"conversation {name}"}) as reply:
                cached.append(json.load(reply)["usage"]["prompt_tokens_details"]["cached_tokens"])
        assert all(count > 20 for count in cached[1:])
        assert sorted(after - old for old, after in zip(before, map(answered, pair))) == [0, 3]
    assert all(answered(server) for server in pair)


def test_a_server_that_ends_is_replaced_by_the_other(balancer: Nginx, pair: list[Running]) -> None:
    pair[0].stop()
    for name in range(8):
        with balancer.open("/v1/completions", question("Hello"), **{"X-Session-Id": str(name)}) as reply:
            assert reply.status == 200
    assert answered(pair[1]) == 8


def test_a_client_that_goes_away_frees_its_place(balancer: Nginx, pair: list[Running]) -> None:
    def cancelled() -> bool:
        return any(re.search(r"cancelled[^ \n]* 1(\.0)?$", metrics(server), re.M) for server in pair)

    endless = question("Hello", max_tokens=60000, ignore_eos=True, stream=True)
    assert not cancelled()
    with balancer.open("/v1/completions", endless) as reply:
        assert reply.readline().startswith(b"data: ")
    wait_for(cancelled)


def test_servers_know_the_address_of_each_user(balancer: Nginx, pair: list[Running]) -> None:
    for address in ("127.0.0.2", "127.0.0.3"):
        client = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=60, source_address=(address, 0))
        client.request("GET", "/v1/models", headers={"X-Forwarded-For": "10.9.9.9"})  # what a client says counts not
        assert client.getresponse().status == 200
        client.close()

    def named() -> set[str]:
        rows = [json.loads(line) for server in pair for line in server.lines if '"path"' in line]
        return {row["client"] for row in rows if row["path"] == "/v1/models"}

    wait_for(lambda: named() == {"127.0.0.2", "127.0.0.3"})


def test_metrics_are_those_of_each_server(balancer: Nginx) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        balancer.open("/metrics")


def test_each_piece_of_a_stream_is_passed_on_at_once(repo: Path, tmp_path: Path) -> None:
    go_on = threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(b"data: 1\n\n")
            self.wfile.flush()
            if go_on.wait(60):
                self.wfile.write(b"data: 2\n\n")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as upstream:
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        port = upstream.server_address[1]
        nginx = Nginx(repo, tmp_path, (port, port))
        try:
            with nginx.open("/v1/completions", {}) as reply:
                assert reply.readline() == b"data: 1\n"  # the second piece is not there yet
                go_on.set()
                assert reply.read() == b"\ndata: 2\n\n"
        finally:
            nginx.close()
            upstream.shutdown()
