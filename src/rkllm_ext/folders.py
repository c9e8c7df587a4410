# SPDX-License-Identifier: Apache-2.0
"""Folders that are there for a while."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["temporary_folder"]


@contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder that goes at the end with all that is in it.

    `tempfile.TemporaryDirectory` leaves it where a signal ends the program in the moment in which it is made.
    """
    path = parent / f"{prefix}{secrets.token_hex(8)}"
    try:
        path.mkdir(mode=0o700)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
