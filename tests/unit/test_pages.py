# SPDX-License-Identifier: Apache-2.0
"""What the pages name is there: links, tests, markers, commands with their options, environment variables."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import pytest

from rkllm_ext import cli

REPO = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(REPO).as_posix()
    for folder in (".", "docs", "cross", "examples", "benchmarks")
    for path in (REPO / folder).glob("*.md")
)
_SOURCES = (".py", ".pyx", ".pxi", ".cpp", ".h", ".c", ".txt", ".cmake", ".sh")


def text_of(page: str) -> str:
    return (REPO / page).read_text("utf-8")


def options_of(name: str) -> set[str]:
    command = cli.commands.get_command(None, name)  # type: ignore[arg-type]
    assert isinstance(command, click.Command), name
    return {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text_of(page))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (REPO / page).parent.joinpath(target).exists()] == []


def test_the_status_page_names_tests_and_benchmarks_that_exist() -> None:
    named = re.findall(
        r"`((?:abi|benchmarks|cross|deploy|fuzz|native|parity|server|unit)/[\w./]+)`", text_of("docs/status.md")
    )
    assert len(named) > 100
    assert [path for path in named if not (REPO / "tests" / path).is_file() and not (REPO / path).is_file()] == []


@pytest.mark.parametrize("page", PAGES)
def test_markers_and_names_of_tests_select_something(page: str) -> None:
    tests = {path: path.read_text("utf-8") for path in (REPO / "tests").rglob("*.py")}
    for marker in re.findall(r"pytest[^`\n]* -m (\w+)", text_of(page)):
        assert any(re.search(rf"mark\.{marker}\b|add_marker\(\"{marker}\"", text) for text in tests.values()), marker
    for file, name in re.findall(r"`(?:tests/)?([\w/]+/test_\w+\.py)::(\w+)", text_of(page)):
        functions = {each.name for each in ast.walk(ast.parse(tests[REPO / "tests" / file])) if hasattr(each, "name")}
        assert name in functions, f"{file}::{name}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_the_options_that_are_shown(page: str) -> None:
    for found in re.finditer(r"rkllm-ext ([a-z]+)((?:\\\n|[^`\n])*)", text_of(page)):
        name, rest = found.groups()
        own = re.split(r" -- | #|&&|[;|>]", rest)[0]
        shown = set(re.findall(r"(?<![\w-])(--?[a-zA-Z][\w-]*)", own))
        assert shown <= options_of(name), found[0]


def test_environment_variables_are_described_and_those_described_are_read() -> None:
    pages = "".join(text_of(page) for page in PAGES)
    code = "".join(
        path.read_text("utf-8", "replace")
        for folder in ("src", "cross", "tests", ".ci", "benchmarks")
        for path in (REPO / folder).rglob("*")
        if path.suffix in _SOURCES or path.name == "run"
    ) + text_of("CMakeLists.txt")
    read = set(
        re.findall(
            r"""["'](RKLLM_(?:EXT_)?[A-Z_]+)["']""",
            "".join(
                path.read_text("utf-8") for path in (REPO / "src").rglob("*") if path.suffix in (".py", ".pxi", ".cpp")
            ),
        )
    )
    assert "RKLLM_EXT_ISA" in read
    assert {name for name in read if name not in pages} == set()
    assert {name for name in re.findall(r"RKLLM_EXT_[A-Z_]*[A-Z]", pages) if name not in code} == set()
