# SPDX-License-Identifier: Apache-2.0
"""Fixed frequencies for RK3588 and RK3576, those that the vendor's scripts set before they measure, and the way back.

What is changed is kept in a state file first. It lies in /run, because a restart of the board undoes it all.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .board import Board
from .errors import InvalidArgumentError, ModelFileError, RKLLMError

__all__ = ["PLATFORMS", "STATE_FILE", "Plan", "Write", "apply", "forget", "plan_fix", "plan_restore"]

STATE_FILE = "/run/rkllm_ext/frequencies.json"


@dataclass(frozen=True)
class _Frequencies:
    cpus: dict[str, int]  # cpufreq policy -> kHz
    devices: dict[str, int]  # devfreq device -> Hz


PLATFORMS = {
    "rk3588": _Frequencies(
        {"policy0": 1_800_000, "policy4": 2_352_000, "policy6": 2_352_000},
        {"fdab0000.npu": 1_000_000_000, "fb000000.gpu": 1_000_000_000, "dmc": 2_112_000_000},
    ),
    "rk3576": _Frequencies(
        {"policy0": 2_208_000, "policy4": 2_304_000},
        {"27700000.npu": 1_000_000_000, "27800000.gpu": 950_000_000, "dmc": 2_112_000_000},
    ),
}


@dataclass(frozen=True)
class Write:
    """One value for one file of the kernel."""

    path: str
    value: str

    def __str__(self) -> str:
        return f"echo {self.value} > {self.path}"


@dataclass
class Plan:
    """What to write, in order, and what this kernel does not have."""

    writes: list[Write] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Governed:
    """The files of a folder of cpufreq or devfreq."""

    governor: str
    governors: str
    frequencies: str
    speed: str


_CPUFREQ = _Governed(
    "scaling_governor", "scaling_available_governors", "scaling_available_frequencies", "scaling_setspeed"
)
_DEVFREQ = _Governed("governor", "available_governors", "available_frequencies", "userspace/set_freq")


def _folders(platform: str) -> Iterator[tuple[str, _Governed, int]]:
    wanted = PLATFORMS[platform]
    for name, frequency in wanted.cpus.items():
        yield f"/sys/devices/system/cpu/cpufreq/{name}", _CPUFREQ, frequency
    for name, frequency in wanted.devices.items():
        yield f"/sys/class/devfreq/{name}", _DEVFREQ, frequency


def plan_fix(board: Board) -> Plan:
    """Return what fixes the frequencies of a board: idle states off, then every clock at the vendor's frequency.

    A chip that does not reach a frequency gets its highest below it; a kernel without the governor ``userspace``
    gets ``performance``, which holds the highest frequency.

    Raises
    ------
    InvalidArgumentError
        The machine is neither an RK3588 nor an RK3576.
    """
    if board.platform not in PLATFORMS:
        raise InvalidArgumentError(
            f"this machine is {board.soc or 'no Rockchip board'}; "
            f"frequencies are known for {' and '.join(PLATFORMS)} only"
        )
    plan = Plan()
    for path in sorted(board.root.glob("sys/devices/system/cpu/cpu[0-9]*/cpuidle/state1/disable")):
        plan.writes.append(Write(f"/{path.relative_to(board.root)}", "1"))
    for folder, files, wanted in _folders(board.platform):
        _plan_clock(board, folder, files, wanted, plan)
    return plan


def _plan_clock(board: Board, folder: str, files: _Governed, wanted: int, plan: Plan) -> None:
    governors = board.text(f"{folder}/{files.governors}")
    if board.text(f"{folder}/{files.governor}") is None:
        plan.left_out.append(f"{folder}: this kernel does not have it")
    elif governors is None or "userspace" in governors.split():
        offered = [int(word) for word in (board.text(f"{folder}/{files.frequencies}") or "").split() if word.isdigit()]
        below = [frequency for frequency in offered if frequency <= wanted]
        frequency = max(below) if below else min(offered, default=wanted)
        plan.writes.append(Write(f"{folder}/{files.governor}", "userspace"))
        plan.writes.append(Write(f"{folder}/{files.speed}", str(frequency)))
    elif "performance" in governors.split():
        plan.writes.append(Write(f"{folder}/{files.governor}", "performance"))
    else:
        plan.left_out.append(f"{folder}: has neither of the governors userspace and performance, only {governors}")


def plan_restore(board: Board, state: str) -> Plan:
    """Return what undoes `apply`.

    Raises
    ------
    ModelFileError
        There is no state file, or it is damaged.
    """
    try:
        rows = json.loads(board.at(state).read_text(encoding="utf-8"))["values"]
        return Plan([Write(str(row["path"]), str(row["value"])) for row in rows])
    except FileNotFoundError:
        raise ModelFileError(
            f"{board.at(state)}: is not there, so nothing is known to be restored; --fix-freq writes it"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{board.at(state)}: is damaged ({error!r}); restart the board instead") from error


def apply(board: Board, plan: Plan, state: str | None) -> list[str]:
    """Write a plan; return a sentence for each value that the kernel did not take.

    With `state`, what the files held before is kept there; values that are in it from an earlier time stay, as these
    are the original ones.

    Raises
    ------
    RKLLMError
        A file may not be written; nothing has been changed.
    """
    for write in plan.writes:
        if board.at(write.path).exists() and not os.access(board.at(write.path), os.W_OK):
            raise RKLLMError(f"{write.path}: may not be written; run this as root (sudo), outside of containers")
    if state is not None:
        _keep(board, plan.writes, state)
    failures = []
    for write in plan.writes:
        try:
            _write(board.at(write.path), write.value)
        except OSError as error:
            failures.append(f"{write.path}: did not take {write.value}: {error.strerror}")
    return failures


def _write(path: Path, value: str) -> None:
    # The files are the kernel's: one that is not there is an error, so nothing is created.
    file = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(file, value.encode("ascii"))
    finally:
        os.close(file)


def _keep(board: Board, writes: Sequence[Write], state: str) -> None:
    kept: dict[str, str] = {}
    for write in writes:
        value = board.text(write.path)
        # Under governors other than userspace a speed is no number, or has no file: the governor brings its own.
        if value and (value.isdigit() or not write.value.isdigit()):
            kept[write.path] = value
    path = board.at(state)
    if path.exists():
        kept.update({write.path: write.value for write in plan_restore(board, state).writes})
    rows = [asdict(Write(name, value)) for name, value in kept.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            json.dump({"values": rows}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def forget(board: Board, state: str) -> None:
    """Remove the state file: what it kept has been restored."""
    board.at(state).unlink(missing_ok=True)
