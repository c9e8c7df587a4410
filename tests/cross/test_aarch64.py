# SPDX-License-Identifier: Apache-2.0
"""The engine on emulated arm64 processors: every kernel, and the very logits that this machine computes."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from board import ISAS, PREFIX, PROCESSORS, REPO, emulate, needs_compiler, needs_emulator, run

import rkllm_ext
from rkllm_ext import _rkllm

NATIVE_TESTS = ["test_kernels", "test_kv_cache", "test_numeric", "test_sampler", "test_thread_pool"]
SLOW_TEST = "test_attention"  # minutes for each processor
pytestmark = [*needs_compiler, needs_emulator]


@pytest.fixture(scope="module")
def native(out: Path, build: Path) -> Path:
    """Build the native tests in the folder of the library, and return it."""
    run("cmake", "-S", REPO, "-B", build, "-DRKLLM_EXT_PYTHON=OFF", "-DRKLLM_EXT_TESTS=ON", RKLLM_CROSS_PREFIX=PREFIX)
    targets = ["rkllmrt", *NATIVE_TESTS, SLOW_TEST]
    run("cmake", "--build", build, "--parallel", str(os.cpu_count() or 1), "--target", *targets)
    return build


@pytest.fixture(scope="module")
def models(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    paths = []
    for dtype in ("fp32", "fp16", "w8a8", "w4a16", "w4a16_g32", "w4a16_g64"):
        paths.append(folder / f"{dtype}.rkllm")
        rkllm_ext.convert(tiny_llama, paths[-1], dtype)
    return paths


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("name", [*NATIVE_TESTS, pytest.param(SLOW_TEST, marks=pytest.mark.slow)])
def test_native_tests_pass(processor: str, name: str, native: Path) -> None:
    emulate(processor, native / "tests" / "native" / name, libraries=native)


def compile_program(name: str, compiler: str, library: Path, repo: Path, out: Path) -> Path:
    source = repo / "tests" / "cross" / f"{name}.c"
    run(compiler, "-std=c99", f"-I{repo / 'include'}", source, library, f"-Wl,-rpath,{library.parent}", "-o", out)
    return out


def test_logits_are_those_of_this_machine(native: Path, models: list[Path], repo: Path, tmp_path: Path) -> None:
    host_compiler = shutil.which("cc") or "gcc"
    host = compile_program("logits_program", host_compiler, Path(_rkllm.library_path()), repo, tmp_path / "host")
    foreign = compile_program("logits_program", PREFIX + "gcc", native / "librkllmrt.so", repo, tmp_path / "foreign")
    expected = [line.split()[1:] for line in run(host, *models).splitlines()]
    assert len(expected) == len(models)
    for processor, isa in PROCESSORS.items():
        lines = [line.split() for line in emulate(processor, foreign, *models, libraries=native).splitlines()]
        assert {line[0] for line in lines} == {isa}
        assert [line[1:] for line in lines] == expected, processor


def test_each_instruction_set_runs_on_the_processor_that_has_all(native: Path, models: list[Path], repo: Path) -> None:
    out = native / "logits_program"
    program = compile_program("logits_program", PREFIX + "gcc", native / "librkllmrt.so", repo, out)
    assert ISAS[-2:] == ["dotprod", "smmla"]
    found = []
    for isa in ISAS:
        printed = emulate("max,pauth-impdef=on", program, *models, libraries=native, RKLLM_EXT_ISA=isa)
        lines = [line.split() for line in printed.splitlines()]
        assert {line[0] for line in lines} == {isa}
        found.append([line[1:] for line in lines])
    assert len(found[0]) == len(models)
    assert all(each == found[0] for each in found)


def test_special_instructions_are_in_the_kernels_of_their_instruction_set_alone(native: Path) -> None:
    objects = sorted((native / "CMakeFiles" / "rkllm_objects.dir").rglob("*.o"))
    assert len(objects) > 50
    found = {}
    for path in objects:
        listing = run(PREFIX + "objdump", "--disassemble", "--no-show-raw-insn", path)
        special = set(re.findall(r"\s(sdot|udot|usdot|smmla|ummla|usmmla)\s", listing))
        if special:
            found[path.name] = special
    assert found == {"dotprod.cpp.o": {"sdot"}, "smmla.cpp.o": {"sdot", "smmla"}}


def test_sampled_tokens_are_those_of_this_machine(native: Path, repo: Path, tmp_path: Path) -> None:
    name, host_compiler = "sampling_program", shutil.which("cc") or "gcc"
    host = compile_program(name, host_compiler, Path(_rkllm.library_path()), repo, tmp_path / "host")
    foreign = compile_program(name, PREFIX + "gcc", native / "librkllmrt.so", repo, tmp_path / "foreign")
    expected = run(host)
    assert len(expected.split()) == 72 * (40 + 20 + 1)
    assert emulate("cortex-a76", foreign, libraries=native) == expected
