# SPDX-License-Identifier: Apache-2.0
"""`rkllm-ext serve`: what it says when it cannot."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .conftest import Running


def serve(*arguments: str | Path, before: str = "pass") -> tuple[int, str]:
    """Run the command, after some other Python; return its exit status and what it said."""
    program = f"{before}; from rkllm_ext.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return ran.returncode, ran.stderr


def test_a_missing_package_is_named_with_the_extra(tiny_model: Path) -> None:
    status, said = serve(tiny_model, before="import sys; sys.modules['flask'] = None")
    assert status == 1
    assert "serve needs the package flask; pip install 'rkllm_ext[server]'" in said


def test_failures_are_one_line(start: Callable[..., Running], tiny_model: Path, tmp_path: Path) -> None:
    status, said = serve(tmp_path / "none.rkllm")
    assert status == 1 and said.startswith("rkllm-ext: ") and said.count("\n") == 1
    status, said = serve(tiny_model, "--lora", "a=x", "--lora", "a=y")
    assert status == 2 and "the name 'a' is given twice" in said
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        status, said = serve(tiny_model, "--port", str(taken.getsockname()[1]))
    assert status == 1 and "cannot listen on 127.0.0.1" in said
    assert "Traceback" not in said
    status, said = serve(tiny_model, "--host", "999.1.1.1")
    assert status == 1 and said.endswith("rkllm-ext: cannot listen on 999.1.1.1:8080: there is no such address\n")
    assert "Traceback" not in said


def test_an_open_address_without_a_key_is_warned_of(start: Callable[..., Running], tiny_model: Path) -> None:
    server = start(tiny_model, "--host", "0.0.0.0", "--context", "128")
    assert server.stop() == 0
    assert any("set --api-key" in line for line in server.lines)
