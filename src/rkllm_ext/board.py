# SPDX-License-Identifier: Apache-2.0
"""What machine this is: facts out of /proc and /sys. Nothing here judges; `doctor` does.

Every path is taken below a root directory, so that an unpacked image or a test can stand in for the machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Board", "Clock", "CoreGroup", "chip_of", "cpu_list", "platform_of"]

#: Part number of an Arm core, as /proc/cpuinfo has it -> its name; those of Rockchip's chips.
_ARM_CORES = {"0xd03": "Cortex-A53", "0xd05": "Cortex-A55", "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76"}
_CPU = "/sys/devices/system/cpu"


@dataclass(frozen=True)
class CoreGroup:
    """The cores of one kind, strongest kind first in a list."""

    name: str  # "Cortex-A76", or "core" where it is not known
    cpus: tuple[int, ...]
    strength: int  # the kernel's cpu_capacity, or the highest frequency in kHz; 0 where neither is known


@dataclass(frozen=True)
class Clock:
    """Something whose frequency the kernel governs. Frequencies are in the units of its files: kHz or Hz."""

    name: str  # "cpu 4-7", "npu"
    path: str  # its folder, below the root
    governor: str
    current: int | None
    maximum: int | None
    hertz: int  # hertz in one unit: 1000 for cpufreq, 1 for devfreq


def cpu_list(cpus: Sequence[int]) -> str:
    """Return numbers as the kernel writes them.

    Examples
    --------
    >>> cpu_list([0, 1, 2, 3, 6])
    '0-3,6'
    """
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def chip_of(compatible: str) -> str | None:
    """Return the Rockchip chip that a device tree's "compatible" names, "rk3588s"."""
    found = re.findall(r"rockchip,(r[kv]\d{4}[a-z]*)", compatible)
    # From special to general: evaluation boards have a chip's name in front as well.
    return str(found[-1]) if found else None


def platform_of(chip: str | None) -> str | None:
    """Return the family of a chip as the SDK names it, "rk3588" for an rk3588s."""
    found = re.match(r"r[kv]\d{4}b?", chip or "")
    return found.group() if found else None


class Board:
    """A machine, seen through the files below `root`. Files are read when they are asked for."""

    def __init__(self, root: str | os.PathLike[str] = "/") -> None:
        self.root = Path(root)

    def at(self, path: str) -> Path:
        """Return where an absolute path lies below the root."""
        return self.root / path.lstrip("/")

    def text(self, path: str) -> str | None:
        """Return what a file holds, stripped; None where it is missing or may not be read."""
        try:
            return self.at(path).read_text(encoding="utf-8", errors="replace").strip("\0 \t\r\n")
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """Return the number at the beginning of a file."""
        found = re.match(r"\d+", self.text(path) or "")
        return int(found.group()) if found else None

    def _device_tree(self, name: str) -> str | None:
        return self.text(f"/proc/device-tree/{name}") or self.text(f"/sys/firmware/devicetree/base/{name}")

    @property
    def model(self) -> str | None:
        """The board's name, as its maker wrote it into the device tree."""
        return self._device_tree("model")

    @property
    def soc(self) -> str | None:
        """The Rockchip chip, "rk3588s"; None on other machines."""
        return chip_of(self._device_tree("compatible") or "")

    @property
    def platform(self) -> str | None:
        """The chip's family as the SDK names it, "rk3588" for an rk3588s; None on other machines."""
        return platform_of(self.soc)

    def cores(self) -> list[CoreGroup]:
        """Return the cores that are switched on, by kind, strongest kind first."""
        parts = self._core_parts()
        groups: dict[tuple[int, str], list[int]] = {}
        for folder in self._glob(f"{_CPU}/cpu[0-9]*"):
            cpu = int(re.sub(r"\D", "", Path(folder).name))
            if self.number(f"{folder}/online") == 0:
                continue
            strength = self.number(f"{folder}/cpu_capacity") or self.number(f"{folder}/cpufreq/cpuinfo_max_freq") or 0
            groups.setdefault((strength, _ARM_CORES.get(parts.get(cpu, ""), "core")), []).append(cpu)
        return [
            CoreGroup(name, tuple(sorted(cpus)), strength)
            for (strength, name), cpus in sorted(groups.items(), reverse=True)
        ]

    def _core_parts(self) -> dict[int, str]:
        text = self.text("/proc/cpuinfo") or ""
        found = re.findall(r"^processor\s*:\s*(\d+)$(.*?)(?=^processor\s*:|\Z)", text, re.MULTILINE | re.DOTALL)
        parts = {int(cpu): re.search(r"^CPU part\s*:\s*(\w+)", rest, re.MULTILINE) for cpu, rest in found}
        return {cpu: part.group(1) for cpu, part in parts.items() if part}

    def features(self) -> frozenset[str]:
        """Return the instruction set extensions that every core has, by the kernel's names."""
        lines = re.findall(r"^(?:Features|flags)\s*:(.*)$", self.text("/proc/cpuinfo") or "", re.MULTILINE)
        return frozenset.intersection(*(frozenset(line.split()) for line in lines)) if lines else frozenset()

    def npu_driver(self) -> tuple[bool, str | None]:
        """Return whether the kernel has the RKNPU driver, and its version "0.9.8", None where it cannot be read.

        The debug file system is root's; the module's own file says the same, on kernels that have it.
        """
        for path in ("/sys/kernel/debug/rknpu/version", "/sys/module/rknpu/version"):
            found = re.search(r"\d+\.\d+\.\d+", self.text(path) or "")
            if found:
                return True, found.group()
        return self.at("/sys/module/rknpu").is_dir(), None

    def clocks(self) -> list[Clock]:
        """Return what has a governor: groups of cores, then devices (NPU, GPU, memory)."""
        found = []
        for path in self._glob(f"{_CPU}/cpufreq/policy[0-9]*"):
            cpus = [int(cpu) for cpu in (self.text(f"{path}/related_cpus") or "").split()]
            name = f"cpu {cpu_list(cpus) if cpus else Path(path).name}"
            found.append(self._clock(name, path, "scaling_governor", "scaling_cur_freq", "scaling_max_freq", 1000))
        for path in self._glob("/sys/class/devfreq/*"):
            name = Path(path).name.rpartition(".")[2]
            found.append(self._clock("memory" if name == "dmc" else name, path, "governor", "cur_freq", "max_freq", 1))
        return [clock for clock in found if clock.governor]

    def _clock(self, name: str, path: str, governor: str, current: str, maximum: str, hertz: int) -> Clock:
        frequencies = (self.number(f"{path}/{current}"), self.number(f"{path}/{maximum}"))
        return Clock(name, path, self.text(f"{path}/{governor}") or "", *frequencies, hertz)

    def memory(self) -> tuple[int, int] | None:
        """Return the bytes of memory, all and available."""
        text = self.text("/proc/meminfo") or ""
        found = [re.search(rf"^{key}:\s*(\d+) kB", text, re.MULTILINE) for key in ("MemTotal", "MemAvailable")]
        return (int(found[0].group(1)) * 1024, int(found[1].group(1)) * 1024) if found[0] and found[1] else None

    def open_files(self) -> tuple[str, str] | None:
        """Return the soft and the hard limit of open files, "unlimited" or a number each."""
        found = re.search(r"^Max open files\s+(\w+)\s+(\w+)", self.text("/proc/self/limits") or "", re.MULTILINE)
        return (found.group(1), found.group(2)) if found else None

    def _glob(self, pattern: str) -> list[str]:
        """Return the absolute paths below the root that a pattern matches, cpu10 behind cpu9."""
        found = ["/" + str(path.relative_to(self.root)) for path in self.root.glob(pattern.lstrip("/"))]
        return sorted(found, key=lambda path: [int(part) if part.isdigit() else 0 for part in re.split(r"(\d+)", path)])
