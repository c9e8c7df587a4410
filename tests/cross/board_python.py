# SPDX-License-Identifier: Apache-2.0
"""An emulated arm64 Python with the wheel, and the packages that its tests need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from board import EMULATOR, PREFIX, REPO, TOOLS, run

#: Versions that cross/unpack.sh has, and the wheel for each.
WHEELS = {"3.9": "cp39-abi3", "3.11": "cp311-abi3", "3.13": "cp311-abi3"}
#: The C library of the Debian that each is of: 2.x.
GLIBC = {"3.9": 31, "3.11": 36, "3.13": 41}
#: Beside numpy and the wheel: what converting needs, and what the tests need.
PACKAGES = [
    *("gguf", "safetensors", "jinja2", "click", "tqdm"),
    *("pytest", "tokenizers", "sentencepiece", "tiktoken", "llguidance", "jsonschema"),
]


class BoardPython:
    """A Python of TOOLS under emulation; `bare` has the wheel and numpy only, `packages` all the rest."""

    def __init__(self, version: str, folder: Path) -> None:
        self.version = version
        self.root = TOOLS / f"python{version}"
        self.program = self.root / "bin" / f"python{version}"
        self.bare = folder / "bare"
        self.packages = folder / "packages"
        self.folder = folder

    def install(self, wheel: Path) -> None:
        """Let its own pip install the wheel and numpy into the folder `bare`."""
        self._fetch("--dest", self.folder / "fetched", "numpy", command="download")
        pip = Path(str(find_spec("pip").origin)).parent  # type: ignore[union-attr]
        options = [
            "--no-index",
            "--no-deps",
            "--no-compile",
            "--disable-pip-version-check",
            "--root-user-action=ignore",
        ]
        given = [wheel, *(self.folder / "fetched").glob("numpy-*.whl")]
        self.run("cortex-a76", pip, "install", "-q", *options, "--target", self.bare, *given)
        # Tests start other Pythons by sys.executable, which would be a file that the kernel here cannot run.
        (self.bare / "sitecustomize.py").write_text(f"import sys\nsys.executable = {str(self.program)!r}\n")

    def install_packages(self) -> None:
        """Unpack the packages for tests and conversion; this machine's pip knows which ones."""
        if not self.packages.exists():
            self._fetch("--target", self.packages, *PACKAGES, command="install")

    def run(self, processor: str, *arguments: object, **environment: str) -> str:
        """Return what this Python prints on a processor."""
        path = os.pathsep.join(str(folder) for folder in (self.bare, self.packages) if folder.exists())
        # Compiling its library again would take two thirds of the time of each start.
        compiled = {"PYTHONPYCACHEPREFIX": str(self.folder / "compiled")}
        environment = {"PYTHONPATH": path, "QEMU_CPU": processor, **compiled, **environment}
        return run(self.program, *arguments, **environment)

    def test(self, processor: str, *arguments: object, seconds: int | None) -> str:
        """Return pytest's report of tests run by this Python; programs that they compile are emulated as well.

        seconds: how long tests may begin, see emulated.py; None: all run.
        """
        shutil.copy(REPO / "tests" / "cross" / "emulated.py", self.bare)
        wrapper = REPO / "tests" / "cross" / "compile_for_board.sh"
        compilers = {name: f"{wrapper} {PREFIX}{tool}" for name, tool in (("CC", "gcc"), ("CXX", "g++"))}
        board = {"BOARD_EMULATOR": str(EMULATOR), "BOARD_ROOT": str(self.root)}
        board.update({} if seconds is None else {"BOARD_SECONDS": str(seconds)})
        options = ["-q", "-p", "emulated", "-p", "no:cacheprovider", f"--basetemp={self.folder / 'tests'}"]
        return self.run(processor, "-m", "pytest", *options, *arguments, **compilers, **board)

    def _fetch(self, *arguments: object, command: str) -> None:
        platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, GLIBC[self.version] + 1)]
        options = [
            f"--python-version={self.version}",
            "--only-binary=:all:",
            "--platform=manylinux2014_aarch64",
            *platforms,
        ]
        pip = [sys.executable, "-m", "pip", command, "-q", "--disable-pip-version-check"]
        done = subprocess.run([*pip, *options, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode and "CI" not in os.environ:
            pytest.skip(f"needs a package index: {done.stderr[-300:]}")
        assert done.returncode == 0, done.stderr
