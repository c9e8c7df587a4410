# SPDX-License-Identifier: Apache-2.0
"""This package on a board: an environment in the workshop, from the board's package index or without a network."""

from __future__ import annotations

import hashlib
import shlex
import tempfile
from importlib.metadata import version
from pathlib import Path

from ..errors import RKLLMError
from .files import Transfer, digest
from .reach import Answer, Board
from .survey import Survey
from .wheels import download, fitting_wheel

__all__ = ["Environment"]


class Environment:
    """A virtual environment of the board, WORKSHOP/env.

    Parameters
    ----------
    board
        The board.
    facts
        What it says of itself.
    workshop
        The folder there.
    extras
        Extras of this package to install: "server".
    wheel
        A wheel or a folder of wheels on this machine; None: the version of this package from an index.
    """

    def __init__(self, board: Board, facts: Survey, workshop: str, extras: str, wheel: Path | None) -> None:
        self.folder = f"{workshop}/env"
        self.program = f"{self.folder}/bin/rkllm-ext"
        self._board = board
        self._facts = facts
        self._wheels = f"{workshop}/wheels"
        self._given = wheel if wheel is not None and wheel.is_dir() else None
        self._wheel = None if wheel is None else fitting_wheel(wheel, facts)
        self._extras = extras
        held = version("rkllm_ext") if self._wheel is None else digest(self._wheel)
        #: Says what is installed; another one is installed anew.
        self.stamp = hashlib.sha256(f"{held} {extras}".encode()).hexdigest()

    def is_there(self) -> bool:
        """Return whether what is wanted is installed and runs."""
        script = f"{shlex.quote(self.program)} --version >/dev/null && cat {shlex.quote(self.folder)}/rkllm_ext.stamp"
        answer = self._board.ask(script)
        return answer.status == 0 and answer.out.strip() == self.stamp

    def install(self, python: str, offline: bool) -> None:
        """Make the environment and install the package and what it needs.

        Parameters
        ----------
        python
            The Python there that the environment is made of.
        offline
            Do not try the board's own network.

        Raises
        ------
        RKLLMError
            It cannot be made; what pip said last is in the sentence.
        """
        board, folder = self._board, shlex.quote(self.folder)
        board.do(f"[ -x {folder}/bin/python ] || {shlex.quote(python)} -m venv {folder}", "making an environment")
        requirement = self._requirement(self._wheels)
        if self._wheel is not None:
            self._push(self._wheel)
        answer = None if offline else self._pip(requirement)
        if answer is None or answer.status != 0:
            if answer is not None:
                board.say(f"the board's own network did not do ({answer.reason}); packages come from this machine")
            self._fetch()
            answer = self._pip(requirement, "--no-index", "--find-links", self._wheels)
        if answer.status != 0:
            raise RKLLMError(f"{board.name}: installing {requirement} failed: {answer.reason}")
        board.do(f"echo {self.stamp} > {folder}/rkllm_ext.stamp", "writing a note")

    def _pip(self, requirement: str, *options: str) -> Answer:
        pip = [f"{self.folder}/bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-input"]
        script = shlex.join([*pip, *options, requirement])
        if self._wheel is not None:  # another wheel of the same version counts as installed otherwise
            renewed = shlex.join([*pip, "--no-deps", "--force-reinstall", f"{self._wheels}/{self._wheel.name}"])
            script = f"if [ -e {shlex.quote(self.program)} ]; then {renewed}; fi && {script}"
        return self._board.attempt(script)

    def _fetch(self) -> None:
        board = self._board

        def show(command: list[str]) -> bool:
            if board.dry_run:
                board.say("+ " + shlex.join(command))
            return not board.dry_run

        requirement = self._requirement("" if self._wheel is None else str(self._wheel.parent))
        with tempfile.TemporaryDirectory(prefix="rkllm-") as folder:
            download(requirement, self._given, self._facts, Path(folder), show)
            for file in sorted(Path(folder).iterdir()):
                self._push(file)

    def _requirement(self, folder: str) -> str:
        """Return what pip has to install, with the wheel in this folder."""
        if self._wheel is None:
            return f"rkllm_ext[{self._extras}]=={version('rkllm_ext')}"
        return f"{folder}/{self._wheel.name}[{self._extras}]"

    def _push(self, file: Path) -> None:
        Transfer(self._board, file, f"{self._wheels}/{file.name}").push()
