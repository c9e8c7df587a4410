# SPDX-License-Identifier: Apache-2.0
"""Boards made of Debian's packages: their compiler, their emulator, and what cross/unpack.sh unpacked for them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent.parent
#: Folders with the names that cross/unpack.sh knows; without gcc-10 there, the machine's own cross compiler is used.
TOOLS = Path(os.environ.get("RKLLM_CROSS_TOOLS") or REPO / "build" / "cross-tools")
GCC_10 = TOOLS / "gcc-10"
PREFIX = str(GCC_10 / "bin" / "aarch64-linux-gnu-") if GCC_10.is_dir() else "aarch64-linux-gnu-"
SYSROOT = GCC_10 / "usr" / "aarch64-linux-gnu" if GCC_10.is_dir() else Path("/usr/aarch64-linux-gnu")
EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


#: The arm64 rows of the list of instruction sets, weakest first.
ISAS = re.findall(r"^ISA\((\w+), *aarch64,", (REPO / "src" / "runtime" / "kernels" / "isa.def").read_text(), re.M)
#: Processor model -> the strongest instruction set it has: RK3576's big cores, RK3588's, all that the emulator knows
#: (with cheap signatures of pointers, which take most of the time otherwise).
PROCESSORS = {"cortex-a72": "neon", "cortex-a76": "dotprod", "max,pauth-impdef=on": ISAS[-1]}

#: For modules that build for boards.
needs_compiler = [
    pytest.mark.cross,
    pytest.mark.skipif(
        not shutil.which(PREFIX + "g++"), reason="needs g++-aarch64-linux-gnu, or cross/unpack.sh gcc-10"
    ),
    pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake"),
]
needs_emulator = pytest.mark.skipif(not EMULATOR, reason="needs qemu-user-static")


def run(*command: object, text: str | None = None, **environment: str) -> str:
    """Return what a program prints; its complaint is the test's failure."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "LC_ALL": "C.UTF-8", **environment},
        input=text,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-10000:] + done.stderr[-10000:]
    return done.stdout


def emulate(
    processor: str, program: Path, *arguments: object, libraries: Path, text: str | None = None, **environment: str
) -> str:
    """Return what a program for arm64 prints on a processor."""
    options = ["-cpu", processor, "-L", SYSROOT, "-E", f"LD_LIBRARY_PATH={libraries}"]
    return run(EMULATOR, *options, program, *arguments, text=text, **environment)


def dynamic(file: Path, tag: str) -> list[str]:
    """Return the texts of a tag of the dynamic section: NEEDED, SONAME, RPATH, RUNPATH."""
    return re.findall(rf"\({tag}\)[^\[]*\[(.*)\]", run(PREFIX + "readelf", "--dynamic", "--wide", file))


def newest_glibc(file: Path) -> tuple[int, ...]:
    """Return the newest version of glibc that a file has references to, weak ones included."""
    needed = run(PREFIX + "readelf", "--version-info", "--wide", file)
    return max(tuple(map(int, text.split("."))) for text in re.findall(r"Name: GLIBC_([\d.]+)", needed))


def exported(file: Path) -> set[str]:
    """Return the names that a library defines for others."""
    listing = run(PREFIX + "nm", "--dynamic", "--defined-only", "--format=posix", file)
    return {line.split()[0].partition("@")[0] for line in listing.splitlines()}


def declared(headers: Path) -> set[str]:
    """Return the functions that the headers of a folder declare."""
    text = "".join(path.read_text() for path in sorted(headers.glob("rkllm*.h")))
    return set(re.findall(r"^RKLLM_API\s[^(;]*?\b(rkllm_\w+)\(", text, re.M))


def is_stripped_for_aarch64(file: Path) -> bool:
    """Tell whether a file is an arm64 one without a table of symbols for debuggers."""
    machine = re.search(r"Machine:\s+(\S+)", run(PREFIX + "readelf", "--file-header", file))
    assert machine is not None
    return machine[1] == "AArch64" and ".symtab" not in run(PREFIX + "readelf", "--sections", "--wide", file)


def wheel_builders() -> dict[str, Path]:
    """Return the PC's Pythons that can build a wheel, by version, where the headers of the arm64 one are there too."""
    own = "{}.{}".format(*sys.version_info[:2])
    found = {own: Path(sys.executable), "3.9": TOOLS / "pc-python3.9" / "bin" / "python3.9"}
    checks = "import build, scikit_build_core, Cython"
    return {
        version: python
        for version, python in found.items()
        if (TOOLS / f"python{version}").is_dir()
        and python.exists()
        and subprocess.run([str(python), "-c", checks], capture_output=True).returncode == 0
    }
