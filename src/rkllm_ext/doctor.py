# SPDX-License-Identifier: Apache-2.0
"""What of a machine is right for running models, what is not, and what to do about it."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

from .board import Board, Clock, cpu_list
from .errors import RKLLMError
from .frequencies import PLATFORMS, plan_fix
from .library import Library
from .vendor import Release, refusal

__all__ = ["Finding", "as_json", "as_text", "examine", "worst"]

LEVELS = ("ok", "warning", "problem")
_DRIVER = "0.9.8"
_GIB = 1 << 30
#: The vendor's servers raise their limit of open files to this, and end when they may not.
_OPEN_FILES = 102400
_FIX = "sudo rkllm-ext doctor --fix-freq sets the vendor's frequencies, --restore undoes it"


@dataclass(frozen=True)
class Finding:
    """One fact with a verdict: "ok", "warning" or "problem", and for the last two what to do."""

    name: str
    level: str
    value: str
    advice: str = ""


def examine(board: Board, find_library: Callable[[], Library]) -> list[Finding]:
    """Return everything there is to say about a machine. `find_library` is `library.library_in_use`, or a test's."""
    library, library_finding = _library(find_library)
    findings = [_machine(board)]
    findings += _cores(board)
    if board.soc is not None:
        findings.append(_npu_driver(board, needed=library is not None and not library.own))
    findings += _clocks(board)
    findings += _memory(board)
    findings += _open_files(board)
    findings.append(library_finding)
    findings += _instruction_sets(board, library)
    return findings


def worst(findings: list[Finding]) -> str:
    """Return the gravest level among findings."""
    return max((finding.level for finding in findings), key=LEVELS.index)


def as_json(findings: list[Finding]) -> str:
    """Return findings as a JSON object: their worst level as "level", and the "findings"."""
    return json.dumps({"level": worst(findings), "findings": [asdict(finding) for finding in findings]}, indent=2)


def as_text(findings: list[Finding]) -> str:
    """Return findings as a table, with what to do below the lines that need it, and a summary."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<8} {finding.name:<18} {finding.value}")
        if finding.advice:
            lines.append(f"{'':<27} -> {finding.advice}")
    counts = [(level, sum(finding.level == level for finding in findings)) for level in ("problem", "warning")]
    said = [f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts if count]
    return "\n".join([*lines, "", ", ".join(said) or "everything is as it should be"])


def _machine(board: Board) -> Finding:
    if board.soc is None:
        value = f"{platform.machine()}, no Rockchip board: models run on the CPU, a board's checks are left out"
        return Finding("machine", "ok", value)
    value = f"{board.model or 'unknown board'}, {board.soc}"
    if board.platform in PLATFORMS:
        return Finding("machine", "ok", value)
    advice = (
        f"rkllm_ext computes on its CPU; the vendor's library 1.1 uses the NPU of {' and '.join(PLATFORMS)} only, "
        "later ones that of some more"
    )
    return Finding("machine", "warning", value, advice)


def _cores(board: Board) -> Iterator[Finding]:
    groups = board.cores()
    if len(groups) > 2:  # chips whose equal cores reach slightly different frequencies
        groups = [replace(groups[0], cpus=tuple(cpu for group in groups[:-1] for cpu in group.cpus)), groups[-1]]
    names = ["cores"] if len(groups) < 2 else ["big cores", "little cores"]
    for name, group in zip(names, groups):
        yield Finding(name, "ok", f"{len(group.cpus)} x {group.name} ({cpu_list(group.cpus)})")


def _npu_driver(board: Board, needed: bool) -> Finding:
    present, version = board.npu_driver()
    if version is not None and _numbers(version) >= _numbers(_DRIVER):
        return Finding("NPU driver", "ok", version)
    if version is not None:
        advice = (
            f"install the board maker's newest image, or build a kernel with the driver {_DRIVER} that the vendor's "
            "SDK has as source; until then only rkllm_ext's own library, which computes on the CPU, runs here"
        )
        return Finding("NPU driver", "problem", f"{version}; {_DRIVER} or later is needed", advice)
    level = "problem" if needed and not present else "warning"
    if present:
        return Finding("NPU driver", level, "its version cannot be read", "ask as root: sudo rkllm-ext doctor")
    advice = (
        "run this as root; if it still is not found, the kernel has no RKNPU driver: use the board maker's kernel. "
        "rkllm_ext's own library does not need it"
    )
    return Finding("NPU driver", level, "not found in /sys/kernel/debug/rknpu/version", advice)


def _clocks(board: Board) -> Iterator[Finding]:
    goals = {}
    if board.platform in PLATFORMS:
        goals = {write.path: int(write.value) for write in plan_fix(board).writes if write.value.isdigit()}
    for clock in board.clocks():
        value = f"{clock.governor}, {_megahertz(clock.current, clock)} of {_megahertz(clock.maximum, clock)} MHz"
        goal = goals.get(f"{clock.path}/scaling_setspeed") or goals.get(f"{clock.path}/userspace/set_freq")
        # Without a goal there is nothing to say: a PC's governor works differently, and so do other devices.
        slow = goal is not None and not _is_fixed(clock, goal)
        yield Finding(f"clock of {clock.name}", "warning" if slow else "ok", value, _FIX if slow else "")


def _is_fixed(clock: Clock, goal: int) -> bool:
    reached = min(goal, clock.maximum or goal)
    return clock.governor == "performance" or (clock.governor == "userspace" and (clock.current or 0) >= reached)


def _megahertz(frequency: int | None, clock: Clock) -> str:
    return "?" if frequency is None else f"{frequency * clock.hertz / 1e6:.0f}"


def _memory(board: Board) -> Iterator[Finding]:
    memory = board.memory()
    if memory is None:
        return
    value = f"{memory[1] / _GIB:.1f} GiB free of {memory[0] / _GIB:.1f} GiB"
    low = memory[1] < _GIB
    advice = "end other programs: a model of 1.5 billion weights needs 1 to 2 GiB" if low else ""
    yield Finding("memory", "warning" if low else "ok", value, advice)


def _open_files(board: Board) -> Iterator[Finding]:
    limits = board.open_files()
    if limits is None:
        return
    low = limits[1].isdigit() and int(limits[1]) < _OPEN_FILES
    advice = (
        f"the vendor's servers need a hard limit of {_OPEN_FILES}: add '* hard nofile {_OPEN_FILES}' to "
        "/etc/security/limits.conf and log in again, or LimitNOFILE= to the unit of systemd"
    )
    value = f"{limits[0]}, at most {limits[1]}"
    yield Finding("open files", "warning" if low else "ok", value, advice if low else "")


def _library(find: Callable[[], Library]) -> tuple[Library | None, Finding]:
    try:
        library = find()
    except (ImportError, OSError, RKLLMError) as error:
        advice = "install rkllm_ext again, or take out of LD_LIBRARY_PATH and RKLLM_EXT_ISA what does not fit"
        return None, Finding("library", "problem", " ".join(str(error).split()), advice)
    if library.own:
        return library, Finding("library", "ok", f"rkllm_ext's own {library.version}, {library.path}")
    value = f"the vendor's, of release {library.version}, {library.path}"
    if library.generation:
        return library, Finding("library", "ok", value)
    return library, Finding("library", "problem", value, refusal(library.path, Release(library.version, "")))


def _instruction_sets(board: Board, library: Library | None) -> Iterator[Finding]:
    if library is not None and library.own:
        # The processor is this one, even where the files are those of another machine.
        yield Finding("instruction sets", "ok", f"{', '.join(library.isas)}; in use: {library.isa}")
    if board.platform == "rk3588" and board.features() and "asimddp" not in board.features():
        advice = "the chip has them, so the kernel is too old: use one of 5.10 or later"
        yield Finding("dot products", "warning", "the kernel does not offer them (asimddp)", advice)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
