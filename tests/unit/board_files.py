# SPDX-License-Identifier: Apache-2.0
"""Boards made of files: what /proc and /sys of an RK3588 and an RK3576 say."""

from __future__ import annotations

from pathlib import Path

CPU = "sys/devices/system/cpu"
GOVERNORS = "conservative ondemand userspace powersave performance schedutil"
CHIPS = {
    # chip: cores' parts, capacities, policies {first cpu: (cpus, frequencies)}, devices {name: frequencies}
    "rk3588": (
        ["0xd05"] * 4 + ["0xd0b"] * 4,
        [530] * 4 + [1024] * 4,
        {
            0: ("0 1 2 3", "408000 1200000 1800000"),
            4: ("4 5", "408000 2256000 2352000 2400000"),
            6: ("6 7", "408000 2256000"),  # a slower chip
        },
        {
            "fdab0000.npu": "300000000 1000000000",
            "fb000000.gpu": "300000000 1000000000",
            "dmc": "534000000 2112000000 2736000000",
        },
    ),
    "rk3576": (
        ["0xd03"] * 4 + ["0xd08"] * 4,
        [485] * 4 + [1024] * 4,
        {0: ("0 1 2 3", "408000 2208000"), 4: ("4 5 6 7", "408000 2304000")},
        {
            "27700000.npu": "300000000 950000000",
            "27800000.gpu": "300000000 950000000",
            "dmc": "534000000 2112000000",
        },
    ),
}

def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def make_board(root: Path, chip: str = "rk3588", driver: str | None = "RKNPU driver: v0.9.8\n") -> Path:
    """Write the files of a board that has just been started."""
    parts, capacities, policies, devices = CHIPS[chip]
    write(root, "proc/device-tree/model", "Radxa ROCK 5B\0")
    write(root, "proc/device-tree/compatible", f"radxa,rock-5b\0rockchip,{chip}\0")
    blocks = (
        f"processor\t: {cpu}\nFeatures\t: fp asimd asimddp\nCPU part\t: {part}\n" for cpu, part in enumerate(parts)
    )
    write(root, "proc/cpuinfo", "\n".join(blocks))
    write(root, "proc/meminfo", "MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:   12000000 kB\n")
    limits = "Limit                     Soft Limit           Hard Limit           Units\n"
    limits += "Max open files            1024                 1048576              files     \n"
    write(root, "proc/self/limits", limits)
    for cpu, capacity in enumerate(capacities):
        write(root, f"{CPU}/cpu{cpu}/cpu_capacity", f"{capacity}\n")
        write(root, f"{CPU}/cpu{cpu}/cpuidle/state1/disable", "0\n")
    for first, (cpus, frequencies) in policies.items():
        folder = f"{CPU}/cpufreq/policy{first}"
        write(root, f"{folder}/related_cpus", f"{cpus}\n")
        write(root, f"{folder}/scaling_governor", "ondemand\n")
        write(root, f"{folder}/scaling_available_governors", f"{GOVERNORS}\n")
        write(root, f"{folder}/scaling_available_frequencies", f"{frequencies}\n")
        write(root, f"{folder}/scaling_setspeed", "<unsupported>\n")
        write(root, f"{folder}/scaling_cur_freq", "408000\n")
        write(root, f"{folder}/scaling_max_freq", f"{frequencies.split()[-1]}\n")
    for name, frequencies in devices.items():
        folder = f"sys/class/devfreq/{name}"
        write(root, f"{folder}/governor", "rknpu_ondemand\n")
        write(root, f"{folder}/available_governors", f"rknpu_ondemand {GOVERNORS}\n")
        write(root, f"{folder}/available_frequencies", f"{frequencies}\n")
        write(root, f"{folder}/userspace/set_freq", "undefined\n")
        write(root, f"{folder}/cur_freq", f"{frequencies.split()[0]}\n")
        write(root, f"{folder}/max_freq", f"{frequencies.split()[-1]}\n")
    if driver is not None:
        write(root, "sys/kernel/debug/rknpu/version", driver)
    return root
