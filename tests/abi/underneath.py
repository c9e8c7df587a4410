# SPDX-License-Identifier: Apache-2.0
"""Python code on another librkllmrt.so, put under the module by LD_LIBRARY_PATH in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SHARED = ("-std=c99", "-shared", "-fPIC", "-Wl,-soname,librkllmrt.so", "-lpthread")


def folder_of(library: Path, folder: Path) -> Path:
    """Put a library and a file that it takes for a model into a folder."""
    shutil.copy(library, folder / "librkllmrt.so")
    (folder / "model.rkllm").write_bytes(b"anything")
    return folder


def run(folder: Path, code: str, **settings: object) -> str:
    """Run code on the library of a folder, whose model is sys.argv[1], and return what it prints."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), **{k: str(v) for k, v in settings.items()}}
    head = "import sys, rkllm_ext\nfrom rkllm_ext import LLM\n"
    result = subprocess.run(
        [sys.executable, "-c", head + code, str(folder / "model.rkllm")],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
