# SPDX-License-Identifier: Apache-2.0
"""A folder that plays a board to deploy to."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import pip
from unit.board_files import make_board

HERE = Path(__file__).resolve().parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class FakeBoard:
    """A folder with a board's files in root/, its programs in bin/, and room for a workshop.

    The programs are this machine's but for those that only a board has, or that a test wants to fail: `cat` takes part
    of a push when there is a file "break", once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = make_board(folder / "root")
        self.workshop = folder / "workshop"
        self.port = free_port()
        self.environment = {"PATH": f"{folder}/bin:/usr/bin:/bin", "BOARD": str(folder)}
        program(folder / "bin" / "uname", '#!/bin/sh\n[ "$1" = -m ] && echo aarch64 || exec /bin/uname "$@"\n')
        self._python = getattr(sys, "_base_executable", sys.executable)
        (folder / "pip").mkdir(parents=True)
        (folder / "pip" / "pip").symlink_to(Path(pip.__file__).parent)
        # An environment takes its pip from here: unpacking one into each would take most of the time of these tests.
        quick = f'{self._python} -m venv --without-pip "$3"\n'
        quick += f'for site in "$3"/lib/python3*/site-packages; do echo {folder}/pip > "$site/pip.pth"; done'
        program(
            folder / "bin" / "python3", f'#!/bin/sh\n[ "$1 $2" = "-m venv" ] || exec {self._python} "$@"\n{quick}\n'
        )
        program(folder / "bin" / "sudo", '#!/bin/sh\n[ "$1" = -n ] && shift\nexec "$@"\n')
        broken = 'if [ -e "$BOARD/break" ]; then rm "$BOARD/break"; head -c 1000000 "$@"; exit 1; fi'
        program(folder / "bin" / "cat", f'#!/bin/sh\ncase "$1" in "" | *.piece) {broken} ;; esac\nexec /bin/cat "$@"\n')

    def give_real_python(self) -> None:
        program(self.folder / "bin" / "python3", f'#!/bin/sh\nexec {self._python} "$@"\n')

    def give_systemd(self) -> None:
        (self.root / "run" / "systemd" / "system").mkdir(parents=True)
        (self.root / "etc" / "systemd" / "system").mkdir(parents=True)
        shutil.copy(HERE / "systemctl_standin.sh", self.folder / "bin" / "systemctl")
        (self.folder / "bin" / "systemctl").chmod(0o755)

    def server_pids(self) -> list[int]:
        """Return the processes that run out of the workshop's environment."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if len(words) > 1 and words[1] == f"{self.workshop}/env/bin/rkllm-ext".encode():
                    found.append(int(entry.name))
        return found

    def stop(self) -> None:
        for pid in self.server_pids():
            os.kill(pid, signal.SIGKILL)
