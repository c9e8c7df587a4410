# SPDX-License-Identifier: Apache-2.0
"""What cross/build.sh makes for aarch64 Linux: the files, what they need, and that they run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from board import (
    GCC_10,
    PREFIX,
    PROCESSORS,
    declared,
    dynamic,
    emulate,
    exported,
    is_stripped_for_aarch64,
    needs_compiler,
    needs_emulator,
    newest_glibc,
    run,
)

import rkllm_ext

pytestmark = needs_compiler
PROGRAMS = ["bin/llm_demo", "bin/multimodal_demo"]
LIBRARY = "lib/librkllmrt.so"
#: Functions of the compiler and its C++ library, which come with every C++ library: names of C++, its runtime, and
#: what GCC's headers and code call in GCC's own libraries.
CXX = re.compile(
    r"_Z|__cxa_|__gxx_|_Unwind_|__dso_handle|__aarch64_|__libc_single_threaded|__stack_chk_|_GLOBAL_OFFSET_"
)


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


def objects_of_programs(build: Path) -> list[Path]:
    """Return the compiled sources of the library and the programs; the module calls Python, tests what they like."""
    folders = ("rkllm_objects.dir", "llm_demo.dir", "multimodal_demo.dir")
    return [path for path in sorted(build.rglob("*.o")) if any(name in str(path) for name in folders)]


def test_every_file_is_there(out: Path) -> None:
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and path.suffix != ".whl"}
    assert files == {LIBRARY, *PROGRAMS, "include/rkllm.h", "include/rkllm_ext.h"}


@pytest.mark.parametrize("name", [LIBRARY, *PROGRAMS])
def test_files_are_for_aarch64_and_stripped(out: Path, name: str) -> None:
    assert is_stripped_for_aarch64(out / name)


def test_library_has_the_name_that_programs_load_and_needs_only_the_c_library(out: Path) -> None:
    assert dynamic(out / LIBRARY, "SONAME") == ["librkllmrt.so"]
    assert dynamic(out / LIBRARY, "RPATH") == dynamic(out / LIBRARY, "RUNPATH") == []
    needed = dynamic(out / LIBRARY, "NEEDED")
    assert needed
    assert all(re.fullmatch(r"(libc|libm|libpthread|libdl|ld-linux-aarch64)\.so\.\d", name) for name in needed)


@pytest.mark.skipif(not GCC_10.is_dir(), reason="the baseline is that of GCC 10.2: needs cross/unpack.sh gcc-10")
@pytest.mark.parametrize("name", [LIBRARY, *PROGRAMS])
def test_nothing_newer_than_glibc_2_17_is_called(out: Path, name: str) -> None:
    assert newest_glibc(out / name) == (2, 17)


def test_library_exports_what_the_headers_declare(out: Path) -> None:
    assert exported(out / LIBRARY) == declared(out / "include")


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_find_the_library_beside_them_and_yield_to_the_environment(out: Path, name: str) -> None:
    assert dynamic(out / name, "RUNPATH") == ["$ORIGIN/../lib"]
    assert dynamic(out / name, "RPATH") == []
    assert "librkllmrt.so" in dynamic(out / name, "NEEDED")


def test_android_7_offers_all_that_is_called(repo: Path, out: Path, build: Path) -> None:
    table = re.sub(r"#.*", "", (repo / "tests" / "cross" / "bionic24.txt").read_text()).split()
    called_there = dict(word.split("=") for word in table if "=" in word)
    objects = objects_of_programs(build)
    assert sum("rkllm_objects" in str(path) for path in objects) > 50
    needed = {called_there.get(name, name) for name in undefined(objects) if not CXX.match(name)}
    assert {"malloc", "mmap", "pthread_mutex_lock", "__errno"} <= needed  # the list is the real one
    assert needed - set(table) == set()


def test_nothing_of_the_cxx_library_is_used_that_ndk_r21_lacks(out: Path, build: Path) -> None:
    needed = "\n".join(undefined(objects_of_programs(build)))
    assert "_ZNSt" in needed
    assert not re.search(r"filesystem|_ZSt10from_charsPKcS0_R[fde]|_ZSt8to_charsPcS_[fde]|3pmr", needed)


@needs_emulator
@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_demo_answers_as_python_on_this_machine_does(out: Path, tiny_model: Path, processor: str) -> None:
    with rkllm_ext.LLM(tiny_model, max_context_len=256, top_k=1) as llm:
        expected = llm.generate("Once upon a time", max_new_tokens=12).text
    arguments = [tiny_model, 12, 256, "--greedy"]
    said = emulate(processor, out / "bin" / "llm_demo", *arguments, libraries=out / "lib", text="Once upon a time\n")
    assert expected
    assert expected in said
