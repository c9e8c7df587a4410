# SPDX-License-Identifier: Apache-2.0
"""Boards to deploy to: a folder that plays one, reached by a real sshd on loopback or a program playing adb."""

from __future__ import annotations

import base64
import getpass
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from deploy_boards import HERE, FakeBoard, free_port, program

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/sbin:/usr/local/sbin")


@pytest.fixture
def board(tmp_path: Path) -> Iterator[FakeBoard]:
    made = FakeBoard(tmp_path / "board")
    yield made
    made.stop()


@pytest.fixture
def by_ssh(board: FakeBoard, tmp_path: Path) -> Iterator[list[str]]:
    """Return the options that reach the board through an sshd of this user on loopback."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("needs sshd and ssh: apt install openssh-server openssh-client")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd of root wants to be locked in
    folder = tmp_path / "sshd"
    folder.mkdir(mode=0o700)
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    port = free_port()
    # A bash that believes to be within another one leaves out its user's settings, which may put other programs first.
    environment = " ".join(f'"{name}={value}"' for name, value in {**board.environment, "SHLVL": "2"}.items())
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/user.pub\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        f"SetEnv {environment}\n"
    )
    known = (folder / "host.pub").read_text().split()[:2]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(known)}\n")
    (folder / "config").write_text(
        f"Host board\n HostName 127.0.0.1\n Port {port}\n User {getpass.getuser()}\n IdentityFile {folder}/user\n"
        f" IdentitiesOnly yes\n UserKnownHostsFile {folder}/known_hosts\n StrictHostKeyChecking yes\n"
    )
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        tried = subprocess.run(
            ["ssh", "-F", str(folder / "config"), "-o", "BatchMode=yes", "board", "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if tried.returncode != 0:
            pytest.skip(f"sshd lets nobody in here: {tried.stderr}{(folder / 'log').read_text()}")
        yield ["--host", "board", "--ssh-config", str(folder / "config")]
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def by_adb(board: FakeBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the options that reach the board through a program playing adb, which writes down its calls."""
    program(tmp_path / "pc" / "adb", (HERE / "adb_standin.sh").read_text())
    monkeypatch.setenv("PATH", f"{tmp_path / 'pc'}:{os.environ['PATH']}")
    monkeypatch.setenv("BOARD", str(board.folder))
    monkeypatch.setenv("BOARD_PATH", board.environment["PATH"])
    return ["--adb", "0123456789"]


@pytest.fixture(params=["ssh", "adb"])
def way(request: pytest.FixtureRequest) -> list[str]:
    """Return the options that reach the board, one way after the other."""
    options: list[str] = request.getfixturevalue(f"by_{request.param}")
    return options


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a real wheel called rkllm_ext with a small program that plays ours."""
    folder = tmp_path_factory.mktemp("wheel")
    path = folder / "rkllm_ext-99.0-py3-none-any.whl"
    source = (HERE / "board_program.py").read_text().replace("REAL_PYTHON", sys.executable)
    info = "rkllm_ext-99.0.dist-info"
    files = {
        "board_program.py": source,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: rkllm_ext\nVersion: 99.0\n"
        "Provides-Extra: server\nProvides-Extra: ui\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nrkllm-ext = board_program:main\n",
    }
    rows = []
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
            sum_of = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={sum_of},{len(text.encode())}")
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,", ""]))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a file of 3 MB with no pattern."""
    path = tmp_path / "model.rkllm"
    path.write_bytes(b"".join(hashlib.sha512(str(i).encode()).digest() for i in range(3_000_000 // 64)))
    return path
