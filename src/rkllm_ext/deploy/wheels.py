# SPDX-License-Identifier: Apache-2.0
"""Which wheel fits a board, and what it needs for a board without a network."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ..errors import RKLLMError
from .survey import Survey

__all__ = ["download", "fitting_wheel"]

_NAME = re.compile(r"rkllm_ext-(?P<version>[^-]+)(-\d[^-]*)?-(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)\.whl")
_OLDEST_GLIBC = (2, 17)


def fitting_wheel(place: Path, facts: Survey) -> Path:
    """Return the newest wheel of this package that a board takes: a file, or one of a folder.

    Raises
    ------
    RKLLMError
        None fits.
    """
    if not place.exists():
        raise RKLLMError(f"{place}: no such wheel or folder of wheels")
    files = sorted(place.glob("rkllm_ext-*.whl")) if place.is_dir() else [place]
    fitting = [(rank, path) for path in files if (rank := _rank(path.name, facts)) is not None]
    if not fitting:
        version = "{}.{}".format(*facts.python) if facts.python else "?"
        raise RKLLMError(
            f"{place}: no wheel of rkllm_ext for Python {version} on {facts.machine}"
            f"{' with glibc {}.{}'.format(*facts.glibc) if facts.glibc else ''}; cross/build.sh makes some"
            + (f" (there: {', '.join(path.name for path in files)})" if files else "")
        )
    return max(fitting)[1]


def _rank(name: str, facts: Survey) -> tuple[tuple[int, ...], int] | None:
    """Return how good a wheel is: its version, then how near to the board's Python; None when it does not fit."""
    found = _NAME.fullmatch(name)
    if found is None or facts.python is None:
        return None
    if not any(_fits_machine(tag, facts) for tag in found["platform"].split(".")):
        return None
    own = "cp{}{}".format(*facts.python)
    version = tuple(int(part) for part in re.findall(r"\d+", found["version"]))
    for tag in found["python"].split("."):
        if tag == own:
            return version, 100
        older = re.fullmatch(r"cp3(\d+)", tag)
        if found["abi"] == "abi3" and older and int(older.group(1)) <= facts.python[1]:
            return version, int(older.group(1))
        if tag == f"py{facts.python[0]}":
            return version, 0
    return None


def _fits_machine(tag: str, facts: Survey) -> bool:
    if tag == "any" or tag == f"linux_{facts.machine}" or tag == f"manylinux2014_{facts.machine}":
        return True
    found = re.fullmatch(rf"manylinux_(\d+)_(\d+)_{re.escape(facts.machine)}", tag)
    return found is not None and (facts.glibc is None or (int(found.group(1)), int(found.group(2))) <= facts.glibc)


def download(
    requirement: str, wheels: Path | None, facts: Survey, folder: Path, show: Callable[[list[str]], bool]
) -> None:
    """Fetch a package and all it needs, as wheels for a board, by this machine's pip.

    Parameters
    ----------
    requirement
        What pip shall fetch.
    wheels
        A folder of wheels to look into as well.
    show
        Called with the command; False: do not run it.

    Raises
    ------
    RKLLMError
        Something cannot be had.
    """
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-input"]
    command += ["--only-binary=:all:", "--implementation", "cp", "-d", str(folder)]
    if facts.python is not None:
        command += ["--python-version", "{}.{}".format(*facts.python)]
    newest = facts.glibc or _OLDEST_GLIBC
    for minor in range(newest[1], _OLDEST_GLIBC[1] - 1, -1):
        command += ["--platform", f"manylinux_2_{minor}_{facts.machine}"]
    command += ["--platform", f"manylinux2014_{facts.machine}", "--platform", f"linux_{facts.machine}"]
    command += ["--find-links", str(wheels)] if wheels is not None else []
    command.append(requirement)
    if not show(command):
        return
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        reason = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise RKLLMError(f"{requirement} cannot be fetched for the board: {reason}")
