# SPDX-License-Identifier: Apache-2.0
"""What cross/build.sh makes for aarch64 Linux: the files, what they need, and that they run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import rkllm_ext

PREFIX = "aarch64-linux-gnu-"
SYSROOT = "/usr/aarch64-linux-gnu"
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
PROGRAMS = ["bin/llm_demo", "bin/multimodal_demo"]
LIBRARY = "lib/librkllmrt.so"
#: Functions of the compiler and its C++ library, which come with every C++ library: names of C++, its runtime, and
#: what GCC's headers and code call in GCC's own libraries.
CXX = re.compile(
    r"_Z|__cxa_|__gxx_|_Unwind_|__dso_handle|__aarch64_|__libc_single_threaded|__stack_chk_|_GLOBAL_OFFSET_"
)

pytestmark = [
    pytest.mark.cross,
    pytest.mark.skipif(not shutil.which(PREFIX + "g++"), reason="needs g++-aarch64-linux-gnu"),
    pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake"),
]


def run(*command: object, text: str | None = None, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "LC_ALL": "C", **environment},
        input=text,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder to build in; RKLLM_TEST_CROSS_BUILD names one that is kept."""
    kept = os.environ.get("RKLLM_TEST_CROSS_BUILD")
    return Path(kept) if kept else tmp_path_factory.mktemp("cross") / "build"


@pytest.fixture(scope="module")
def out(repo: Path, build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    run(repo / "cross" / "build.sh", "aarch64-linux", "-o", folder, "-b", build, RKLLM_CROSS_PREFIX=PREFIX)
    return folder


def dynamic(file: Path, tag: str) -> list[str]:
    return re.findall(rf"\({tag}\)[^\[]*\[(.*)\]", run(PREFIX + "readelf", "--dynamic", "--wide", file))


def undefined(objects: list[Path]) -> set[str]:
    """Return what object files need of others than themselves."""
    needed, defined = set(), set()
    for line in run(PREFIX + "nm", "--format=posix", *objects).splitlines():
        name, _, rest = line.partition(" ")
        if rest.startswith(("U", "w")):
            needed.add(name)
        elif rest:
            defined.add(name)
    return needed - defined


def test_every_file_is_there(out: Path) -> None:
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {LIBRARY, *PROGRAMS, "include/rkllm.h", "include/rkllm_ext.h"}


@pytest.mark.parametrize("name", [LIBRARY, *PROGRAMS])
def test_files_are_for_aarch64_and_stripped(out: Path, name: str) -> None:
    assert re.search(r"Machine:\s+AArch64", run(PREFIX + "readelf", "--file-header", out / name))
    assert ".symtab" not in run(PREFIX + "readelf", "--sections", "--wide", out / name)


def test_library_has_the_name_that_programs_load_and_needs_only_the_c_library(out: Path) -> None:
    assert dynamic(out / LIBRARY, "SONAME") == ["librkllmrt.so"]
    assert dynamic(out / LIBRARY, "RPATH") == dynamic(out / LIBRARY, "RUNPATH") == []
    needed = dynamic(out / LIBRARY, "NEEDED")
    assert needed
    assert all(re.fullmatch(r"(libc|libm|libpthread|libdl|ld-linux-aarch64)\.so\.\d", name) for name in needed)


def test_library_exports_what_the_headers_declare(out: Path) -> None:
    headers = "".join(path.read_text() for path in (out / "include").iterdir())
    declared = set(re.findall(r"^RKLLM_API\s[^(;]*?\b(rkllm_\w+)\(", headers, re.M))
    listing = run(PREFIX + "nm", "--dynamic", "--defined-only", "--format=posix", out / LIBRARY)
    assert {line.split()[0] for line in listing.splitlines()} == declared


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_find_the_library_beside_them_and_yield_to_the_environment(out: Path, name: str) -> None:
    assert dynamic(out / name, "RUNPATH") == ["$ORIGIN/../lib"]
    assert dynamic(out / name, "RPATH") == []
    assert "librkllmrt.so" in dynamic(out / name, "NEEDED")


def test_android_7_offers_all_that_is_called(repo: Path, out: Path, build: Path) -> None:
    table = re.sub(r"#.*", "", (repo / "tests" / "cross" / "bionic24.txt").read_text()).split()
    called_there = dict(word.split("=") for word in table if "=" in word)
    objects = sorted(build.rglob("*.o"))
    assert sum("rkllm_objects" in str(path) for path in objects) > 50
    needed = {called_there.get(name, name) for name in undefined(objects) if not CXX.match(name)}
    assert {"malloc", "mmap", "pthread_mutex_lock", "__errno"} <= needed  # the list is the real one
    assert needed - set(table) == set()


def test_nothing_of_the_cxx_library_is_used_that_ndk_r21_lacks(out: Path, build: Path) -> None:
    needed = "\n".join(undefined(sorted(build.rglob("*.o"))))
    assert "_ZNSt" in needed
    assert not re.search(r"filesystem|_ZSt10from_charsPKcS0_R[fde]|_ZSt8to_charsPcS_[fde]|3pmr", needed)


@pytest.mark.skipif(not EMULATOR, reason="needs qemu-user-static")
@pytest.mark.parametrize("processor", ["cortex-a72", "cortex-a76"])
def test_the_demo_answers_as_python_on_this_machine_does(out: Path, tiny_model: Path, processor: str) -> None:
    with rkllm_ext.LLM(tiny_model, max_context_len=256, top_k=1) as llm:
        expected = llm.generate("Once upon a time", max_new_tokens=12).text
    program = [out / "bin" / "llm_demo", tiny_model, 12, 256, "--greedy"]
    said = run(EMULATOR, "-cpu", processor, "-L", SYSROOT, *program, text="Once upon a time\n")
    assert expected
    assert expected in said
