# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document is true: schemathesis asks what it allows, and what it does not, and looks at the answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Running

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_the_document_has_every_route_and_no_other(tiny_model: Path) -> None:
    pytest.importorskip("flask")
    from rkllm_ext.server import create_app

    app = create_app(tiny_model)
    paths = app.test_client().get("/openapi.json").json["paths"]
    app.extensions["rkllm"].close()
    told = {(method.upper(), path.replace("{model}", "*")) for path, methods in paths.items() for method in methods}
    there = {
        (method, rule.rule.replace("<path:name>", "*"))
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert told == there


@pytest.mark.parametrize("examples", [12, pytest.param(280, marks=pytest.mark.slow)])
def test_answers_are_those_of_the_document(
    start: Callable[..., Running], tiny_model: Path, tmp_path: Path, examples: int
) -> None:
    pytest.importorskip("schemathesis")
    server = start(tiny_model, "--context", "96", "--parallel", "4", "--max-queue", "64")
    program = "from schemathesis.cli import schemathesis; schemathesis()"
    options = ["--checks", CHECKS, "--max-examples", str(examples), "--seed", "1", "--phases", "coverage,fuzzing"]
    options += ["--generation-database", "none", "--suppress-health-check", "all", "--request-timeout", "60"]
    try:
        ran = subprocess.run(
            [sys.executable, "-c", program, "run", f"{server.url}/openapi.json", *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        print(ran.stdout[-2000:])
        assert ran.returncode == 0, ran.stdout[-20000:]
    finally:
        assert server.stop() == 0
    assert not any("Traceback" in line for line in server.lines), server.lines[-40:]
