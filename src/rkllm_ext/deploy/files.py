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

__all__ = ["Pushed", "digest", "push"]

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


class Pushed:
    """What the board has of a file.

    Attributes
    ----------
    whole
        It is there with these bytes.
    part
        Bytes of an unfinished push that are right.
    """

    def __init__(self, board: Board, local: Path, remote: str) -> None:
        name = shlex.quote(remote)
        # One question: the sizes and sums of both, "-" for one that is not there.
        script = (
            f"for f in {name} {name}.part; do [ -f \"$f\" ] && "
            'echo "$(wc -c < "$f") $(sha256sum < "$f" | cut -c1-64)" || echo -; done'
        )
        rows = [line.split() for line in board.ask(script).out.splitlines()]
        size = local.stat().st_size
        self.sum = digest(local)
        self.whole = bool(rows) and rows[0] == [str(size), self.sum]
        self.part = 0
        if not self.whole and len(rows) > 1 and len(rows[1]) == 2 and int(rows[1][0]) <= size:
            held = int(rows[1][0])
            self.part = held if digest(local, held) == rows[1][1] else 0

    def missing(self, local: Path) -> int:
        """Return the bytes that have to go there."""
        return 0 if self.whole else local.stat().st_size - self.part


def push(board: Board, local: Path, remote: str, there: Pushed) -> bool:
    """Bring a file to a board. Returns whether anything had to go.

    Raises
    ------
    RKLLMError
        The connection broke, or the bytes that arrived are others. Calling it again goes on behind what is there.
    """
    if there.whole:
        return False
    name = shlex.quote(remote)
    board.do(f"mkdir -p {shlex.quote(str(Path(remote).parent))}", "making a folder")
    if not there.part:
        board.do(f"rm -f {name}.part && : > {name}.part", "beginning a file")
    with Progress(True, there.missing(local), local.name) as progress:
        board.append(local, there.part, f"{remote}.part", progress.add)
    script = f'[ "$(sha256sum < {name}.part | cut -c1-64)" = {there.sum} ] && mv -f {name}.part {name}'
    if board.attempt(script).status != 0:
        board.attempt(f"rm -f {name}.part")
        raise RKLLMError(f"{board.name}:{remote}: what arrived is not what {local} holds; run the command again")
    return True
