# SPDX-License-Identifier: Apache-2.0
"""A whole program under a memory checker, and with ever less memory."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
from compiling import Compile

import rkllm_ext
from rkllm_ext import _rkllm

LINES = "Once upon a time\nthe three robots\n"
OPTIONS = ("--greedy", "--option", "ignore_eos=1", "--option", "n_threads=2")


@pytest.fixture(scope="module")
def llm_demo(compile_c: Compile, repo: Path) -> Path:
    library = Path(rkllm_ext.library_path())
    source = repo / "examples" / "llm_demo.c"
    return compile_c(source, "limited", "-std=c99", "-g", str(library), f"-Wl,-rpath,{library.parent}", "-ldl")


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
@pytest.mark.parametrize("how", [[], ["--async"], ["--hidden", os.devnull]])
def test_a_whole_program_leaks_nothing_and_reads_nothing_it_did_not_write(
    llm_demo: Path, tiny_model: Path, how: list[str]
) -> None:
    # Valgrind knows no AVX-512; what it runs on arm64 is NEON.
    isa = next(name for name in ("avx2", "neon", "scalar") if name in _rkllm.isas())
    kinds = "definite,indirect"  # memory of a thread that is just about to end is "possibly" lost
    checks = ["-q", "--error-exitcode=99", "--leak-check=full", f"--errors-for-leak-kinds={kinds}"]
    checks.append(f"--show-leak-kinds={kinds}")
    result = subprocess.run(
        ["valgrind", *checks, llm_demo, str(tiny_model), "6", "64", *OPTIONS, *how],
        input=LINES,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        env={**os.environ, "RKLLM_EXT_ISA": isa},
    )
    assert result.returncode == 0, result.stderr[-5000:]
    assert result.stdout.count("\n") == (0 if "--hidden" in how else 2) or "--hidden" in how
    assert "==" not in result.stderr


def limited(size: int, program: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program that may have so many bytes of address space."""
    return subprocess.run(
        [program, *arguments],
        input=LINES.encode(),
        capture_output=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)),
    )


@pytest.mark.skipif(platform.system() != "Linux", reason="address space is limited as Linux does it")
def test_with_ever_less_memory_a_program_ends_with_a_sentence(llm_demo: Path, tiny_model: Path) -> None:
    # A program can be loaded, and C++ can set memory for exceptions aside, a little above where it says its usage.
    least = 1 << 20
    while limited(least, llm_demo).returncode != 2:
        least += 1 << 18
    outcomes, limit = set(), 600 << 20
    while limit > least + (1 << 20):
        result = limited(limit, llm_demo, str(tiny_model), "6", "16384", *OPTIONS)
        assert result.returncode in (0, 1), (limit, result)
        told = any(sentence in result.stderr for sentence in (b"cannot be loaded: ", b"run failed: ", b"--option "))
        assert told == (result.returncode == 1) or b"run failed: " in result.stderr, (limit, result)
        outcomes.add(result.returncode)
        limit = limit * 9 // 10
    assert outcomes == {0, 1}
