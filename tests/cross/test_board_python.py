# SPDX-License-Identifier: Apache-2.0
"""The wheels on emulated boards: taken by pip, computing what this machine does, passing the project's own tests."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from board import PROCESSORS, REPO, TOOLS, needs_compiler, needs_emulator, run
from board_python import WHEELS, BoardPython

import rkllm_ext
from rkllm_ext import _rkllm
from rkllm_ext.sources import cached_conversion, packaged_model

Board = Callable[[str], BoardPython]
pytestmark = [*needs_compiler, needs_emulator]
VERSIONS = [version for version in WHEELS if (TOOLS / f"python{version}").is_dir()] or ["3.11"]
PROGRAM = REPO / "tests" / "cross" / "board_program.py"
FORMATS = ["fp32", "fp16", "w8a8", "w4a16", "w4a16_g32", "w4a16_g64"]


@pytest.fixture(scope="session")
def board(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Board:
    """Return board(version): an emulated Python with the wheel that was made for it."""
    made: dict[str, BoardPython] = {}

    def board(version: str) -> BoardPython:
        fitting = [wheel for wheel in wheels if f"-{WHEELS[version]}-" in wheel.name]
        if not fitting or not (TOOLS / f"python{version}").is_dir():
            pytest.skip(f"needs python{version} of cross/unpack.sh in {TOOLS}, and a wheel for it")
        if version not in made:
            python = BoardPython(version, tmp_path_factory.mktemp(f"python{version}"))
            python.install(fitting[0])
            made[version] = python
        return made[version]

    return board


@pytest.fixture(scope="session")
def models(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("formats")
    for dtype in FORMATS:
        rkllm_ext.convert(tiny_llama, folder / f"{dtype}.rkllm", dtype)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("version", VERSIONS)
def test_with_numpy_alone_logits_and_tokens_are_those_of_this_machine(
    board: Board, version: str, processor: str, models: list[Path]
) -> None:
    here = run(sys.executable, PROGRAM, *models).splitlines()
    there = board(version).run(processor, PROGRAM, *models).splitlines()
    assert here[0] == _rkllm.active_isa()
    assert there[0] == PROCESSORS[processor]
    assert len(here) == 1 + len(FORMATS)
    assert there[1:] == here[1:]


def test_the_wheel_of_old_pythons_serves_the_newest(wheels: list[Path], tmp_path: Path, models: list[Path]) -> None:
    (old,) = [wheel for wheel in wheels if "-cp39-abi3-" in wheel.name] or [None]
    if old is None or not (TOOLS / "python3.13").is_dir():
        pytest.skip(f"needs python3.9, pc-python3.9 and python3.13 of cross/unpack.sh in {TOOLS}")
    python = BoardPython("3.13", tmp_path)
    python.install(old)
    there = python.run("cortex-a76", PROGRAM, models[0]).splitlines()
    assert there[1:] == run(sys.executable, PROGRAM, models[0]).splitlines()[1:]


def test_a_board_converts_to_the_same_file(board: Board, tiny_llama: Path, tmp_path: Path) -> None:
    python = board("3.11")
    python.install_packages()
    command = ["-c", "from rkllm_ext.cli import main; main()", "convert", tiny_llama]
    python.run("cortex-a72", *command, tmp_path / "there.rkllm", "--dtype", "w4a16_g32")
    run(sys.executable, *command, tmp_path / "here.rkllm", "--dtype", "w4a16_g32")
    assert (tmp_path / "there.rkllm").read_bytes() == (tmp_path / "here.rkllm").read_bytes()


def test_a_board_says_what_the_demo_model_says_here(board: Board) -> None:
    try:
        model = cached_conversion(packaged_model(), "w4a16_g32", None)
    except rkllm_ext.RKLLMError as error:
        pytest.skip(f"needs the demo's model: {error}")
    code = """
import sys, rkllm_ext
with rkllm_ext.LLM(sys.argv[1], max_context_len=64, top_k=1) as llm:
    print(llm.generate("The Moon is", max_new_tokens=8).text)
"""
    here = run(sys.executable, "-c", code, model)
    assert len(here.split()) > 3
    assert board(VERSIONS[-1]).run("cortex-a76", "-c", code, model) == here


#: Processor and Python -> tests of this project that CI runs there, side by side, for so many seconds; -m slow: all.
UNIT = ("arch", "binding", "chat", "cli", "constrain", "dataset", "without_numpy")
LEGS = {
    ("cortex-a76", "3.13"): ["abi", *(f"unit/test_{name}.py" for name in UNIT)],
    ("cortex-a72", "3.11"): ["parity"],
}
SECONDS = 300
ALL = ["abi", "unit", "parity"]


def report_of(board: Board, leg: tuple[str, str], tests: list[str], seconds: int | None) -> str:
    """Return pytest's report of tests run by an emulated Python."""
    processor, version = leg
    python = board(version)
    python.install_packages()
    return python.test(processor, *(REPO / "tests" / name for name in tests), seconds=seconds)


@pytest.fixture(scope="module")
def reports(board: Board) -> dict[tuple[str, str], Future[str]]:
    """Return the reports of CI's legs, which run at the same time."""
    for _, version in LEGS:
        board(version)  # or skip
    with ThreadPoolExecutor(len(LEGS)) as pool:
        return {leg: pool.submit(report_of, board, leg, tests, SECONDS) for leg, tests in LEGS.items()}


def check(report: str) -> str:
    """Return what a report says about tests that were not run."""
    assert re.search(r"\d{2} passed", report)
    assert not re.search(r"\d (failed|error)", report)
    lines = [line for line in report.splitlines() if line.startswith(("SKIPPED", "LEFT OUT"))]
    return "\n".join(line for line in lines if "out of time" not in line)  # those are LEFT OUT, too, file by file


@pytest.mark.parametrize("leg", LEGS, ids="-".join)
def test_the_projects_own_tests_pass(
    reports: dict[tuple[str, str], Future[str]], leg: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    report = reports[leg].result()
    with capsys.disabled():
        print(f"\n{' '.join(leg)}: {report.splitlines()[-1]}\n{check(report)}")


@pytest.mark.slow
@pytest.mark.parametrize("leg", LEGS, ids="-".join)
def test_all_of_the_projects_own_tests_pass(
    board: Board, leg: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    report = report_of(board, leg, ALL, None)
    with capsys.disabled():
        print(f"\n{' '.join(leg)}: {report.splitlines()[-1]}\n{check(report)}")
