# SPDX-License-Identifier: Apache-2.0
"""The wheels that cross/build.sh makes for aarch64 Linux: their labels, what is in them, and what that needs."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
from board import (
    GCC_10,
    PREFIX,
    declared,
    dynamic,
    exported,
    is_stripped_for_aarch64,
    needs_compiler,
    run,
    wheel_builders,
)

pytestmark = needs_compiler
#: What every Linux has; not the C++ library, which differs between systems.
SYSTEM = re.compile(r"(libc|libm|libpthread|libdl|ld-linux-aarch64)\.so\.\d")
LIBRARY = "rkllm_ext/librkllmrt.so"


def python_tag(version: str) -> str:
    return "cp39-cp39" if version == "3.9" else "cp311-abi3"


def module_name(version: str) -> str:
    return "_rkllm.cpython-39-aarch64-linux-gnu.so" if version == "3.9" else "_rkllm.abi3.so"


@pytest.fixture(scope="module", params=sorted(wheel_builders()) or ["3.11"])
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def wheel(version: str, wheels: list[Path]) -> Path:
    """Return the wheel for a Python."""
    (found,) = [path for path in wheels if f"-{python_tag(version)}-" in path.name]
    return found


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def shared_objects(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.so*"))


def test_compiled_files_are_the_module_and_the_library(unpacked: Path, version: str) -> None:
    names = [str(path.relative_to(unpacked)) for path in shared_objects(unpacked)]
    assert names == [f"rkllm_ext/{module_name(version)}", LIBRARY]


def test_compiled_files_are_for_aarch64_and_stripped(unpacked: Path) -> None:
    assert [path.name for path in shared_objects(unpacked) if not is_stripped_for_aarch64(path)] == []


def test_the_label_inside_is_that_of_the_name(wheel: Path, unpacked: Path) -> None:
    (record,) = unpacked.glob("*.dist-info/WHEEL")
    tags = re.findall(r"^Tag: (.*)$", record.read_text(), re.M)
    python, abi, platforms = wheel.stem.split("-")[2:]
    assert sorted(tags) == sorted(f"{python}-{abi}-{platform}" for platform in platforms.split("."))
    assert all(re.fullmatch(r"manylinux(2014|_\d+_\d+)_aarch64", platform) for platform in platforms.split("."))


@pytest.mark.skipif(not GCC_10.is_dir(), reason="the baseline is that of GCC 10.2: needs cross/unpack.sh gcc-10")
def test_gcc_10_gives_the_label_of_glibc_2_17(wheel: Path) -> None:
    assert "manylinux_2_17_aarch64" in wheel.stem.split("-")[-1].split(".")


@pytest.mark.skipif(not GCC_10.is_dir(), reason="the baseline is that of GCC 10.2: needs cross/unpack.sh gcc-10")
def test_newest_function_of_glibc_is_from_2_18(unpacked: Path) -> None:
    # That one is a weak reference of the C++ library, which auditwheel does not count.
    for path in shared_objects(unpacked):
        needed = run(PREFIX + "readelf", "--version-info", "--wide", path)
        versions = {tuple(map(int, text.split("."))) for text in re.findall(r"Name: GLIBC_([\d.]+)", needed)}
        assert versions
        assert max(versions) <= (2, 18)
        newest = run(PREFIX + "nm", "--dynamic", "--with-symbol-versions", path)
        assert set(re.findall(r"(\w+)@GLIBC_2\.18", newest)) <= {"__cxa_thread_atexit_impl"}
        assert not re.search(r"GLIBCXX_|CXXABI_", needed)


def test_module_finds_the_library_beside_it_and_yields_to_the_environment(unpacked: Path, version: str) -> None:
    module = unpacked / "rkllm_ext" / module_name(version)
    assert dynamic(module, "RUNPATH") == ["$ORIGIN"]
    assert dynamic(module, "RPATH") == []
    assert [name for name in dynamic(module, "NEEDED") if not SYSTEM.fullmatch(name)] == ["librkllmrt.so"]
    assert exported(module) == {"PyInit__rkllm"}


def test_library_has_its_name_its_functions_and_no_needs(unpacked: Path) -> None:
    assert dynamic(unpacked / LIBRARY, "SONAME") == ["librkllmrt.so"]
    assert dynamic(unpacked / LIBRARY, "RUNPATH") == dynamic(unpacked / LIBRARY, "RPATH") == []
    assert [name for name in dynamic(unpacked / LIBRARY, "NEEDED") if not SYSTEM.fullmatch(name)] == []
    assert exported(unpacked / LIBRARY) == declared(unpacked / "rkllm_ext" / "include")


def test_library_of_the_wheel_is_that_of_the_folder(out: Path, unpacked: Path) -> None:
    assert (unpacked / LIBRARY).read_bytes() == (out / "lib" / "librkllmrt.so").read_bytes()
