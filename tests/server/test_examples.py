# SPDX-License-Identifier: Apache-2.0
"""The example clients work against a real server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Running


def run(repo: Path, name: str, *arguments: str, given: str = "") -> str:
    script = repo / "examples" / "clients" / name
    ran = subprocess.run([sys.executable, script, *arguments], input=given, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("options", [[], ["--whole"]])
def test_a_conversation_through_the_vendors_route(server: Running, repo: Path, options: list[str]) -> None:
    shown = run(repo, "chat_client.py", "--url", server.url, *options, given="Hello\n\n")
    assert shown.startswith("> ")
    assert shown.endswith("\n> ")
    assert len(shown) > len("> \n> ")


@pytest.mark.parametrize(
    ("name", "words"),
    [("openai_client.py", "tokens read"), ("tools.py", "calculate({"), ("json_schema.py", "thing=")],
)
def test_examples_of_the_openai_package(server: Running, repo: Path, name: str, words: str) -> None:
    pytest.importorskip("openai")
    assert words in run(repo, name, "Hello", "--url", f"{server.url}/v1")
