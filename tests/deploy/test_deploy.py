# SPDX-License-Identifier: Apache-2.0
"""`rkllm-ext deploy` for real: over ssh to an sshd on loopback, and over a program that plays adb.

The board is a folder; its Python, its environments, its shell and the processes that serve are real ones.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from deploy_boards import FakeBoard, program

from rkllm_ext.cli import main

READY = "RKLLM Model has been initialized successfully!"


class Deployment:
    """Calls the command for one board and keeps what it said."""

    def __init__(self, board: FakeBoard, way: list[str], wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.board = board
        self._options = [*way, "--root", str(board.root), "--wheel", str(wheel), "--offline", "--listen", "127.0.0.1"]
        self._options += ["--port", str(board.port), "--workshop", str(board.workshop), "--wait", "60"]
        self._capsys = capsys
        self.out = self.err = ""

    def run(self, model: Path | str, *more: str, platform: str = "rk3588") -> int:
        """Return the exit status."""
        with pytest.raises(SystemExit) as ended:
            main(["deploy", *self._options, "--model-path", str(model), "--platform", platform, *more])
        self.out, self.err = self._capsys.readouterr()
        return int(ended.value.code or 0)

    def answer(self) -> dict[str, Any]:
        """Return what the server says."""
        url = self.out.splitlines()[-1].split()[-1]
        with urllib.request.urlopen(url, timeout=10) as reply:
            found: dict[str, Any] = json.loads(reply.read())
        return found


@pytest.fixture
def deployment(board: FakeBoard, way: list[str], wheel: Path, capsys: pytest.CaptureFixture[str]) -> Deployment:
    return Deployment(board, way, wheel, capsys)


@pytest.fixture
def by_cable(board: FakeBoard, by_adb: list[str], wheel: Path, capsys: pytest.CaptureFixture[str]) -> Deployment:
    """Return a deployment over adb, for what is the same over ssh."""
    return Deployment(board, by_adb, wheel, capsys)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pushed_bytes(deployment: Deployment) -> list[str]:
    return [line for line in deployment.out.splitlines() if line.startswith("pushing ")]


def test_a_model_is_served_and_a_second_call_changes_nothing(
    deployment: Deployment, way: list[str], model: Path
) -> None:
    board = deployment.board
    board.give_systemd()
    if "--host" in way:
        board.give_real_python()
    lora = model.with_name("style.rkllm")
    lora.write_bytes(b"an adapter")
    more = ("--lora-model-path", str(lora), "--", "--parallel", "2")
    assert deployment.run(model, *more) == 0, deployment.err
    assert "board: Radxa ROCK 5B, rk3588, 16.4 GB memory" in deployment.out
    assert pushed_bytes(deployment) == [
        f"pushing model.rkllm, {model.stat().st_size / 1e6:.1f} MB of {model.stat().st_size / 1e6:.1f}",
        "pushing style.rkllm, 0.0 MB of 0.0",
    ]
    first = deployment.answer()
    models = board.workshop / "models"
    assert first["arguments"] == [
        "serve", str(models / "model.rkllm"), "--host", "127.0.0.1", "--port", str(board.port),
        "--lora", f"style={models / 'style.rkllm'}", "--parallel", "2",
    ]  # fmt: skip
    assert first["model"] == sha256(model)
    assert READY in (board.workshop / "server.log").read_text()
    assert (board.root / "sys/class/devfreq/fdab0000.npu/userspace/set_freq").read_text() == "1000000000"
    unit = (board.root / "etc/systemd/system/rkllm-server.service").read_text()
    assert f"ExecStart=/bin/sh {board.workshop}/start.sh\n" in unit
    assert f"ExecStartPre=-+{board.workshop}/env/bin/rkllm-ext doctor --fix-freq" in unit

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in board.workshop.rglob("*") if path.is_file()}

    before = files()
    assert deployment.run(model, *more) == 0
    assert "the server runs already, nothing has changed" in deployment.out
    assert pushed_bytes(deployment) == []
    assert files() == before
    assert deployment.answer() == first


def test_without_systemd_a_process_serves_and_another_model_replaces_it(by_cable: Deployment, model: Path) -> None:
    board = by_cable.board
    assert by_cable.run(model) == 0, by_cable.err
    first = by_cable.answer()
    assert board.server_pids() == [first["pid"]]
    model.write_bytes(model.read_bytes()[::-1])
    assert by_cable.run(model, "--server", "gradio") == 0, by_cable.err
    second = by_cable.answer()
    assert second["arguments"][0] == "ui"
    assert second["model"] == sha256(model) != first["model"]
    assert second["library"] is None
    assert board.server_pids() == [second["pid"]] != [first["pid"]]


def test_a_push_that_broke_goes_on_where_it_stopped(deployment: Deployment, model: Path) -> None:
    board = deployment.board
    assert deployment.run(model) == 0, deployment.err
    model.write_bytes(model.read_bytes()[::-1])
    (board.folder / "break").touch()
    assert deployment.run(model) == 1
    there = board.workshop / "models" / "model.rkllm"
    assert "cannot be written" in deployment.err
    assert 0 < there.with_name("model.rkllm.part").stat().st_size < model.stat().st_size
    assert sha256(there) != sha256(model)  # the old one, whole
    size = model.stat().st_size
    assert deployment.run(model) == 0, deployment.err
    assert pushed_bytes(deployment) == [f"pushing model.rkllm, {(size - 1_000_000) / 1e6:.1f} MB of {size / 1e6:.1f}"]
    assert sha256(there) == sha256(model)
    assert deployment.answer()["model"] == sha256(model)


def test_a_part_of_another_file_and_a_damaged_file_are_pushed_anew(by_cable: Deployment, model: Path) -> None:
    models = by_cable.board.workshop / "models"
    models.mkdir(parents=True)
    (models / "model.rkllm").write_bytes(b"x" * model.stat().st_size)  # its size is right
    (models / "model.rkllm.part").write_bytes(b"y" * 1000)
    assert by_cable.run(model) == 0, by_cable.err
    assert sha256(models / "model.rkllm") == sha256(model)
    assert sorted(path.name for path in models.iterdir()) == ["model.rkllm"]


def test_a_dry_run_shows_every_command_and_changes_nothing(deployment: Deployment, model: Path) -> None:
    board = deployment.board
    board.give_systemd()
    assert deployment.run(model, "--dry-run") == 0, deployment.err
    commands = [line for line in deployment.out.splitlines() if line.startswith("+ ")]
    parts = ["-m venv", "pip install", "pip download", "append ", "doctor --fix-freq", "systemctl start", "grep -q"]
    for part in parts:
        assert any(part in command for command in commands), part
    assert not board.workshop.exists()
    assert list((board.root / "etc/systemd/system").iterdir()) == []
    asked = (board.folder / "systemctl.calls").read_text().splitlines()
    assert {line.split()[0] for line in asked} == {"is-active"}
    assert (board.root / "sys/class/devfreq/fdab0000.npu/userspace/set_freq").read_text() == "undefined\n"


def test_a_server_that_ends_is_told_with_its_last_words(by_cable: Deployment, model: Path) -> None:
    by_cable.board.give_systemd()
    assert by_cable.run(model, "--", "--broken") == 1
    assert "the server ended; the last lines of" in by_cable.err
    assert "the model cannot be loaded: the file is damaged" in by_cable.err
    assert by_cable.run(model) == 0, by_cable.err
    assert by_cable.answer()["model"] == sha256(model)


def test_a_model_that_only_the_board_has_is_used_where_it_lies(
    by_cable: Deployment, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_file = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda path: path != model and is_file(path))
    assert by_cable.run(model) == 0, by_cable.err
    assert pushed_bytes(by_cable) == []
    assert by_cable.answer()["arguments"][1] == str(model)
    assert not (by_cable.board.workshop / "models").exists()


def test_a_model_that_nobody_has_is_told(by_cable: Deployment) -> None:
    assert by_cable.run("/nowhere/model.rkllm") == 1
    assert "/nowhere/model.rkllm: no such file here, nor on the board" in by_cable.err
    assert by_cable.run("model.rkllm") == 1
    assert "model.rkllm: no such file here, and no absolute path of a file on the board" in by_cable.err


def test_boards_that_will_not_do_are_refused_with_all_reasons(by_cable: Deployment, model: Path) -> None:
    board = by_cable.board
    (board.root / "proc/meminfo").write_text("MemTotal: 200000 kB\nMemAvailable: 100000 kB\n")
    program(board.folder / "bin" / "uname", "#!/bin/sh\necho armv7l\n")
    program(board.folder / "bin" / "df", "#!/bin/sh\necho Filesystem\necho '/dev/root 900 800 100 89% /'\n")
    assert by_cable.run(model, platform="rk3576") == 1
    for reason in (
        "its machine is armv7l, that of an rk3576 is aarch64",
        "it has an rk3588, but --platform is rk3576",
    ):
        assert reason in by_cable.err
    program(board.folder / "bin" / "uname", "#!/bin/sh\necho aarch64\n")
    assert by_cable.run(model) == 1
    assert "it has 0.20 GB of memory, but the model needs 0.27 GB" in by_cable.err
    assert "0.00 GB are free for" in by_cable.err
    assert not board.workshop.exists()


def test_a_board_without_python_is_told_what_to_install(by_cable: Deployment, model: Path) -> None:
    program(by_cable.board.folder / "bin" / "python3", "#!/bin/sh\nexit 1\n")
    assert by_cable.run(model) == 1
    assert "it has no Python 3; install python3 and python3-venv there" in by_cable.err


def test_what_the_page_cannot_do_is_told_before_anything_is_done(by_cable: Deployment, model: Path) -> None:
    assert by_cable.run(model, "--server", "gradio", "--prompt-cache-path", str(model)) == 1
    assert "the page (gradio) has no adapters and prompt caches; choose the server flask" in by_cable.err
    old = '#!/bin/sh\ncase "$*" in *version_info*) echo 3.9 ;; *) echo yes ;; esac\n'
    program(by_cable.board.folder / "bin" / "python3", old)
    assert by_cable.run(model, "--server", "gradio") == 1
    assert "the board has Python 3.9, but gradio needs 3.10 or later" in by_cable.err
    assert not by_cable.board.workshop.exists()


def test_no_wheel_for_the_board_is_told_before_anything_is_done(by_cable: Deployment, model: Path) -> None:
    wheels = model.parent / "wheels"
    wheels.mkdir()
    (wheels / "rkllm_ext-0.1.0-cp311-cp311-linux_riscv64.whl").touch()
    assert by_cable.run(model, "--wheel", str(wheels)) == 1
    assert "no wheel of rkllm_ext for Python" in by_cable.err and "on aarch64" in by_cable.err
    assert "linux_riscv64" in by_cable.err
    assert not by_cable.board.workshop.exists()


# ---- one way only ----


def test_a_board_that_does_not_answer_is_told_and_a_dry_run_assumes_a_fresh_one(
    board: FakeBoard, by_ssh: list[str], wheel: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*by_ssh]
    options[1] = "nobody@127.0.0.1"
    deployment = Deployment(board, options, wheel, capsys)
    assert deployment.run(model) == 1
    assert "nobody@127.0.0.1: ssh cannot reach the board" in deployment.err
    assert deployment.run(model, "--dry-run") == 0, deployment.err
    assert "a fresh board with systemd is assumed" in deployment.out
    assert f"+ append {model} from byte 0 on" in deployment.out
    assert "systemctl start" in deployment.out


def test_adb_is_called_for_the_one_board_that_was_named(
    board: FakeBoard, by_adb: list[str], wheel: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment = Deployment(board, by_adb, wheel, capsys)
    assert deployment.run(model) == 0, deployment.err
    calls = [line for line in (board.folder / "adb.calls").read_text().splitlines() if line.startswith("-s")]
    assert {line.split()[1] for line in calls} == {"0123456789"}
    assert {line.split()[2] for line in calls} == {"shell", "push"}
    assert f"{board.workshop}/models/model.rkllm.part.piece" in " ".join(calls)


@pytest.mark.parametrize(("name", "command"), [("flask", "serve"), ("gradio", "ui")])
def test_the_vendors_scripts_take_the_vendors_options(
    board: FakeBoard, by_adb: list[str], wheel: Path, model: Path, repo: Path, name: str, command: str
) -> None:
    there = board.folder / "model.rkllm"
    shutil.copy(model, there)
    script = repo / "examples" / f"build_rkllm_server_{name}.sh"
    ours = ["--root", str(board.root), "--wheel", str(wheel), "--offline", "--listen", "127.0.0.1"]
    ours += ["--port", str(board.port), "--dry-run"]
    program(model.parent / "pc" / "rkllm-ext",
            f"#!/bin/sh\nexec {sys.executable} -c 'from rkllm_ext.cli import main; main()' \"$@\"\n")  # fmt: skip
    named = ["--workshop", str(board.workshop), "--model_path", str(there), "--platform", "rk3588", "--npu_num", "3"]
    plain = ["rk3588", str(board.workshop), str(there)]
    for given in (named, plain):
        done = subprocess.run(["sh", str(script), *given, *ours], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"rkllm-ext {command} " in done.stdout
        assert "+ adb shell" in done.stdout
    ours += ["--host", "me@127.0.0.1"]
    by_host = subprocess.run(["sh", str(script), *named, *ours], capture_output=True, text=True)
    assert "+ ssh " in by_host.stdout and "+ adb" not in by_host.stdout


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "either --host USER@BOARD or --adb"),
        (["--host", "a", "--adb"], "either --host USER@BOARD or --adb"),
    ],
)
def test_a_call_names_one_board(options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["deploy", "--workshop", "/w", "--model-path", "m", "--platform", "rk3588", *options])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("workshop", ["relative", "/with space", "/with$sign", "/with'quote", "/with%percent"])
def test_a_workshop_is_a_plain_absolute_path(workshop: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["deploy", "--host", "a", "--workshop", workshop, "--model-path", "m", "--platform", "rk3588"])
    assert ended.value.code == 1
    assert f"workshop is '{workshop}', but must be an absolute path" in capsys.readouterr().err
