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
    newest_glibc,
    run,
    wheel_builders,
)
from board_python import WHEELS

pytestmark = needs_compiler
#: What every Linux has; not the C++ library, which differs between systems.
SYSTEM = re.compile(r"(libc|libm|libpthread|libdl|ld-linux-aarch64)\.so\.\d")
LIBRARY = "rkllm_ext/librkllmrt.so"
MODULE = "rkllm_ext/_rkllm.abi3.so"


@pytest.fixture(scope="module", params=sorted(wheel_builders()) or ["3.11"])
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def wheel(version: str, wheels: list[Path]) -> Path:
    """Return the wheel that was built with the headers of a Python."""
    (found,) = [path for path in wheels if f"-{WHEELS[version]}-" in path.name]
    return found


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def shared_objects(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.so*"))


def test_compiled_files_are_the_module_and_the_library(unpacked: Path) -> None:
    assert [str(path.relative_to(unpacked)) for path in shared_objects(unpacked)] == [MODULE, LIBRARY]


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
def test_nothing_newer_than_glibc_2_17_is_called(unpacked: Path) -> None:
    # auditwheel does not count weak references, and thread-local objects with destructors have one to 2.18.
    for path in shared_objects(unpacked):
        assert newest_glibc(path) == (2, 17)
        assert not re.search(r"GLIBCXX_|CXXABI_", run(PREFIX + "readelf", "--version-info", "--wide", path))


def test_module_finds_the_library_beside_it_and_yields_to_the_environment(unpacked: Path) -> None:
    module = unpacked / MODULE
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
