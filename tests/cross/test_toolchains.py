# SPDX-License-Identifier: Apache-2.0
"""The toolchain files, read by CMake itself: which compiler they take, what they tell the NDK, and what they refuse.

Compilers and NDK are stand-ins: scripts that know a version, and a toolchain file that sets what the NDK's own sets.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ndk import NDK_FILE, make_ndk

CMAKE = shutil.which("cmake")
pytestmark = pytest.mark.skipif(CMAKE is None, reason="needs cmake")
CROSS = ("RKLLM_CROSS_PREFIX", "RKLLM_CROSS_SUFFIX", "RKLLM_CROSS_SYSROOT")
NDK = ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_NDK")
SHOWN = [
    *("CMAKE_C_COMPILER", "CMAKE_CXX_COMPILER", "CMAKE_SYSTEM_PROCESSOR", "CMAKE_SYSROOT", "CMAKE_SHARED_LINKER_FLAGS"),
    *(
        "CMAKE_MODULE_LINKER_FLAGS",
        "CMAKE_EXE_LINKER_FLAGS",
        "CMAKE_SHARED_LINKER_FLAGS_INIT",
        "CMAKE_FIND_ROOT_PATH_MODE_PROGRAM",
    ),
    *("NDK_ABI", "NDK_PLATFORM", "NDK_STL", "NDK_LD"),
]


def configure(toolchain: Path, folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Configure a project without languages; its output has a line NAME=VALUE for each variable that is shown."""
    folder.mkdir(exist_ok=True)
    shown = "".join(f'message(STATUS "{name}=${{{name}}}")\n' for name in SHOWN)
    (folder / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.18)\nproject(shown LANGUAGES NONE)\n{shown}"
    )
    command = [
        str(CMAKE),
        "-S",
        str(folder),
        "-B",
        str(folder / "build"),
        f"-DCMAKE_TOOLCHAIN_FILE={toolchain}",
        *options,
    ]
    bare = {name: value for name, value in os.environ.items() if name not in (*CROSS, *NDK)}
    return subprocess.run(command, capture_output=True, text=True, env={**bare, **environment})


def variables(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^-- (\w+)=(.*)$", done.stdout, re.MULTILINE))


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode != 0
    return " ".join(done.stderr.split())


# ---- aarch64 Linux ----


@pytest.fixture
def linux(repo: Path) -> Path:
    return repo / "cross" / "aarch64-linux-gnu.cmake"


def make_compiler(
    folder: Path, triplet: str = "aarch64-none-linux-gnu", version: str = "10.2.1", suffix: str = ""
) -> Path:
    """Write compilers that know their version; return what stands before "gcc" and "g++"."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    for name in ("gcc", "g++"):
        path = folder / "bin" / f"{triplet}-{name}{suffix}"
        path.write_text(f"#!/bin/sh\necho {version}\n")
        path.chmod(0o755)
    return folder / "bin" / f"{triplet}-"


@pytest.mark.parametrize("given", ["prefix", "folder", "environment", "path"])
def test_the_compiler_is_found_by_prefix_folder_environment_or_path(linux: Path, tmp_path: Path, given: str) -> None:
    folder = tmp_path / "gcc-arm-10.2-2020.11-x86_64-aarch64-none-linux-gnu"
    prefix = make_compiler(folder)
    options = {"prefix": [f"-DRKLLM_CROSS_PREFIX={prefix}"], "folder": [f"-DRKLLM_CROSS_PREFIX={folder}"]}
    environment = {"environment": {"RKLLM_CROSS_PREFIX": str(prefix)}}
    environment["path"] = {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    found = variables(configure(linux, tmp_path / "p", *options.get(given, []), **environment.get(given, {})))
    expected = "aarch64-none-linux-gnu-" if given == "path" else str(prefix)
    assert found["CMAKE_C_COMPILER"] == f"{expected}gcc"
    assert found["CMAKE_CXX_COMPILER"] == f"{expected}g++"
    assert found["CMAKE_SYSTEM_PROCESSOR"] == "aarch64"
    assert found["CMAKE_FIND_ROOT_PATH_MODE_PROGRAM"] == "NEVER"


def test_suffix_and_sysroot_are_taken_from_the_environment(linux: Path, tmp_path: Path) -> None:
    prefix = make_compiler(tmp_path, "aarch64-linux-gnu", "10.2.1", "-10")
    environment = dict(zip(CROSS, (str(prefix), "-10", str(tmp_path))))
    found = variables(configure(linux, tmp_path / "p", **environment))
    assert found["CMAKE_CXX_COMPILER"] == f"{prefix}g++-10"
    assert found["CMAKE_SYSROOT"] == str(tmp_path)


@pytest.mark.parametrize("version", ["10.2", "10.2.1", "12.2.0", "15"])
def test_gcc_10_2_and_later_are_accepted(linux: Path, tmp_path: Path, version: str) -> None:
    prefix = make_compiler(tmp_path, version=version)
    assert variables(configure(linux, tmp_path / "p", f"-DRKLLM_CROSS_PREFIX={prefix}"))


@pytest.mark.parametrize("version", ["6.3.1", "9.4.0", "10.1.0"])
def test_older_gcc_is_refused_with_both_versions(linux: Path, tmp_path: Path, version: str) -> None:
    prefix = make_compiler(tmp_path, version=version)
    said = refusal(configure(linux, tmp_path / "p", f"-DRKLLM_CROSS_PREFIX={prefix}"))
    assert f"aarch64-none-linux-gnu-g++ is GCC {version}; 10.2 or later is needed" in said


def test_a_prefix_without_a_compiler_is_refused(linux: Path, tmp_path: Path) -> None:
    said = refusal(configure(linux, tmp_path / "p", "-DRKLLM_CROSS_PREFIX=/none/aarch64-linux-gnu-"))
    assert "/none/aarch64-linux-gnu-g++ does not run: set RKLLM_CROSS_PREFIX" in said
    said = refusal(configure(linux, tmp_path / "q", f"-DRKLLM_CROSS_PREFIX={tmp_path}"))
    assert "this folder has 0 compilers bin/aarch64-*-gnu-g++" in said


def test_a_path_without_a_compiler_is_refused_with_what_to_install(linux: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    suffix = "-DRKLLM_CROSS_SUFFIX=-of-nobody"  # so that an installed one does not match
    said = refusal(configure(linux, tmp_path / "p", suffix))
    assert "no compiler for aarch64 on PATH: unpack gcc-arm-10.2-2020.11" in said


# ---- Android ----


@pytest.fixture
def android(repo: Path) -> Path:
    return repo / "cross" / "android-arm64.cmake"


@pytest.mark.parametrize("given", ["option", *NDK])
def test_the_ndk_is_told_what_the_library_needs(android: Path, tmp_path: Path, given: str) -> None:
    ndk = make_ndk(tmp_path / "ndk")
    options = [f"-DANDROID_NDK={ndk}"] if given == "option" else []
    environment = {} if given == "option" else {given: str(ndk)}
    found = variables(configure(android, tmp_path / "p", *options, **environment))
    assert {name: found[name] for name in ("NDK_ABI", "NDK_PLATFORM", "NDK_STL", "NDK_LD")} == {
        "NDK_ABI": "arm64-v8a",
        "NDK_PLATFORM": "android-24",
        "NDK_STL": "c++_static",
        "NDK_LD": "lld",
    }


@pytest.mark.parametrize("kind", ["SHARED", "MODULE", "EXE"])
def test_pages_of_16_kb_survive_the_ndks_own_flags(android: Path, tmp_path: Path, kind: str) -> None:
    ndk = make_ndk(tmp_path / "ndk")
    for _ in range(2):  # a second configuration must not add to the first
        found = variables(configure(android, tmp_path / "p", f"-DANDROID_NDK={ndk}"))
        flags = found[f"CMAKE_{kind}_LINKER_FLAGS"].split()
        assert "-Wl,--build-id" in flags
        assert flags.count("-Wl,-z,max-page-size=16384") == 1


def test_an_ndk_that_leaves_the_flags_to_cmake_gets_them_as_initial_ones(android: Path, tmp_path: Path) -> None:
    ndk = make_ndk(tmp_path / "ndk", "27.2.12479018", NDK_FILE)
    found = variables(configure(android, tmp_path / "p", f"-DANDROID_NDK={ndk}"))
    assert found["CMAKE_SHARED_LINKER_FLAGS_INIT"].split() == ["-Wl,-z,max-page-size=16384"]


def test_a_missing_ndk_is_refused_with_what_to_set(android: Path, tmp_path: Path) -> None:
    said = refusal(configure(android, tmp_path / "p"))
    assert "no Android NDK: set ANDROID_NDK_HOME to the folder of an unpacked NDK, r21e or newer" in said
    said = refusal(configure(android, tmp_path / "q", ANDROID_NDK_HOME=str(tmp_path)))
    assert f"{tmp_path} is no Android NDK" in said


@pytest.mark.parametrize("revision", ["16.1.4479499", "20.1.5948944", "21.3.6528147", ""])
def test_an_old_ndk_is_refused_with_both_versions(android: Path, tmp_path: Path, revision: str) -> None:
    ndk = make_ndk(tmp_path / "ndk", revision)
    said = refusal(configure(android, tmp_path / "p", f"-DANDROID_NDK={ndk}"))
    assert f"is Android NDK {revision}; r21e (21.4) or newer is needed" in said


def test_another_abi_is_refused(android: Path, tmp_path: Path) -> None:
    ndk = make_ndk(tmp_path / "ndk")
    said = refusal(configure(android, tmp_path / "p", f"-DANDROID_NDK={ndk}", "-DANDROID_ABI=armeabi-v7a"))
    assert "ANDROID_ABI=armeabi-v7a: this file builds for arm64-v8a" in said


@pytest.mark.parametrize("platform", ["android-21", "23"])
def test_androids_without_runpath_are_built_for_with_a_warning(android: Path, tmp_path: Path, platform: str) -> None:
    ndk = make_ndk(tmp_path / "ndk")
    done = configure(android, tmp_path / "p", f"-DANDROID_NDK={ndk}", f"-DANDROID_PLATFORM={platform}")
    assert variables(done)["NDK_PLATFORM"] == platform
    assert "has to load librkllmrt.so before anything that needs it" in " ".join(done.stderr.split())


@pytest.mark.parametrize("platform", ["android-19", "latest"])
def test_androids_without_64_bits_are_refused(android: Path, tmp_path: Path, platform: str) -> None:
    ndk = make_ndk(tmp_path / "ndk")
    said = refusal(configure(android, tmp_path / "p", f"-DANDROID_NDK={ndk}", f"-DANDROID_PLATFORM={platform}"))
    assert f"ANDROID_PLATFORM={platform}: android-21 or later is needed" in said


# ---- build.sh ----


@pytest.mark.parametrize("arguments", [[], ["windows"], ["android", "-x"], ["aarch64-linux", "more"]])
def test_wrong_usage_of_the_build_script_is_status_2(repo: Path, arguments: list[str]) -> None:
    done = subprocess.run([str(repo / "cross" / "build.sh"), *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage: cross/build.sh aarch64-linux|android" in done.stderr


def build_wheel(repo: Path, target: str, root: Path, out: Path) -> str:
    """Return the refusal of the build script to make a wheel with these headers."""
    command = [str(repo / "cross" / "build.sh"), target, "-p", str(root), "-o", str(out), "-b", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert not out.exists()  # before anything was built
    return done.stderr


def test_a_root_without_headers_is_refused(repo: Path, tmp_path: Path) -> None:
    said = build_wheel(repo, "aarch64-linux", tmp_path, tmp_path / "out")
    assert "usr/include/python3.*/Python.h; the headers of one Python are needed" in said


def test_a_root_without_sysconfig_data_is_refused_with_its_package(repo: Path, tmp_path: Path) -> None:
    headers = tmp_path / "usr" / "include" / "python3.11"
    headers.mkdir(parents=True)
    (headers / "Python.h").touch()
    said = build_wheel(repo, "aarch64-linux", tmp_path, tmp_path / "out")
    assert "_sysconfigdata__aarch64-linux-gnu.py is missing: unpack libpython3.11-stdlib as well" in said


def test_an_android_python_without_its_stable_library_is_refused(repo: Path, tmp_path: Path) -> None:
    headers = tmp_path / "include" / "python3.13"
    headers.mkdir(parents=True)
    (headers / "Python.h").touch()
    said = build_wheel(repo, "android", tmp_path, tmp_path / "out")
    assert "lib/libpython3.so is missing: the module has to name it" in said


# ---- unpack.sh ----


@pytest.mark.parametrize("arguments", [[], ["gcc-10"], ["gcc-9", "folder"]])
def test_wrong_usage_of_the_unpack_script_is_status_2(repo: Path, tmp_path: Path, arguments: list[str]) -> None:
    command = [str(repo / "cross" / "unpack.sh"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "usage: cross/unpack.sh WHAT FOLDER" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_unpacking_over_something_is_refused(repo: Path, tmp_path: Path) -> None:
    command = [str(repo / "cross" / "unpack.sh"), "gcc-10", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{tmp_path}: exists already" in done.stderr
