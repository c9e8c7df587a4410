# SPDX-License-Identifier: Apache-2.0
"""The journal of a file that is written in pieces: what is done already, so that an interrupted writer can go on.

``.m.rkllm.partial`` is the unfinished file of ``m.rkllm``, ``.m.rkllm.journal`` a line of JSON for the work as a whole
and one for each piece that was written. A piece counts only if its bytes in the partial file have the checksum of its
line: nothing needs to reach the disk in any order.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from .errors import InvalidArgumentError, RKLLMError

Piece = tuple[int, dict[str, Any]]  # checksum of its bytes, what its writer wants to remember


def partial_path(path: Path) -> Path:
    """Return where the unfinished file of `path` is."""
    return path.with_name(f".{path.name[:200]}.partial")


def would_fail_again(error: BaseException) -> bool:
    """Whether an error is what this package refuses, and would refuse again; after others a writer may go on."""
    return isinstance(error, RKLLMError) and not isinstance(error, MemoryError)


class Journal:
    """The journal for `path`. One process at a time has it open.

    Attributes
    ----------
    partial : Path
        The unfinished file.
    """

    def __init__(self, path: Path) -> None:
        self.partial = partial_path(path)
        self._path = path.with_name(f".{path.name[:200]}.journal")
        self._fd = -1

    def open(self, identity: str) -> list[Piece]:
        """Return the pieces that a writer of the same identity has noted; none if the last one was another.

        Raises
        ------
        InvalidArgumentError
            Another process is writing the file.
        OSError
        """
        self._fd = self._locked()
        with open(self._fd, encoding="utf-8", errors="replace", closefd=False) as file:
            file.seek(0)
            first, *lines = file.read().split("\n")
        pieces = []
        if first == json.dumps({"identity": identity}):
            with contextlib.suppress(ValueError, TypeError, KeyError):  # a line that was cut ends the list
                for line in lines:
                    row = json.loads(line)
                    pieces.append((int(row["checksum"]), dict(row["facts"])))
        os.ftruncate(self._fd, 0)
        self._put({"identity": identity})
        return pieces

    def add(self, piece: Piece) -> None:
        """Note a piece that was written."""
        self._put({"checksum": piece[0], "facts": piece[1]})

    def close(self) -> None:
        """Let go of the journal and leave it for the next writer."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Let go of the journal and delete it."""
        if self._fd >= 0:  # else it may be another process's
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        self.close()

    def _put(self, row: dict[str, Any]) -> None:
        os.write(self._fd, (json.dumps(row) + "\n").encode())

    def _locked(self) -> int:
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever had it before may have deleted it; then the lock is on a file without a name.
                if os.path.exists(self._path) and os.path.samestat(os.fstat(fd), os.stat(self._path)):
                    return fd
            except BlockingIOError:
                os.close(fd)
                raise InvalidArgumentError(
                    f"{self.partial}: another process is writing it; wait for its end, or choose another name or folder"
                ) from None
            os.close(fd)
