# SPDX-License-Identifier: Apache-2.0
"""Running programs as a user does: lines on stdin, Ctrl-C."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from pathlib import Path
from typing import IO

TIMEOUT = 120


def talk(program: Path, lines: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program with these lines on stdin to its end."""
    return subprocess.run(
        [program, *map(str, arguments)],
        input=lines,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        env={**os.environ, "RKLLM_LOG_LEVEL": "0"},
    )


class Conversation:
    """A program that is still running: a context manager that leaves none behind."""

    def __init__(self, program: Path, *arguments: object) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [program, *map(str, arguments)], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT
        )

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def say(self, line: str) -> None:
        """Write a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def hear(self) -> bytes:
        """Return what the program prints next, at least one byte; nothing when it has ended."""
        ready, _, _ = select.select([self._stdout], [], [], TIMEOUT)
        assert ready, "the program prints nothing"
        return os.read(self._stdout.fileno(), 4096)

    def hear_line(self) -> bytes:
        """Return what the program prints until the end of a line."""
        heard = b""
        while not heard.endswith(b"\n"):
            heard += self.hear()
        return heard

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def exit_code(self) -> int:
        """Wait for the end, reading what is still printed, and return the exit code."""
        self._process.communicate(timeout=TIMEOUT)
        return self._process.returncode
