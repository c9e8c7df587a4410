# SPDX-License-Identifier: Apache-2.0
"""A server that keeps running on a board: a systemd unit, or a process of its own where there is no systemd."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import RKLLMError
from .reach import Board

__all__ = ["READY", "Service"]

#: What ours, like the vendor's servers, print when requests may come.
READY = "RKLLM Model has been initialized successfully!"
_NAME = "rkllm-server"
#: The vendor's servers raise their limit of open files to this.
_OPEN_FILES = 102400


@dataclass(frozen=True)
class Service:
    """The server of a workshop.

    Attributes
    ----------
    command
        The program and its arguments.
    user
        Who runs it.
    sudo
        What stands before commands of root: "", or "sudo -n ".
    systemd
        Whether systemd runs it.
    before
        A command of root to run before each start, as after the board has been switched on; empty: none.
    contents
        Sums of the files that it reads, so that other files start it anew.
    root
        A folder of the board that stands for its "/etc".
    """

    workshop: str
    command: Sequence[str]
    user: str = "root"
    sudo: str = ""
    systemd: bool = True
    before: Sequence[str] = ()
    contents: str = ""
    root: str = ""

    @property
    def log(self) -> str:
        """Where the server's output goes, from its last start on."""
        return f"{self.workshop}/server.log"

    def start_script(self) -> str:
        """Return the script that becomes the server."""
        return (
            "#!/bin/sh\n# Made by rkllm-ext deploy, which writes it anew.\n"
            f"cd {shlex.quote(self.workshop)} || exit 1\n"
            f"ulimit -n {_OPEN_FILES} 2>/dev/null || ulimit -n \"$(ulimit -H -n)\"\n"
            "unset LD_LIBRARY_PATH  # the servers need the package's own library\n"
            f"export PYTHONUNBUFFERED=1\nexec {shlex.join(self.command)}\n"
        )

    def unit(self) -> str:
        """Return the systemd unit. Paths were checked to need no quoting."""
        before = f"ExecStartPre=-+{' '.join(self.before)}\n" if self.before else ""
        return (
            "# Made by rkllm-ext deploy, which writes it anew.\n"
            f"[Unit]\nDescription=RKLLM server in {self.workshop}\nAfter=network.target\n\n"
            f"[Service]\nUser={self.user}\n{before}ExecStart=/bin/sh {self.workshop}/start.sh\n"
            f"LimitNOFILE={_OPEN_FILES}\nRestart=on-failure\nRestartSec=5\n"
            f"StandardOutput=append:{self.log}\nStandardError=append:{self.log}\n\n"
            "[Install]\nWantedBy=multi-user.target\n"
        )

    @property
    def _unit_path(self) -> str:
        return f"{self.root}/etc/systemd/system/{_NAME}.service"

    @property
    def _mark(self) -> str:
        parts = [self.start_script(), self.contents, *([self.unit()] if self.systemd else [])]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @property
    def _alive(self) -> str:
        """A condition of the shell: the server runs."""
        if self.systemd:
            return f"systemctl is-active --quiet {_NAME}"
        # A number may have become another process's.
        place = shlex.quote(self.workshop)
        return (
            f"[ -f {place}/server.pid ] && "
            f"tr '\\0' ' ' < /proc/\"$(cat {place}/server.pid)\"/cmdline 2>/dev/null | grep -qF {place}/"
        )

    def runs(self, board: Board) -> bool:
        """Return whether this very server runs and is ready."""
        place = shlex.quote(self.workshop)
        answer = board.ask(f"{self._alive} && grep -q '{READY}' {place}/server.log && cat {place}/server.mark")
        return answer.status == 0 and answer.out.strip() == self._mark

    def start(self, board: Board) -> None:
        """Start the server, or start it anew.

        Raises
        ------
        RKLLMError
            It cannot be started.
        """
        place = shlex.quote(self.workshop)
        script = _writing(self.start_script(), f"{self.workshop}/start.sh")
        board.do(f"rm -f {place}/server.mark; {script}", "writing the start script")
        if self.systemd:
            board.do(_writing(self.unit(), self._unit_path, self.sudo), "writing the systemd unit")
            control = f"{self.sudo}systemctl"
            board.do(
                f"{control} daemon-reload && {control} enable --quiet {_NAME} && {control} stop {_NAME}; "
                f": > {shlex.quote(self.log)} && {control} start {_NAME}",
                "starting the systemd unit",
            )
            return
        board.do(
            f"if {self._alive}; then kill \"$(cat {place}/server.pid)\"; fi; "
            f"i=0; while {self._alive} && [ $i -lt 30 ]; do sleep 1; i=$((i + 1)); done; "
            f"if {self._alive}; then kill -9 \"$(cat {place}/server.pid)\"; fi; "
            f"if command -v setsid >/dev/null; then s=setsid; else s=nohup; fi; "
            f"$s sh {place}/start.sh > {place}/server.log 2>&1 < /dev/null & echo $! > {place}/server.pid",
            "starting the server",
        )

    def wait(self, board: Board, seconds: int) -> None:
        """Wait until the server says that it is ready.

        Raises
        ------
        RKLLMError
            It ended, or said nothing in this time; the sentence has its last lines.
        """
        log = shlex.quote(self.log)
        for begun in range(0, seconds, 20):
            tries = min(20, seconds - begun)
            answer = (board.attempt if board.dry_run else board.ask)(  # a dry run does not wait
                f"i=0; while [ $i -lt {tries} ]; do grep -q '{READY}' {log} && exit 0; "
                f"{self._alive} || exit 3; sleep 1; i=$((i + 1)); done; exit 4"
            )
            if board.dry_run:
                return
            if answer.status == 0:
                board.do(f"echo {self._mark} > {shlex.quote(self.workshop)}/server.mark", "writing a note")
                return
            if answer.status == 3:
                break
        last = " | ".join(board.ask(f"tail -n 8 {log}").out.strip().splitlines()) or "nothing"
        what = "ended" if answer.status == 3 else f"did not become ready in {seconds} s"
        if self.systemd and answer.status == 3:
            board.attempt(f"{self.sudo}systemctl disable --quiet --now {_NAME}")
        raise RKLLMError(f"{board.name}: the server {what}; the last lines of {self.log}: {last}")


def _writing(text: str, path: str, sudo: str = "") -> str:
    """Return a script that writes a text file, whole or not at all."""
    name = shlex.quote(path)
    return f"printf %s {shlex.quote(text)} | {sudo}tee {name}.new >/dev/null && {sudo}mv -f {name}.new {name}"
