# SPDX-License-Identifier: Apache-2.0
"""What cross/build.sh makes for aarch64 Linux, built once for all tests of this folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from board import PREFIX, REPO, TOOLS, run, wheel_builders


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that everything is built in: a new one, or that of RKLLM_CROSS_BUILD, kept for next time."""
    kept = os.environ.get("RKLLM_CROSS_BUILD")
    if kept:
        return Path(kept)
    return tmp_path_factory.mktemp("aarch64") / "build"


@pytest.fixture(scope="session")
def out(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that goes to the board: lib, bin, include, and the wheels that can be built here."""
    folder = tmp_path_factory.mktemp("board")
    command = [REPO / "cross" / "build.sh", "aarch64-linux", "-o", folder, "-b", build]
    run(*command, RKLLM_CROSS_PREFIX=PREFIX)
    auditwheel = os.environ.get("AUDITWHEEL") or shutil.which("auditwheel")
    for version, python in wheel_builders().items() if auditwheel else ():
        run(*command, "-p", TOOLS / f"python{version}", RKLLM_CROSS_PREFIX=PREFIX, PYTHON=str(python))
    return folder


@pytest.fixture(scope="session")
def wheels(out: Path) -> list[Path]:
    """Return the wheels, or skip."""
    found = sorted(out.glob("*.whl"))
    if not found:
        pytest.skip(
            "needs auditwheel, build, scikit-build-core, cython, and from cross/unpack.sh "
            f"python3.11 or python3.9 with pc-python3.9 in {TOOLS}"
        )
    return found
