# SPDX-License-Identifier: Apache-2.0
"""Compiling C and C++ sources against the installed headers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import rkllm_ext

Compile = Callable[..., Path]


def compiler(variable: str, *names: str) -> str:
    """Return the compiler that an environment variable names, or the first of these that exists, or skip."""
    for name in (os.environ.get(variable), *names):
        if name and shutil.which(name.split()[0]):
            return name
    pytest.skip(f"needs a compiler: {', '.join(names)}")


def build(source: Path, out: Path, *flags: str) -> Path:
    """Compile a source, warnings being errors, and return the result."""
    if source.suffix == ".cpp":
        program = compiler("CXX", "c++", "g++", "clang++")
    else:
        program = compiler("CC", "cc", "gcc", "clang")
    command = [*program.split(), "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{rkllm_ext.get_include()}"]
    result = subprocess.run(
        [*command, str(source), "-o", str(out), *flags], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return out
