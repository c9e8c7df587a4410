# SPDX-License-Identifier: Apache-2.0
"""Benchmarks still run: each imports, explains itself, and measures its smallest case. No figure is looked at."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
ALL = sorted(FOLDER.glob("*.py"))
SCRIPTS = [path for path in ALL if "def main()" in path.read_text(encoding="utf-8")]


def run(*arguments: str | Path) -> str:
    """Run Python with arguments and return what it printed."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=FOLDER.parent)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_explains_how_it_is_called(script: Path) -> None:
    assert run(script, "--help").startswith("usage: ")


def test_the_others_are_collected_by_pytest() -> None:
    others = [path for path in ALL if path not in SCRIPTS]
    assert others
    found = run("-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *others)
    assert [path.name for path in others if f"{path.name}::test_" not in found] == []


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("bench_attention", ["{model}", "--prefills", "8", "--contexts", "4", "--rounds", "1"]),
        ("bench_convert", ["--dim", "64", "--layers", "1"]),
        ("perplexity", ["{checkpoint}", "--text", "{text}", "--dtypes", "w8a8", "--tokens", "40", "--context", "16"]),
    ],
)
def test_a_script_prints_a_table_of_its_smallest_case(
    script: str, arguments: list[str], tiny_model: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("the three robots went home " * 10)
    places = {"model": tiny_model, "checkpoint": tiny_llama, "text": tmp_path / "text"}
    lines = run(FOLDER / f"{script}.py", *[each.format(**places) for each in arguments]).splitlines()
    assert len(lines) >= 2
    assert any(letter.isdigit() for letter in lines[-1])


def test_every_count_of_sessions_is_measured(tiny_model: Path) -> None:
    assert min(load("bench_batch").measure(tiny_model, [1, 2], 1, 8, 4, 1).values()) > 0


def test_every_form_is_measured(tiny_model: Path) -> None:
    pytest.importorskip("llguidance", reason="needs the extra 'constrain'")
    assert min(row[1] for row in load("bench_constrain").measure(tiny_model, 1, 1, 40).values()) > 0


def test_every_task_of_guessed_tokens_is_measured_and_no_answer_changes(tiny_model: Path) -> None:
    module: Any = load("bench_draft")
    assert set(module.measure(tiny_model, 1, 8, 1)) == set(module.TASKS)


def test_instructions_are_those_of_the_innermost_loop_that_multiplies() -> None:
    module: Any = load("count_instructions")
    sdot, load_sum = "sdot v0.4s, v1.16b, v2.4b[0]", "ldr q0, [sp, #16]"
    body = ["mov x0, #0", load_sum, sdot, sdot, "cmp x0, x4", "b.ne 104 <f+0x4>", "b.ne 100 <f>", "ret"]
    loops = list(module.innermost_loops([(0x100 + 4 * i, text) for i, text in enumerate(body)]))
    assert loops == [body[1:6]]
    assert module.products(loops[0]) == 32
    for text, products in (
        ("smlal2 v6.8h, v2.16b, v9.16b", 8),
        ("smlal v6.4s, v2.4h, v9.4h", 0),
        ("smmla v5.4s, v23.16b, v1.16b", 32),
        ("vpdpbusd (%rax),%zmm4,%zmm5", 64),
        ("{vex} vpdpbusd %ymm3,%ymm4,%ymm5", 32),
    ):
        assert module.products([text]) == products
