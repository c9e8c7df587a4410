# SPDX-License-Identifier: Apache-2.0
"""Files that go to a board: only what is not there yet, and a broken push goes on where it stopped.

A file is pushed as NAME.part and renamed when its SHA-256 is right, so a file of its own name is always whole.
"""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

from ..errors import RKLLMError
from ..progress import Progress
from .reach import Board

__all__ = ["Transfer", "digest"]

_BLOCK = 4 << 20


def digest(path: Path, most: int | None = None) -> str:
    """Return the SHA-256 of a file, or of its first `most` bytes."""
    found = hashlib.sha256()
    left = path.stat().st_size if most is None else most
    with open(path, "rb") as file:
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            found.update(block)
            left -= len(block)
    return found.hexdigest()


class Transfer:
    """A file of this machine on its way to a board.

    Attributes
    ----------
    sum
        Its SHA-256.
    is_there
        The board has it with these bytes.
    missing
        Bytes that have to go there.
    """

    def __init__(self, board: Board, local: Path, remote: str) -> None:
        self._board = board
        self.local = local
        self.remote = remote
        self.size = local.stat().st_size
        self.sum = digest(local)
        name = shlex.quote(remote)
        # One question: the sizes and sums of the file and its unfinished part, "-" for one that is not there.
        script = (
            f'for f in {name} {name}.part; do [ -f "$f" ] && '
            'echo "$(wc -c < "$f") $(sha256sum < "$f" | cut -c1-64)" || echo -; done'
        )
        rows = [line.split() for line in board.ask(script).out.splitlines()]
        self.is_there = bool(rows) and rows[0] == [str(self.size), self.sum]
        self._held = 0
        if not self.is_there and len(rows) > 1 and len(rows[1]) == 2 and int(rows[1][0]) <= self.size:
            held = int(rows[1][0])
            self._held = held if digest(local, held) == rows[1][1] else 0
        self.missing = 0 if self.is_there else self.size - self._held

    def push(self) -> None:
        """Bring to the board what it does not have.

        Raises
        ------
        RKLLMError
            The connection broke, or the bytes that arrived are others. The next transfer goes on behind what is there.
        """
        if self.is_there:
            return
        board, name = self._board, shlex.quote(self.remote)
        board.do(f"mkdir -p {shlex.quote(str(Path(self.remote).parent))}", "making a folder")
        if not self._held:
            board.do(f"rm -f {name}.part && : > {name}.part", "beginning a file")
        with Progress(True, self.missing, self.local.name) as progress:
            board.append(self.local, self._held, f"{self.remote}.part", progress.add)
        script = f'[ "$(sha256sum < {name}.part | cut -c1-64)" = {self.sum} ] && mv -f {name}.part {name}'
        if board.attempt(script).status != 0:
            board.attempt(f"rm -f {name}.part")
            raise RKLLMError(f"{board.name}:{self.remote}: what arrived is not what {self.local} holds; try again")
