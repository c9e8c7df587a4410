# SPDX-License-Identifier: Apache-2.0
"""Ways to a board: scripts that run there and bytes that go there, by the system's own ssh and adb.

A board needs a POSIX shell and nothing else for this. Scripts are single arguments; what they say on stdout comes back.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from ..errors import RKLLMError

__all__ = ["Adb", "Answer", "Board", "Ssh"]

_BLOCK = 1 << 20
#: What goes over adb at a time: what a broken connection costs, and the room that a board needs beside the file.
_PIECE = 64 << 20


class Answer(NamedTuple):
    """What a script left: its exit status, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """The last lines it printed, for a message."""
        return " | ".join((self.err.strip() or self.out.strip()).splitlines()[-3:]) or f"exit status {self.status}"


class Reach(Protocol):
    """What ssh and adb have in common."""

    @property
    def name(self) -> str:
        """How messages call the board."""

    @property
    def address(self) -> str | None:
        """Under what name or number this machine reaches the board over the network; None where it is not known."""

    def command(self, script: str) -> list[str]:
        """Return the command line that runs a script."""

    def run(self, script: str) -> Answer:
        """Run a script and wait for it. Raises RKLLMError when the board cannot be reached."""

    def append(self, file: BinaryIO, remote: str, tell: Callable[[int], None]) -> None:
        """Append what is left of a file to one on the board; tell how many bytes have gone."""

    def close(self) -> None:
        """Let go of the connection."""


def client(name: str, package: str) -> str:
    """Return the path of a program of this machine, or raise RKLLMError naming the package that has it."""
    found = shutil.which(name)
    if found is None:
        raise RKLLMError(f"{name} is not installed on this machine; install it (Debian: apt install {package})")
    return found


class Ssh:
    """A board with an ssh server. One connection serves all commands, so a password is asked for once.

    Parameters
    ----------
    host
        "user@board", or a name of ~/.ssh/config.
    config
        Another configuration file for ssh.
    """

    def __init__(self, host: str, config: str | None = None) -> None:
        if not host or host.startswith("-"):
            raise RKLLMError(f"'{host}' is no host; name one as user@board")
        self.name = host
        self._folder = tempfile.mkdtemp(prefix="rkllm-")
        self._base = [client("ssh", "openssh-client"), *(["-F", config] if config else [])]
        self._options = ["-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15"]
        self._options += ["-o", "ControlMaster=auto", "-o", f"ControlPath={self._folder}/%C", "-o", "ControlPersist=60"]
        if not sys.stdin.isatty():
            self._options += ["-o", "BatchMode=yes"]  # nobody could answer

    @property
    def address(self) -> str | None:
        known = subprocess.run([*self._base, "-G", self.name], capture_output=True, text=True)
        found = re.search(r"^hostname (\S+)$", known.stdout, re.MULTILINE)
        return found.group(1) if found else self.name.rpartition("@")[2]

    def command(self, script: str) -> list[str]:
        # The user's shell there may be any; the script is for sh.
        return [*self._base, *self._options, self.name, "exec sh -c " + shlex.quote(script)]

    def run(self, script: str) -> Answer:
        done = subprocess.run(
            self.command(script), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )
        self._look_at(done.returncode, done.stderr)
        return Answer(done.returncode, done.stdout, done.stderr)

    def append(self, file: BinaryIO, remote: str, tell: Callable[[int], None]) -> None:
        command = self.command(f"exec cat >> {shlex.quote(remote)}")
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as sender:
            assert sender.stdin is not None and sender.stderr is not None
            try:
                while block := file.read(_BLOCK):
                    sender.stdin.write(block)
                    tell(len(block))
                sender.stdin.close()
            except BrokenPipeError:
                pass  # its exit status and its words say why
            said = sender.stderr.read().decode("utf-8", "replace")
        self._look_at(sender.returncode, said)
        if sender.returncode != 0:
            raise RKLLMError(f"{self.name}:{remote}: cannot be written: {Answer(sender.returncode, '', said).reason}")

    def _look_at(self, status: int, said: str) -> None:
        if status == 255:  # ssh's own
            raise RKLLMError(f"{self.name}: ssh cannot reach the board: {Answer(status, '', said).reason}")

    def close(self) -> None:
        subprocess.run([*self._base, *self._options, "-O", "exit", self.name], capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)


class Adb:
    """A board on adb. Serial "" takes the only one that is connected.

    The adb of older boards gives no exit status, and changes what is written to a command's input; so the status comes
    in a last line, and bytes go as pieces of a file.
    """

    def __init__(self, serial: str = "") -> None:
        self.name = f"adb {serial}" if serial else "adb"
        self._base = [client("adb", "adb"), *(["-s", serial] if serial else [])]

    @property
    def address(self) -> str | None:
        return None

    def command(self, script: str) -> list[str]:
        return [*self._base, "shell", f'(sh -c {shlex.quote(script)}); echo "rkllm-status $?"']

    def run(self, script: str) -> Answer:
        done = subprocess.run(
            self.command(script), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )
        out = done.stdout.replace("\r\n", "\n")
        text, found, status = out.rpartition("rkllm-status ")
        if not found:
            reason = Answer(done.returncode, out, done.stderr).reason
            raise RKLLMError(f"{self.name}: the board cannot be reached: {reason}; adb devices lists those that can")
        return Answer(int(status.strip()), text, done.stderr)

    def append(self, file: BinaryIO, remote: str, tell: Callable[[int], None]) -> None:
        there = f"{remote}.piece"
        with tempfile.TemporaryDirectory(prefix="rkllm-") as folder:
            piece = Path(folder) / "piece"
            while _copy_piece(file, piece):
                done = subprocess.run([*self._base, "push", str(piece), there], capture_output=True, text=True)
                if done.returncode != 0:
                    reason = Answer(done.returncode, done.stdout, done.stderr).reason
                    raise RKLLMError(f"{self.name}: {there} cannot be written: {reason}")
                joined = self.run(f"cat {shlex.quote(there)} >> {shlex.quote(remote)} && rm {shlex.quote(there)}")
                if joined.status != 0:
                    raise RKLLMError(f"{self.name}: {remote}: cannot be written: {joined.reason}")
                tell(piece.stat().st_size)

    def close(self) -> None:
        """Nothing is held."""


def _copy_piece(file: BinaryIO, piece: Path) -> int:
    """Write the next piece of a file and return its size, 0 at the end."""
    copied = 0
    with open(piece, "wb") as out:
        while copied < _PIECE and (block := file.read(min(_BLOCK, _PIECE - copied))):
            copied += out.write(block)
    return copied


class Board:
    """A board that is asked and changed. With `dry_run` it is only asked, and every command is shown instead.

    Parameters
    ----------
    reach
        The way to it.
    dry_run
        Print each command, run only those that change nothing.
    say
        Receives lines for the user.
    """

    def __init__(self, reach: Reach, dry_run: bool = False, say: Callable[[str], None] = print) -> None:
        self.reach = reach
        self.dry_run = dry_run
        self.say = say

    @property
    def name(self) -> str:
        return self.reach.name

    def _show(self, command: list[str]) -> None:
        if self.dry_run:
            self.say("+ " + shlex.join([os.path.basename(command[0]), *command[1:]]))

    def ask(self, script: str) -> Answer:
        """Run a script that changes nothing."""
        self._show(self.reach.command(script))
        return self.reach.run(script)

    def attempt(self, script: str) -> Answer:
        """Run a script that changes something and may fail."""
        self._show(self.reach.command(script))
        return Answer(0, "", "") if self.dry_run else self.reach.run(script)

    def do(self, script: str, what: str) -> str:
        """Run a script that changes something and return what it printed.

        Raises
        ------
        RKLLMError
            It failed; the sentence begins with `what`.
        """
        answer = self.attempt(script)
        if answer.status != 0:
            raise RKLLMError(f"{self.name}: {what} failed: {answer.reason}")
        return answer.out

    def append(self, local: Path, offset: int, remote: str, tell: Callable[[int], None]) -> None:
        """Append a file from an offset on to one on the board."""
        if self.dry_run:
            self.say(f"+ append {shlex.quote(str(local))} from byte {offset} on to {self.name}:{shlex.quote(remote)}")
            return
        with open(local, "rb") as file:
            file.seek(offset)
            self.reach.append(file, remote, tell)
