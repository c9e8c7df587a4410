# SPDX-License-Identifier: Apache-2.0
"""Android without an NDK: the wheel that cross/build.sh makes with a stand-in, and r21e's generation of clang."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from board import GCC_10, PREFIX, REPO, SYSROOT, TOOLS, declared, dynamic, exported, needs_compiler, run, wheel_builders
from ndk import make_compiling_ndk

CLANG = TOOLS / "clang-9" / "bin" / "clang++"
OWN = "{}.{}".format(*sys.version_info[:2])
pytestmark = needs_compiler


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what stands for the installed CPython for Android: headers, and an empty libpython3.so."""
    if OWN not in wheel_builders():
        pytest.skip(
            f"needs python{OWN} of cross/unpack.sh in {TOOLS}, and the packages build, scikit-build-core, cython"
        )
    folder = tmp_path_factory.mktemp("android-python")
    root, headers = TOOLS / f"python{OWN}" / "usr" / "include", folder / "include" / f"python{OWN}"
    shutil.copytree(root / f"python{OWN}", headers)
    shutil.copy(root / "aarch64-linux-gnu" / f"python{OWN}" / "pyconfig.h", headers)
    (folder / "lib").mkdir()
    library = folder / "lib" / "libpython3.so"
    run(PREFIX + "gcc", "-shared", "-Wl,-soname,libpython3.so", "-x", "c", "/dev/null", "-o", library)
    return folder


@pytest.fixture(scope="module")
def out(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("android")
    ndk = make_compiling_ndk(folder / "ndk", PREFIX)
    command = [REPO / "cross" / "build.sh", "android", "-o", folder / "out", "-b", folder / "build", "-p", prefix]
    run(*command, ANDROID_NDK_HOME=str(ndk), PYTHON=sys.executable)
    return folder / "out"


@pytest.fixture(scope="module")
def unpacked(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (wheel,) = out.glob("*.whl")
    folder = tmp_path_factory.mktemp("android-wheel")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_has_the_label_of_pep_738(out: Path, unpacked: Path) -> None:
    (wheel,) = out.glob("*.whl")
    assert wheel.name.endswith("-cp311-abi3-android_24_arm64_v8a.whl")
    (record,) = unpacked.glob("*.dist-info/WHEEL")
    assert re.findall(r"^Tag: (.*)$", record.read_text(), re.M) == ["cp311-abi3-android_24_arm64_v8a"]


def test_the_wheel_has_module_library_headers_and_python_files(unpacked: Path) -> None:
    package = unpacked / "rkllm_ext"
    assert sorted(path.name for path in package.glob("*.so")) == ["_rkllm.abi3.so", "librkllmrt.so"]
    assert sorted(path.name for path in (package / "include").iterdir()) == ["rkllm.h", "rkllm_ext.h"]
    assert (package / "llm.py").is_file()


def test_the_wheel_requires_nothing_compiled_on_android(unpacked: Path) -> None:
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    required = re.findall(r"^Requires-Dist: (.*)$", metadata.read_text(), re.M)
    compiled = [line for line in required if re.match(r"numpy|gguf|safetensors", line)]
    assert len(compiled) == 3
    assert all(re.search(r"""; *sys_platform != ["']android["']$""", line) for line in compiled)


def test_the_module_names_libpython_and_finds_the_library_beside_it(unpacked: Path) -> None:
    module = unpacked / "rkllm_ext" / "_rkllm.abi3.so"
    assert {"libpython3.so", "librkllmrt.so"} <= set(dynamic(module, "NEEDED"))
    assert dynamic(module, "RUNPATH") == ["$ORIGIN"]
    assert exported(module) == {"PyInit__rkllm"}


def test_the_library_has_the_cxx_library_inside(unpacked: Path) -> None:
    library = unpacked / "rkllm_ext" / "librkllmrt.so"
    assert not [name for name in dynamic(library, "NEEDED") if "++" in name or "gcc" in name]
    assert dynamic(library, "SONAME") == ["librkllmrt.so"]
    assert exported(library) == declared(unpacked / "rkllm_ext" / "include")


def test_files_are_laid_out_for_pages_of_16_kb(out: Path, unpacked: Path) -> None:
    files = [*(unpacked / "rkllm_ext").glob("*.so"), out / "lib" / "librkllmrt.so", out / "bin" / "llm_demo"]
    assert len(files) == 4
    for path in files:
        headers = run(PREFIX + "readelf", "--program-headers", "--wide", path)
        assert set(re.findall(r"^\s+LOAD\s.*\s(0x\w+)$", headers, re.M)) == {"0x4000"}, path


#: Instruction sets that are younger than clang 9: r21e's libraries are without them, as CMakeLists.txt says aloud.
TOO_YOUNG = ["smmla"]


def engine_sources() -> list[Path]:
    runtime = REPO / "src" / "runtime"
    names = re.findall(r"^ISA\((\w+), *x86_64,", (runtime / "kernels/isa.def").read_text(), re.M)
    left_out = {f"{name}.cpp" for name in [*names, *TOO_YOUNG]}
    return [path for path in sorted(runtime.rglob("*.cpp")) if path.name not in left_out]


def flags_of(path: Path) -> list[str]:
    """Return what a source is compiled with: kernels to the end, for their instructions, others are only checked."""
    if path.parent.name != "kernels":
        return ["-fsyntax-only"]
    rows = (REPO / "src" / "runtime" / "kernels" / "isa.def").read_text()
    flags = dict(re.findall(r'^ISA\((\w+), *\w+, *"([^"]*)"', rows, re.M))
    return ["-O1", "-c", "-o", "/dev/null", *flags.get(path.stem, "").split()]


needs_clang = pytest.mark.skipif(
    not (CLANG.exists() and GCC_10.is_dir()), reason="needs clang-9 and gcc-10 of cross/unpack.sh"
)


@needs_clang
def test_all_of_the_engine_compiles_with_clang_9_and_its_library() -> None:
    options = ["--target=aarch64-linux-gnu", f"--sysroot={SYSROOT}", "-idirafter", SYSROOT / "include", "-std=c++17"]
    options += [
        "-ffp-contract=off",
        "-fno-math-errno",
        "-fPIC",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-DRKLLM_ARCH_aarch64=1",
    ]
    options += ['-DRKLLM_EXT_VERSION="0"', f"-I{REPO / 'include'}", f"-I{REPO / 'src' / 'runtime'}"]
    sources = engine_sources()
    assert len(sources) > 50
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda path: run(CLANG, *options, *flags_of(path), path), sources))
    assert said == [""] * len(sources)


@needs_clang
def test_instruction_sets_that_clang_9_does_not_know_are_left_out_aloud(tmp_path: Path) -> None:
    command = ["cmake", "-S", REPO, "-B", tmp_path, "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
    command += [f"-DCMAKE_SYSROOT={SYSROOT}", "-DCMAKE_TRY_COMPILE_TARGET_TYPE=STATIC_LIBRARY"]
    for language, compiler in (("C", CLANG.with_name("clang")), ("CXX", CLANG)):
        command += [f"-DCMAKE_{language}_COMPILER={compiler}", f"-DCMAKE_{language}_COMPILER_TARGET=aarch64-linux-gnu"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert re.findall(r"is built without the instruction set (\w+),", said) == TOO_YOUNG
