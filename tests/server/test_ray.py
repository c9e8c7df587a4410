# SPDX-License-Identifier: Apache-2.0
"""Two replicas on a local Ray: the application by Ray Serve, a batch by Ray Data (`pytest -m ray`)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ray
PORT = 18431


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    ray.init(num_cpus=4, include_dashboard=False, logging_level="warning", log_to_driver=False)
    yield
    ray.shutdown()


def post(path: str, fields: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", json.dumps(fields).encode())
    with urllib.request.urlopen(request, timeout=120) as reply:
        return reply.read().decode()


def leave(fields: dict[str, Any]) -> None:
    """Begin a long stream and go away."""
    endless = {**fields, "stream": True, "max_tokens": 60000}
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/v1/completions", json.dumps(endless).encode())
    with urllib.request.urlopen(request, timeout=120) as reply:
        assert reply.readline().startswith(b"data: ")


def metrics() -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=120) as reply:
        return str(reply.read().decode())


def test_two_replicas_answer_as_one_server(cluster: None, tiny_model: Path) -> None:
    from ray import serve

    from rkllm_ext.server import create_app
    from rkllm_ext.server.ray import deployment

    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(deployment(tiny_model, replicas=2, parallel=2, max_queue=100, n_threads=1, max_context_len=65536))
    try:
        asked = [
            {"model": "tiny", "prompt": f"Once upon {i}", "max_tokens": 30, "seed": i, "ignore_eos": True}
            for i in range(24)
        ]
        app = create_app(tiny_model)
        client = app.test_client()
        expected = [client.post("/v1/completions", json=each).get_json()["choices"][0]["text"] for each in asked]
        app.extensions["rkllm"].close()
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda each: json.loads(post("/v1/completions", each)), asked))
        assert [each["choices"][0]["text"] for each in found] == expected
        stream = post("/v1/completions", {**asked[3], "stream": True})
        rows = [line[6:] for line in stream.splitlines() if line.startswith("data: ")]
        assert "".join(json.loads(row)["choices"][0]["text"] for row in rows[:-1]) == expected[3]
        leave(asked[0])
        deadline = time.monotonic() + 60
        while not re.search(r"cancelled[^ \n]* 1(\.0)?$", metrics(), re.M):  # of either replica
            assert time.monotonic() < deadline
        assert serve.status().applications["default"].deployments["rkllm_ext"].replica_states == {"RUNNING": 2}
    finally:
        serve.shutdown()


def test_a_batch_on_the_cluster_is_that_of_one_machine(cluster: None, tiny_model: Path, tmp_path: Path) -> None:
    import ray

    asked = tmp_path / "in.jsonl"
    with asked.open("w") as file:
        for i in range(150):
            body = {"model": "any", "prompt": f"Once upon {i}", "max_tokens": 10, "seed": i}
            row = {"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body}
            file.write(json.dumps(row) + "\n")

    def answered(name: str, *options: str) -> dict[str, str]:
        program = "from rkllm_ext.cli import main; main()"
        script = [sys.executable, "-c", program, "batch", asked, tmp_path / name, "--model", tiny_model, *options]
        address = ray.get_runtime_context().gcs_address
        ran = subprocess.run(script, capture_output=True, text=True, env={**os.environ, "RAY_ADDRESS": address})
        assert ran.returncode == 0, ran.stderr
        rows = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        return {row["custom_id"]: row["response"]["body"]["choices"][0]["text"] for row in rows}

    one = answered("one.jsonl")
    assert len(one) == 150
    assert answered("many.jsonl", "--ray", "--replicas", "2") == one
