# SPDX-License-Identifier: Apache-2.0
"""What a board says of itself before anything is put there, and whether that will do."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..board import chip_of, platform_of
from ..errors import RKLLMError
from .reach import Board

__all__ = ["PLATFORMS", "Survey", "check_kind", "check_room", "survey"]

#: Boards by their chip; "cpu" is any machine with Linux.
PLATFORMS = ("rk3588", "rk3576", "cpu")
_OLDEST_PYTHON = (3, 9)
#: Bytes that the environment of the server takes, and that a model needs beside its own.
_ENVIRONMENT = 600 << 20
_WORKING = 256 << 20

# One line "name=value" for each fact; a fact that cannot be had is empty. @R@ is where the board's files are.
_SCRIPT = r"""
say() { printf '%s=%s\n' "$1" "$2"; }
say machine "$(uname -m)"
say model "$(tr -d '\0' < @R@/proc/device-tree/model 2>/dev/null)"
say compatible "$(tr '\0' ' ' < @R@/proc/device-tree/compatible 2>/dev/null)"
say memory "$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' @R@/proc/meminfo 2>/dev/null)"
say available "$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' @R@/proc/meminfo 2>/dev/null)"
d=@WORKSHOP@; while [ ! -d "$d" ]; do d=$(dirname "$d"); done
[ -w "$d" ] && say writable yes
say disk "$(df -Pk "$d" | sed -n '2s/^.* \([0-9][0-9]*\)  *[0-9]*% .*$/\1/p')"
say python "$(@PYTHON@ -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)"
say ensurepip "$(@PYTHON@ -c 'import ensurepip, venv; print("yes")' 2>/dev/null)"
say glibc "$(getconf GNU_LIBC_VERSION 2>/dev/null)"
say user "$(id -un 2>/dev/null)"
if [ "$(id -u)" = 0 ]; then say root yes; elif sudo -n true 2>/dev/null; then say root sudo; fi
[ -d @R@/run/systemd/system ] && command -v systemctl >/dev/null && say systemd yes
command -v sha256sum >/dev/null && say sha256sum yes
a=$(hostname -I 2>/dev/null) || a=$(ip -4 -o addr show scope global 2>/dev/null | sed 's/.* inet \([0-9.]*\).*/\1/')
say address "$(echo $a)"
"""


@dataclass(frozen=True)
class Survey:
    """Facts about a board. Sizes are bytes, None where the board does not say."""

    machine: str = "aarch64"
    model: str = ""
    chip: str | None = None  # "rk3588s"
    memory: int | None = None
    available: int | None = None
    disk: int | None = None  # free where the workshop is or will be
    writable: bool = True
    python: tuple[int, int] | None = (3, 11)
    ensurepip: bool = True
    glibc: tuple[int, int] | None = None
    user: str = "root"
    root: str = "yes"  # "yes": it is root; "sudo": it may become root without a password; "": neither
    systemd: bool = True
    sha256sum: bool = True
    address: str | None = None

    def __str__(self) -> str:
        facts = [self.model or self.machine, self.chip or self.machine]
        if self.memory is not None:
            facts.append(f"{self.memory / 1e9:.1f} GB memory")
        if self.disk is not None:
            facts.append(f"{self.disk / 1e9:.1f} GB free on disk")
        facts.append(f"Python {self.python[0]}.{self.python[1]}" if self.python else "no Python")
        return ", ".join(facts)


def survey(board: Board, workshop: str, python: str = "python3", root: str = "") -> Survey:
    """Ask a board for its facts. `root` is a folder there that stands for its own "/proc" and "/run"."""
    script = _SCRIPT
    for name, value in (("R", root.rstrip("/")), ("WORKSHOP", workshop), ("PYTHON", python)):
        script = script.replace(f"@{name}@", shlex.quote(value) if value else "")
    answer = board.ask(script)
    found = dict(line.split("=", 1) for line in answer.out.splitlines() if "=" in line)
    if "machine" not in found:
        raise RKLLMError(f"{board.name}: the board gave no facts about itself: {answer.reason}")

    def size(name: str) -> int | None:
        return int(found[name]) * 1024 if found.get(name, "").isdigit() else None

    addresses = found.get("address", "").split()
    return Survey(
        machine=found["machine"],
        model=found.get("model", ""),
        chip=chip_of(found.get("compatible", "").replace(" ", "\0")),
        memory=size("memory"),
        available=size("available"),
        disk=size("disk"),
        writable=found.get("writable") == "yes",
        python=_version(found.get("python", "")),
        ensurepip=found.get("ensurepip") == "yes",
        glibc=_version(found.get("glibc", "")),
        user=found.get("user", ""),
        root=found.get("root", ""),
        systemd=found.get("systemd") == "yes",
        sha256sum=found.get("sha256sum") == "yes",
        address=addresses[0] if addresses else None,
    )


def _version(text: str) -> tuple[int, int] | None:
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found.group(1)), int(found.group(2))) if found else None


def check_kind(facts: Survey, platform: str) -> None:
    """Refuse a board of another kind than the user says, or without what everything else needs.

    Parameters
    ----------
    facts
        The board.
    platform
        What the user says it is: one of PLATFORMS.

    Raises
    ------
    RKLLMError
        The board will not do; the sentence has all the reasons.
    """
    _refuse(_wrong_kind(facts, platform))


def check_room(facts: Survey, workshop: str, model_bytes: int, to_push: int, fresh: bool) -> list[str]:
    """Return what may become a nuisance; raise where a model does not fit.

    Parameters
    ----------
    facts
        The board.
    workshop
        The folder there.
    model_bytes
        Size of the model.
    to_push
        Bytes that are not there yet.
    fresh
        The environment has to be made.

    Raises
    ------
    RKLLMError
        The board will not do; the sentence has all the reasons.
    """
    needed = model_bytes + _WORKING
    _refuse(_too_little(facts, workshop, needed, to_push + (_ENVIRONMENT if fresh else 0)))
    warnings = []
    if facts.available is not None and facts.available < needed:
        warnings.append(
            f"{facts.available / 1e9:.2f} GB of memory are free now, but the model needs {needed / 1e9:.2f} GB"
        )
    if not facts.root:
        warnings.append("no root there, nor sudo without a password: frequencies stay as they are, and no systemd unit")
    return warnings


def _refuse(reasons: Iterable[str]) -> None:
    sentence = "; ".join(reasons)
    if sentence:
        raise RKLLMError(f"the board will not do: {sentence}")


def _wrong_kind(facts: Survey, platform: str) -> Iterator[str]:
    found = platform_of(facts.chip)
    if platform != "cpu":
        if facts.machine != "aarch64":
            yield f"its machine is {facts.machine}, that of an {platform} is aarch64 (--platform cpu takes any)"
        if found is not None and found != platform:
            yield f"it has an {facts.chip}, but --platform is {platform}"
    if facts.python is None:
        yield "it has no Python 3; install python3 and python3-venv there"
    elif facts.python < _OLDEST_PYTHON:
        yield "it has Python {}.{}, but {}.{} or later is needed".format(*facts.python, *_OLDEST_PYTHON)
    elif not facts.ensurepip:
        yield "its Python cannot make environments; install python3-venv there"
    if not facts.sha256sum:
        yield "it has no sha256sum; install coreutils there"


def _too_little(facts: Survey, workshop: str, memory: int, disk: int) -> Iterator[str]:
    if facts.memory is not None and facts.memory < memory:
        yield (
            f"it has {facts.memory / 1e9:.2f} GB of memory, but the model needs {memory / 1e9:.2f} GB; "
            "take a smaller model or a smaller weight format"
        )
    if not facts.writable:
        yield f"{workshop} may not be written to; name another --workshop or another user"
    if facts.disk is not None and facts.disk < disk:
        yield (
            f"{facts.disk / 1e9:.2f} GB are free for {workshop}, but {disk / 1e9:.2f} GB are needed; "
            "make room or name another --workshop"
        )
