# SPDX-License-Identifier: Apache-2.0
"""The engine on emulated arm64 processors: every kernel, and the very logits that this machine computes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import rkllm_ext
from rkllm_ext import _rkllm

PREFIX = "aarch64-linux-gnu-"
SYSROOT = "/usr/aarch64-linux-gnu"
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
#: Processor model -> the strongest instruction set it has: RK3576's big cores, RK3588's, everything.
PROCESSORS = {"cortex-a72": "neon", "cortex-a76": "dotprod", "max": "dotprod"}
NATIVE_TESTS = ["test_attention", "test_kernels", "test_kv_cache", "test_numeric", "test_sampler", "test_thread_pool"]

pytestmark = [
    pytest.mark.cross,
    pytest.mark.skipif(not EMULATOR, reason="needs qemu-user-static"),
    pytest.mark.skipif(not shutil.which(PREFIX + "g++"), reason="needs g++-aarch64-linux-gnu"),
    pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake"),
]


@pytest.fixture(scope="module")
def build(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build library and native tests for arm64."""
    folder = tmp_path_factory.mktemp("aarch64")
    toolchain = repo / "cross" / "aarch64-linux-gnu.cmake"
    options = ["-DRKLLM_EXT_PYTHON=OFF", "-DRKLLM_EXT_TESTS=ON", f"-DCMAKE_TOOLCHAIN_FILE={toolchain}"]
    run("cmake", "-S", repo, "-B", folder / "build", *options, RKLLM_CROSS_PREFIX=PREFIX)
    run("cmake", "--build", folder / "build", "--parallel", str(os.cpu_count() or 1))
    return folder / "build"


@pytest.fixture(scope="module")
def models(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    paths = []
    for dtype in ("fp32", "fp16", "w8a8", "w4a16", "w4a16_g32", "w4a16_g64"):
        paths.append(folder / f"{dtype}.rkllm")
        rkllm_ext.convert(tiny_llama, paths[-1], dtype)
    return paths


def run(*command: object, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def emulate(processor: str, build: Path, program: Path, *arguments: object) -> str:
    library_path = f"LD_LIBRARY_PATH={build}"
    return run(EMULATOR, "-cpu", processor, "-L", SYSROOT, "-E", library_path, program, *arguments)


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("name", NATIVE_TESTS)
def test_native_tests_pass(processor: str, name: str, build: Path) -> None:
    emulate(processor, build, build / "tests" / "native" / name)


def compile_program(name: str, compiler: str, library: Path, repo: Path, out: Path) -> Path:
    source = repo / "tests" / "cross" / f"{name}.c"
    run(compiler, "-std=c99", f"-I{repo / 'include'}", source, library, f"-Wl,-rpath,{library.parent}", "-o", out)
    return out


def test_logits_are_those_of_this_machine(build: Path, models: list[Path], repo: Path, tmp_path: Path) -> None:
    host_compiler = shutil.which("cc") or "gcc"
    host = compile_program("logits_program", host_compiler, Path(_rkllm.library_path()), repo, tmp_path / "host")
    foreign = compile_program("logits_program", PREFIX + "gcc", build / "librkllmrt.so", repo, tmp_path / "foreign")
    expected = [line.split()[1:] for line in run(host, *models).splitlines()]
    assert len(expected) == len(models)
    for processor, isa in PROCESSORS.items():
        lines = [line.split() for line in emulate(processor, build, foreign, *models).splitlines()]
        assert {line[0] for line in lines} == {isa}
        assert [line[1:] for line in lines] == expected, processor


def test_sampled_tokens_are_those_of_this_machine(build: Path, repo: Path, tmp_path: Path) -> None:
    name, host_compiler = "sampling_program", shutil.which("cc") or "gcc"
    host = compile_program(name, host_compiler, Path(_rkllm.library_path()), repo, tmp_path / "host")
    foreign = compile_program(name, PREFIX + "gcc", build / "librkllmrt.so", repo, tmp_path / "foreign")
    expected = run(host)
    assert len(expected.split()) == 72 * (40 + 20 + 1)
    assert emulate("cortex-a76", build, foreign) == expected
