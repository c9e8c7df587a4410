# SPDX-License-Identifier: Apache-2.0
"""`rkllm-ext doctor` on boards made of files: what it finds and advises, how it sets and restores frequencies."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from board_files import CHIPS, CPU, make_board, write

from rkllm_ext.board import Board, cpu_list
from rkllm_ext.cli import main
from rkllm_ext.doctor import Finding, examine, worst
from rkllm_ext.errors import InvalidArgumentError
from rkllm_ext.library import Library
from rkllm_ext.vendor import Release, identify, refusal

OURS = Library("/lib/librkllmrt.so", "0.1.0", True, "", ("scalar", "neon", "dotprod"), "dotprod")
FIXED = {
    "rk3588": {
        **{f"{CPU}/cpu{cpu}/cpuidle/state1/disable": "1" for cpu in range(8)},
        **{f"{CPU}/cpufreq/policy{cpu}/scaling_governor": "userspace" for cpu in (0, 4, 6)},
        f"{CPU}/cpufreq/policy0/scaling_setspeed": "1800000",
        f"{CPU}/cpufreq/policy4/scaling_setspeed": "2352000",
        f"{CPU}/cpufreq/policy6/scaling_setspeed": "2256000",
        "sys/class/devfreq/fdab0000.npu/governor": "userspace",
        "sys/class/devfreq/fdab0000.npu/userspace/set_freq": "1000000000",
        "sys/class/devfreq/fb000000.gpu/governor": "userspace",
        "sys/class/devfreq/fb000000.gpu/userspace/set_freq": "1000000000",
        "sys/class/devfreq/dmc/governor": "userspace",
        "sys/class/devfreq/dmc/userspace/set_freq": "2112000000",
    },
    "rk3576": {
        **{f"{CPU}/cpu{cpu}/cpuidle/state1/disable": "1" for cpu in range(8)},
        **{f"{CPU}/cpufreq/policy{cpu}/scaling_governor": "userspace" for cpu in (0, 4)},
        f"{CPU}/cpufreq/policy0/scaling_setspeed": "2208000",
        f"{CPU}/cpufreq/policy4/scaling_setspeed": "2304000",
        "sys/class/devfreq/27700000.npu/governor": "userspace",
        "sys/class/devfreq/27700000.npu/userspace/set_freq": "950000000",
        "sys/class/devfreq/27800000.gpu/governor": "userspace",
        "sys/class/devfreq/27800000.gpu/userspace/set_freq": "950000000",
        "sys/class/devfreq/dmc/governor": "userspace",
        "sys/class/devfreq/dmc/userspace/set_freq": "2112000000",
    },
}


def findings_of(root: Path, library: Library = OURS) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(Board(root), lambda: library)}


def files_of(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["doctor", *arguments])
    return int(caught.value.code or 0)


# ---- what is found ----


def test_a_board_is_recognised(tmp_path: Path) -> None:
    found = findings_of(make_board(tmp_path))
    assert found["machine"] == Finding("machine", "ok", "Radxa ROCK 5B, rk3588")
    assert found["big cores"].value == "4 x Cortex-A76 (4-7)"
    assert found["little cores"].value == "4 x Cortex-A55 (0-3)"
    assert found["NPU driver"] == Finding("NPU driver", "ok", "0.9.8")
    assert found["memory"] == Finding("memory", "ok", "11.4 GiB free of 15.3 GiB")
    assert found["open files"] == Finding("open files", "ok", "1024, at most 1048576")
    assert found["library"].value == "rkllm_ext's own 0.1.0, /lib/librkllmrt.so"
    assert found["instruction sets"].value == "scalar, neon, dotprod; in use: dotprod"
    assert "dot products" not in found


@pytest.mark.parametrize(
    ("compatible", "soc", "platform"),
    [
        ("radxa,rock-5a\0rockchip,rk3588s\0", "rk3588s", "rk3588"),
        ("rockchip,rk3576-evb1-v10\0rockchip,rk3576\0", "rk3576", "rk3576"),
        ("rockchip,rv1126b-evb\0rockchip,rv1126b\0", "rv1126b", "rv1126b"),
        ("raspberrypi,5-model-b\0brcm,bcm2712\0", None, None),
    ],
)
def test_the_chip_is_that_of_the_device_tree(
    tmp_path: Path, compatible: str, soc: str | None, platform: str | None
) -> None:
    write(tmp_path, "proc/device-tree/compatible", compatible)
    assert (Board(tmp_path).soc, Board(tmp_path).platform) == (soc, platform)


def test_cores_are_told_apart_by_frequency_where_the_kernel_gives_no_capacity(tmp_path: Path) -> None:
    for cpu, frequency in enumerate([1800000, 1800000, 2400000]):
        write(tmp_path, f"{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq", f"{frequency}\n")
    write(tmp_path, f"{CPU}/cpu3/online", "0\n")
    assert [group.cpus for group in Board(tmp_path).cores()] == [(2,), (0, 1)]


def test_cores_of_two_speeds_beside_little_ones_are_all_big(tmp_path: Path) -> None:
    make_board(tmp_path)
    write(tmp_path, f"{CPU}/cpu6/cpu_capacity", "1000\n")
    assert findings_of(tmp_path)["big cores"].value == "4 x Cortex-A76 (4-7)"


def test_lists_of_cores_are_written_as_the_kernel_does() -> None:
    assert [cpu_list(cpus) for cpus in ([], [5], [3, 1, 2], [0, 2, 3, 7])] == ["", "5", "1-3", "0,2-3,7"]


def test_an_old_driver_is_a_problem_with_advice(tmp_path: Path) -> None:
    found = findings_of(make_board(tmp_path, driver="RKNPU driver: v0.9.6\n"))["NPU driver"]
    assert (found.level, found.value) == ("problem", "0.9.6; 0.9.8 or later is needed")
    assert "newest image" in found.advice


@pytest.mark.parametrize(("version", "level"), [("0.9.7", "problem"), ("0.9.10", "ok"), ("1.0.0", "ok")])
def test_driver_versions_are_compared_as_numbers(tmp_path: Path, version: str, level: str) -> None:
    assert findings_of(make_board(tmp_path, driver=f"RKNPU driver: v{version}"))["NPU driver"].level == level


def test_the_driver_is_found_without_the_debug_file_system(tmp_path: Path) -> None:
    write(make_board(tmp_path, driver=None), "sys/module/rknpu/version", "0.9.8\n")
    assert findings_of(tmp_path)["NPU driver"].level == "ok"


def test_a_driver_that_says_no_version_asks_for_root(tmp_path: Path) -> None:
    (make_board(tmp_path, driver=None) / "sys/module/rknpu").mkdir(parents=True)
    found = findings_of(tmp_path)["NPU driver"]
    assert (found.level, found.advice) == ("warning", "ask as root: sudo rkllm-ext doctor")


def test_a_missing_driver_is_a_problem_only_for_the_vendors_library(tmp_path: Path) -> None:
    make_board(tmp_path, driver=None)
    assert findings_of(tmp_path)["NPU driver"].level == "warning"
    assert findings_of(tmp_path, Library("/vendor/librkllmrt.so", "1.1.4", False))["NPU driver"].level == "problem"


def test_governors_that_save_power_are_warnings_until_they_are_fixed(tmp_path: Path) -> None:
    make_board(tmp_path)
    found = findings_of(tmp_path)["clock of npu"]
    assert (found.level, found.value) == ("warning", "rknpu_ondemand, 300 of 1000 MHz")
    assert "--fix-freq" in found.advice
    write(tmp_path, "sys/class/devfreq/fdab0000.npu/governor", "userspace\n")
    assert findings_of(tmp_path)["clock of npu"].level == "warning"
    write(tmp_path, "sys/class/devfreq/fdab0000.npu/cur_freq", "1000000000\n")
    assert findings_of(tmp_path)["clock of npu"].level == "ok"
    write(tmp_path, f"{CPU}/cpufreq/policy4/scaling_governor", "performance\n")
    assert findings_of(tmp_path)["clock of cpu 4-5"].level == "ok"
    assert findings_of(tmp_path)["clock of cpu 6-7"].level == "warning"


def test_little_memory_and_low_limits_are_warnings(tmp_path: Path) -> None:
    make_board(tmp_path)
    write(tmp_path, "proc/meminfo", "MemTotal: 4000000 kB\nMemAvailable: 500000 kB\n")
    write(tmp_path, "proc/self/limits", "Max open files            1024                 20000              files\n")
    found = findings_of(tmp_path)
    assert (found["memory"].level, found["open files"].level) == ("warning", "warning")
    assert "hard nofile 102400" in found["open files"].advice


def test_a_kernel_that_hides_dot_products_is_a_warning(tmp_path: Path) -> None:
    cpuinfo = (make_board(tmp_path) / "proc/cpuinfo").read_text()
    write(tmp_path, "proc/cpuinfo", cpuinfo.replace(" asimddp", ""))
    assert findings_of(tmp_path)["dot products"].level == "warning"


@pytest.mark.parametrize(
    ("release", "generation", "level"), [("1.1.4", "C", "ok"), ("1.2.3", "F", "ok"), ("1.2.0", "", "problem")]
)
def test_the_vendors_library_is_judged_by_its_release(
    tmp_path: Path, release: str, generation: str, level: str
) -> None:
    found = findings_of(make_board(tmp_path), Library("/vendor/librkllmrt.so", release, False, generation))
    assert found["library"].level == level
    assert found["library"].value == f"the vendor's, of release {release}, /vendor/librkllmrt.so"
    assert ("does not drive" in found["library"].advice) == (level == "problem")
    assert "instruction sets" not in found


def test_a_library_that_does_not_load_is_a_problem_with_the_loaders_sentence(tmp_path: Path) -> None:
    def find() -> Library:
        raise ImportError("librkllmrt.so: wrong ELF class\n")

    found = examine(Board(make_board(tmp_path)), find)
    assert worst(found) == "problem"
    assert [finding.value for finding in found if finding.name == "library"] == ["librkllmrt.so: wrong ELF class"]


def test_a_wrong_instruction_set_in_the_environment_is_a_problem(tmp_path: Path) -> None:
    def find() -> Library:
        raise InvalidArgumentError("RKLLM_EXT_ISA=avx9 is not among those of this CPU")

    found = [finding for finding in examine(Board(tmp_path), find) if finding.level == "problem"]
    assert [finding.value for finding in found] == ["RKLLM_EXT_ISA=avx9 is not among those of this CPU"]


NEWEST = "init run_async set_chat_template get_kv_cache_size"


@pytest.mark.parametrize(
    ("functions", "text", "release", "generation"),
    [
        ("init", b"", "1.0.0", ""),
        ("init abort", b"1.0.2", "1.0.2", ""),
        ("init abort run_async", b"1.1.4", "1.1.4", "C"),
        ("init abort run_async", b"rkllm-runtime version: 1.1.2 (build 1)", "1.1.2", "C"),
        ("init abort run_async", b"9.1.1.4", "1.1.x", "C"),
        ("init abort run_async", b"1.2.3", "1.1.x", "C"),
        ("init run_async set_chat_template", b"1.2.0", "1.2.0", ""),
        ("init run_async set_chat_template", b"1.2.1b1", "1.2.1b1", ""),
        (NEWEST, b"1.2.1b1", "1.2.1", "F"),
        (NEWEST, b"1.2.3", "1.2.3", "F"),
        (NEWEST, b"\xc0\x03_\xd61.2.3", "1.2.3", "F"),  # behind the last instruction
        (NEWEST, b"1.3.0", "1.3.0", "G"),
        (NEWEST, b"1.3.1", "1.3.1", ""),
        (NEWEST, b"1.2.1\0001.2.2", "1.2.2", "F"),
        (NEWEST, b"1.3.0\0001.2.3", "1.2.1 or later", ""),  # which of them is zlib's?
        (NEWEST, b"1.3.0\0001.2.3\0version: 1.3.0", "1.3.0", "G"),
        (NEWEST, b"", "1.2.1 or later", ""),
        ("", b"1.1.4", "unknown", ""),
    ],
)
def test_the_release_of_a_library_is_read_from_its_functions_and_texts(
    functions: str, text: bytes, release: str, generation: str
) -> None:
    names = {f"rkllm_{name}" for name in functions.split()}
    found = identify(names.__contains__, b"\x7fELF\0" + text + b"\0")
    assert found == Release(release, generation)
    if not generation:
        assert refusal("a/librkllmrt.so", found).startswith("a/librkllmrt.so is ")


# ---- the command ----


def test_the_command_prints_findings_and_ends_with_1_for_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_board(tmp_path, "rk3576", "RKNPU driver: v0.9.3\n")
    assert call("--root", str(tmp_path)) == 1
    out = capsys.readouterr().out
    assert "ok       machine            Radxa ROCK 5B, rk3576\n" in out
    assert "problem  NPU driver         0.9.3; 0.9.8 or later is needed\n" in out
    assert out.splitlines()[-1] == "1 problem, 5 warnings"


def test_json_has_the_same_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_board(tmp_path)
    assert call("--root", str(tmp_path), "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["level"] == "warning"
    rows = {row["name"]: row for row in said["findings"]}
    assert rows["NPU driver"] == {"name": "NPU driver", "level": "ok", "value": "0.9.8", "advice": ""}
    assert rows["clock of memory"]["level"] == "warning"


def test_a_computer_is_told_that_it_is_no_board(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--root", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "no Rockchip board" in out
    assert "NPU" not in out
    assert "rkllm_ext's own" in out


def test_this_very_machine_can_be_examined(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--json") in (0, 1)
    names = {row["name"] for row in json.loads(capsys.readouterr().out)["findings"]}
    assert {"machine", "memory", "open files", "library"} <= names


@pytest.mark.parametrize("arguments", [["--dry-run"], ["--fix-freq", "--restore"], ["--state", "s"]])
def test_options_that_do_not_go_together_are_wrong_usage(arguments: list[str]) -> None:
    assert call(*arguments) == 2


# ---- frequencies ----


@pytest.mark.parametrize("chip", CHIPS)
def test_fixing_sets_the_vendors_frequencies_and_restoring_brings_back_every_byte_that_matters(
    tmp_path: Path, chip: str
) -> None:
    before = files_of(make_board(tmp_path, chip))
    assert call("--root", str(tmp_path), "--fix-freq") == 0
    changed = {path: text for path, text in files_of(tmp_path).items() if before.get(path) != text}
    assert changed.pop("run/rkllm_ext/frequencies.json")
    assert changed == FIXED[chip]
    assert call("--root", str(tmp_path), "--restore") == 0
    after = files_of(tmp_path)
    speeds = {path for path in FIXED[chip] if path.endswith(("setspeed", "set_freq"))}
    assert {path for path, text in after.items() if before.get(path, "").strip() != text.strip()} == speeds


def test_fixing_twice_still_restores_what_was_there_first(tmp_path: Path) -> None:
    make_board(tmp_path)
    write(tmp_path, f"{CPU}/cpufreq/policy0/scaling_governor", "userspace\n")
    write(tmp_path, f"{CPU}/cpufreq/policy0/scaling_setspeed", "1200000\n")
    assert call("--root", str(tmp_path), "--fix-freq") == call("--root", str(tmp_path), "--fix-freq") == 0
    assert call("--root", str(tmp_path), "--restore") == 0
    assert (tmp_path / f"{CPU}/cpufreq/policy0/scaling_setspeed").read_text() == "1200000"
    assert (tmp_path / f"{CPU}/cpufreq/policy4/scaling_governor").read_text() == "ondemand"
    assert call("--root", str(tmp_path), "--restore") == 1


def test_a_dry_run_prints_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(make_board(tmp_path))
    assert call("--root", str(tmp_path), "--fix-freq", "--dry-run") == 0
    assert files_of(tmp_path) == before
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == sorted(f"echo {value} > /{path}" for path, value in FIXED["rk3588"].items())
    governor = lines.index("echo userspace > /sys/class/devfreq/dmc/governor")
    assert lines[governor + 1] == "echo 2112000000 > /sys/class/devfreq/dmc/userspace/set_freq"


def test_what_a_kernel_lacks_is_left_out_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_board(tmp_path)
    for file in ("governor", "available_governors"):
        (tmp_path / "sys/class/devfreq/dmc" / file).unlink()
    write(tmp_path, f"{CPU}/cpufreq/policy4/scaling_available_governors", "performance schedutil\n")
    write(tmp_path, f"{CPU}/cpufreq/policy6/scaling_available_governors", "schedutil\n")
    assert call("--root", str(tmp_path), "--fix-freq", "--dry-run") == 0
    captured = capsys.readouterr()
    assert "left out: /sys/class/devfreq/dmc: this kernel does not have it\n" in captured.err
    assert "policy6: has neither of the governors userspace and performance, only schedutil\n" in captured.err
    assert f"echo performance > /{CPU}/cpufreq/policy4/scaling_governor\n" in captured.out
    assert "policy4/scaling_setspeed" not in captured.out


def test_a_value_that_the_kernel_does_not_take_is_reported_and_the_others_are_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_board(tmp_path)
    (tmp_path / "sys/class/devfreq/dmc/userspace/set_freq").unlink()
    assert call("--root", str(tmp_path), "--fix-freq") == 1
    assert "dmc/userspace/set_freq: did not take 2112000000: No such file" in capsys.readouterr().err
    assert (tmp_path / "sys/class/devfreq/fb000000.gpu/governor").read_text() == "userspace"


def test_without_root_nothing_is_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(make_board(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: "dmc" not in str(path))  # root would be allowed to
    assert call("--root", str(tmp_path), "--fix-freq") == 1
    assert "run this as root" in capsys.readouterr().err
    assert files_of(tmp_path) == before


def test_a_state_that_cannot_be_kept_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_board(tmp_path)
    write(tmp_path, "run/rkllm_ext", "a file where a folder is needed")
    before = files_of(tmp_path)
    assert call("--root", str(tmp_path), "--fix-freq") == 1
    assert "run/rkllm_ext" in capsys.readouterr().err
    assert files_of(tmp_path) == before


def test_a_damaged_state_is_refused_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_board(tmp_path)
    write(tmp_path, "run/state.json", "{")
    assert call("--root", str(tmp_path), "--restore", "--state", "/run/state.json") == 1
    assert "is damaged" in capsys.readouterr().err
    assert call("--root", str(tmp_path), "--fix-freq", "--state", "/run/state.json") == 1
    assert (tmp_path / "run/state.json").read_text() == "{"


def test_other_machines_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--root", str(tmp_path), "--fix-freq") == 1
    assert "this machine is no Rockchip board; frequencies are known for rk3588 and rk3576" in capsys.readouterr().err
    write(tmp_path, "proc/device-tree/compatible", "rockchip,rk3399\0")
    assert call("--root", str(tmp_path), "--fix-freq") == 1
    assert "this machine is rk3399" in capsys.readouterr().err
