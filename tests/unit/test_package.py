# SPDX-License-Identifier: Apache-2.0
"""What is installed: the files of the wheel, and the two shared libraries as the dynamic linker sees them."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

import rkllm_ext
from rkllm_ext import _rkllm

LIBRARY = Path(rkllm_ext.library_path())
MODULE = Path(_rkllm.__file__)
# What every Linux has; not the C++ runtime, which differs between systems and is linked statically.
SYSTEM_LIBRARIES = r"(libc|libm|libpthread|libdl|librt|ld-linux[\w-]*)\.so\.\d+"


def output(tool: str, *arguments: str | Path) -> str:
    """Return what a program of binutils prints, or skip where there is none."""
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"needs {tool} of binutils")
    command = [found, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={"LC_ALL": "C"}).stdout


def dynamic(library: Path, tag: str) -> list[str]:
    """Return the texts of a tag of the dynamic section: NEEDED, SONAME, RPATH, RUNPATH."""
    return re.findall(rf"\({tag}\)[^\[]*\[(.*)\]", output("readelf", "--dynamic", "--wide", library))


def exported(library: Path) -> set[str]:
    """Return the names that a library defines for others."""
    listing = output("nm", "--dynamic", "--defined-only", "--format=posix", library)
    return {line.split()[0].partition("@")[0] for line in listing.splitlines()}


def declared(header: Path) -> set[str]:
    """Return the functions that a header of ours declares."""
    return set(re.findall(r"^RKLLM_API\s[^(;]*?\b(rkllm_\w+)\(", header.read_text(encoding="utf-8"), re.M))


def installed_files() -> set[str]:
    distribution = metadata.distribution("rkllm_ext")
    if "editable" in (distribution.read_text("direct_url.json") or ""):
        pytest.skip("an editable install has no files of its own")
    return {str(path) for path in distribution.files or [] if "__pycache__" not in str(path)}


def test_library_has_the_name_that_programs_load() -> None:
    assert LIBRARY.name == "librkllmrt.so"
    assert dynamic(LIBRARY, "SONAME") == ["librkllmrt.so"]


def test_library_needs_only_the_c_library() -> None:
    needed = dynamic(LIBRARY, "NEEDED")
    assert needed
    assert [name for name in needed if not re.fullmatch(SYSTEM_LIBRARIES, name)] == []


def test_library_exports_exactly_what_the_headers_declare() -> None:
    include = Path(rkllm_ext.get_include())
    names = declared(include / "rkllm.h") | declared(include / "rkllm_ext.h")
    assert {"rkllm_init", "rkllm_ext_version"} <= names
    assert exported(LIBRARY) == names


def test_module_looks_for_the_library_beside_itself_and_yields_to_the_environment() -> None:
    assert dynamic(MODULE, "RUNPATH") == ["$ORIGIN"]
    assert dynamic(MODULE, "RPATH") == []  # would win over LD_LIBRARY_PATH
    needed = dynamic(MODULE, "NEEDED")
    assert "librkllmrt.so" in needed
    assert [name for name in needed if not re.fullmatch(rf"librkllmrt\.so|{SYSTEM_LIBRARIES}", name)] == []


def test_module_exports_nothing_but_its_initialisation() -> None:
    assert exported(MODULE) == {"PyInit__rkllm"}


@pytest.mark.parametrize("path", [LIBRARY, MODULE], ids=lambda path: path.name.partition(".")[0])
def test_shared_object_has_no_writable_code_and_no_executable_stack(path: Path) -> None:
    headers = output("readelf", "--program-headers", "--wide", path)
    flags = dict(re.findall(r"^\s+(LOAD|GNU_STACK)\s.*?\s([RWE ]{3})\s+0x\w+$", headers, re.M))
    assert flags["GNU_STACK"].strip() == "RW"
    assert not re.search(r"^\s+LOAD\s.*\sRWE\s", headers, re.M)


@pytest.mark.parametrize("path", ["librkllmrt.so", "include/rkllm.h", "include/rkllm_ext.h", "py.typed", "_rkllm.pyi"])
def test_install_has(path: str) -> None:
    assert f"rkllm_ext/{path}" in installed_files()


def test_install_has_every_python_file_of_the_source(repo: Path) -> None:
    source = repo / "src"
    wanted = {str(path.relative_to(source)) for path in source.glob("rkllm_ext/**/*.py")}
    assert wanted
    assert wanted <= installed_files()


def test_install_has_no_source_of_the_module() -> None:
    sources = [name for name in installed_files() if name.endswith((".pyx", ".pxd", ".pxi", ".c", ".cpp", ".o"))]
    assert sources == []
    headers = {name for name in installed_files() if name.endswith(".h")}
    assert headers == {"rkllm_ext/include/rkllm.h", "rkllm_ext/include/rkllm_ext.h"}


def test_install_puts_nothing_outside_the_package() -> None:
    own = re.compile(r"rkllm_ext/|rkllm_ext-[\d.]+\.dist-info/|(\.\./)+bin/rkllm-ext$")
    assert [name for name in installed_files() if not own.match(name)] == []


def test_install_carries_the_license() -> None:
    assert any(name.endswith("LICENSE") and ".dist-info/" in name for name in installed_files())
    assert metadata.metadata("rkllm_ext").get("License-Expression", "Apache-2.0") == "Apache-2.0"


def test_the_oldest_packages_of_ci_are_the_oldest_that_are_allowed(repo: Path) -> None:
    lines = (repo / "tests" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    rows = {name: (version, why) for name, version, why in re.findall(r"^([\w-]+)==(\S+)(.*)$", "\n".join(lines), re.M)}
    assert len(rows) == len(lines) - 1, "each line but the first is a package"
    required = metadata.distribution("rkllm_ext").requires or []
    least = {match[1]: match[2] for match in (re.match(r"([\w-]+)>=([\d.]+)", line) for line in required) if match}
    assert {name for line in required if "extra ==" not in line for name in re.findall(r"^[\w-]+", line)} <= set(rows)
    for name, (version, why) in rows.items():
        assert version.startswith(f"{least[name]}.") or why == f"  # {least[name]} has none"
