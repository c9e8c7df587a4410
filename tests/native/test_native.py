# SPDX-License-Identifier: Apache-2.0
"""The C++ programs of this folder, built with sanitizers and run; and the symbols of the kernels' objects.

A program is a file test_*.cpp; one that mentions threads is also run under the thread sanitizer. All builds are of the
sources beside this file, whatever package is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from adapters import random_pairs, write_peft

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
PROGRAMS = sorted(path.stem for path in HERE.glob("test_*.cpp"))
THREADED = [name for name in PROGRAMS if "thread" in (HERE / f"{name}.cpp").read_text(encoding="utf-8")]
SKIPPED = 77
WIDE_ISAS = re.findall(r'^ISA\((\w+), *(\w+), *"[^"]+"', (REPO / "src/runtime/kernels/isa.def").read_text(), re.M)


def tool(name: str) -> str:
    """Return a program of this Python's environment or of the PATH, or skip."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"needs {name}; it comes with pip install '.[test]' or the system's packages")
    return found


def run(*command: str | Path) -> None:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout[-5000:]}{result.stderr[-5000:]}"


def configured(folder: Path, *options: str) -> Path:
    """Configure a build of the repository in a folder and return it."""
    make = f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"
    run(tool("cmake"), "-S", REPO, "-B", folder, "-G", "Ninja", make, "-DRKLLM_EXT_PYTHON=OFF", *options)
    return folder


class Sanitized(NamedTuple):
    """The native programs, built with a sanitizer."""

    folder: Path
    models: Path

    def run(self, program: str) -> None:
        environment = {
            **os.environ,
            "RKLLM_TEST_MODELS": str(self.models),
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "TSAN_OPTIONS": "halt_on_error=1",
        }
        environment.pop("RKLLM_LOG_LEVEL", None)
        command = [str(self.folder / "tests" / "native" / program)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", timeout=600)
        if "unexpected memory mapping" in result.stderr:
            pytest.skip("this kernel's address randomization is too wide for the thread sanitizer: vm.mmap_rnd_bits")
        if result.returncode == SKIPPED:
            pytest.skip(f"{program} found no models")
        assert result.returncode == 0, result.stderr[-10000:]
        assert result.stderr == ""


def sanitized(name: str, factory: pytest.TempPathFactory, models: Path) -> Sanitized:
    # -O1 keeps the scalar kernels quick enough; the sanitizers' reports keep their lines.
    options = [
        "-DRKLLM_EXT_TESTS=ON",
        f"-DRKLLM_EXT_SANITIZE={name}",
        "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
        "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g",
    ]
    folder = configured(factory.mktemp("build"), *options)
    run(tool("ninja"), "-C", folder, *PROGRAMS)
    return Sanitized(folder, models)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """Return a folder of <format>.rkllm, the small model in every format that can hold it, and of two adapters."""
    from rkllm_ext import _rkllm, convert, convert_lora

    folder = tmp_path_factory.mktemp("models")
    for format in _rkllm.formats():
        if format.offered and format.group <= 64:  # the model is 64 wide
            convert(tiny_llama, folder / f"{format.name}.rkllm", format.name)
    targets = {"model.layers.0.self_attn.q_proj": (64, 64), "model.layers.1.mlp.down_proj": (64, 128)}
    for name, rank in (("lora_a", 4), ("lora_b", 20)):
        adapter = write_peft(folder / name, random_pairs({**targets, "lm_head": (300, 64)}, rank, seed=rank))
        convert_lora(adapter, tiny_llama, folder / f"{name}.rkllm")
    return folder


@pytest.fixture(scope="module")
def address_build(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Sanitized:
    """Return the programs that stop at a bad access, a leak or undefined behaviour."""
    return sanitized("address,undefined", tmp_path_factory, models)


@pytest.fixture(scope="module")
def thread_build(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Sanitized:
    """Return the programs that stop at a data race."""
    return sanitized("thread", tmp_path_factory, models)


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_passes_without_bad_access_leak_or_undefined_behaviour(address_build: Sanitized, program: str) -> None:
    address_build.run(program)


@pytest.mark.parametrize("program", THREADED)
def test_program_passes_without_data_race(thread_build: Sanitized, program: str) -> None:
    thread_build.run(program)


@pytest.mark.parametrize(("isa", "arch"), WIDE_ISAS)
def test_kernels_with_wide_flags_define_nothing_that_others_could_use(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, isa: str, arch: str
) -> None:
    # A weak symbol compiled with wide flags can be the one that the linker keeps for the whole program, which then
    # stops with an illegal instruction on an older CPU.
    if arch != {"AMD64": "x86_64", "arm64": "aarch64"}.get(os.uname().machine, os.uname().machine):
        pytest.skip(f"{isa} is an instruction set of {arch}")
    folder = configured(tmp_path)
    kernel = f"CMakeFiles/rkllm_objects.dir/src/runtime/kernels/{isa}.cpp.o"
    run(tool("ninja"), "-C", folder, kernel)
    listing = subprocess.run(
        [tool("nm"), "--defined-only", "--extern-only", "--demangle", str(folder / kernel)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = [line.split(maxsplit=2)[2] for line in listing.splitlines()]
    assert names == [f"rkllm::use_{isa}(rkllm::Kernels&)"]
