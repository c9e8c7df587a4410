# SPDX-License-Identifier: Apache-2.0
"""The writer of .rkllm files: the bytes of the format page, whole files or none."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from reference import tiles

from rkllm_ext import _rkllm, writer
from rkllm_ext.errors import InvalidArgumentError, ModelFileError
from rkllm_ext.writer import Entry, Key, ModelWriter

KEYS: list[Key] = [
    ("general.architecture", "string", "rkllm"),
    ("a.u32", "u32", 7),
    ("a.f32", "f32", 0.5),
    ("a.bool", "bool", True),
    ("a.none", "[string]", []),
    ("a.words", "[string]", ["ä", "", b"\xff"]),
    ("a.numbers", "[u32]", [1, 2, 3]),
    ("a.scores", "[f32]", [1.5, -2.0]),
]
ENTRIES = [Entry("norm", "", 1, 5), Entry("w", "w8a8", 3, 40), Entry("h", "fp16", 2, 3)]


def payloads() -> list[bytes]:
    return [bytes([i + 1]) * entry.n_bytes for i, entry in enumerate(ENTRIES)]


def write(path: Path, keys: Sequence[Key] = KEYS) -> bytes:
    with ModelWriter(path, keys, ENTRIES) as file:
        for data in payloads():
            file.write(data)
    assert path.stat().st_size == file.n_bytes
    return path.read_bytes()


def test_other_readers_find_keys_and_tensors(tmp_path: Path) -> None:
    write(tmp_path / "m.rkllm", [key for key in KEYS if key[0] not in ("a.words", "a.none")])
    reader = GGUFReader(tmp_path / "m.rkllm")
    assert reader.fields["a.u32"].contents() == 7
    assert reader.fields["a.numbers"].contents() == [1, 2, 3]
    assert reader.fields["general.alignment"].contents() == 64
    assert reader.fields["rkllm.tensor.format"].contents() == ["", "w8a8", "fp16", ""]
    assert reader.fields["rkllm.tensor.rows"].contents() == [1, 3, 2, 1]
    assert reader.fields["rkllm.tensor.cols"].contents() == [5, 40, 3, 4]
    assert [tensor.name for tensor in reader.tensors] == ["norm", "w", "h", "checksums"]
    assert [tensor.tensor_type.name for tensor in reader.tensors] == ["F32", "I8", "I8", "I64"]
    assert all(tensor.data_offset % 64 == 0 for tensor in reader.tensors)
    for tensor, data in zip(reader.tensors, payloads()):
        assert tensor.data.tobytes() == data


def test_the_engines_reader_finds_every_kind_of_value(tmp_path: Path) -> None:
    write(tmp_path / "m.rkllm")
    with _rkllm.GGUFFile(tmp_path / "m.rkllm") as file:
        values = dict(file.values)
    assert values["a.f32"] == 0.5
    assert values["a.bool"] is True
    assert list(values["a.none"]) == []
    assert [text.encode("utf-8", "surrogateescape") for text in values["a.words"]] == ["ä".encode(), b"", b"\xff"]
    assert list(values["a.scores"]) == [1.5, -2.0]


def test_checksums_are_those_of_the_format_page(tmp_path: Path) -> None:
    raw = write(tmp_path / "m.rkllm")
    reader = GGUFReader(tmp_path / "m.rkllm", "r")
    sums = reader.tensors[-1].data.view(np.uint64).tolist()
    header = raw[: reader.data_offset]
    assert sums == [*(tiles.checksum(data) for data in payloads()), tiles.checksum(header)]


@pytest.mark.parametrize("n_bytes", [0, 1, 63, 64, 65, 1000])
def test_the_librarys_checksum_is_that_of_the_format_page(n_bytes: int) -> None:
    data = np.random.default_rng(n_bytes).bytes(n_bytes)
    assert _rkllm.checksum(data) == tiles.checksum(data)


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a.rkllm") == write(tmp_path / "b.rkllm")


@pytest.mark.parametrize("interrupted_after", [1, 2, 3])
def test_tensors_of_several_huge_pages_lie_one_behind_the_other(tmp_path: Path, interrupted_after: int) -> None:
    random = np.random.default_rng(0)
    entries = [Entry(f"v{i}", "", 1, n) for i, n in enumerate([600_000, 1_500_000, 30, 700_000])]
    data = [random.bytes(entry.n_bytes) for entry in entries]
    path = tmp_path / "m.rkllm"
    with pytest.raises(KeyboardInterrupt), ModelWriter(path, KEYS, entries, "of a test") as file:
        for piece in data[:interrupted_after]:
            file.write(piece)
        raise KeyboardInterrupt
    with ModelWriter(path, KEYS, entries, "of a test") as file:
        assert len(file.kept) == interrupted_after
        for piece in data[interrupted_after:]:
            file.write(piece)
    assert [tensor.data.tobytes() for tensor in GGUFReader(path).tensors][:-1] == data


def test_the_file_has_the_users_permissions(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write(tmp_path / "m.rkllm")
    finally:
        os.umask(old)
    assert (tmp_path / "m.rkllm").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, failure: type[BaseException]) -> None:
    target = tmp_path / "m.rkllm"
    target.write_bytes(b"old")
    with pytest.raises(failure), ModelWriter(target, KEYS, ENTRIES) as file:
        file.write(payloads()[0])
        raise failure
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m.rkllm"]


def test_a_tensor_of_the_wrong_size_or_a_missing_one_is_an_error(tmp_path: Path) -> None:
    target = tmp_path / "m.rkllm"
    with (
        pytest.raises(InvalidArgumentError, match="norm: 3 bytes were given, 20 are needed"),
        ModelWriter(target, KEYS, ENTRIES) as file,
    ):
        file.write(b"abc")
    with (
        pytest.raises(InvalidArgumentError, match="1 of 3 tensors were written"),
        ModelWriter(target, KEYS, ENTRIES) as file,
    ):
        file.write(payloads()[0])
    assert os.listdir(tmp_path) == []


def test_a_device_or_a_pipe_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")  # as /dev/stdout is one
    for name in ("pipe", "link"):
        with pytest.raises(InvalidArgumentError, match=f"{name}: is not a regular file and cannot be replaced"):
            ModelWriter(tmp_path / name, KEYS, ENTRIES)
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


def test_a_link_stays_and_what_it_stands_for_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "m.rkllm").symlink_to("folder/real.rkllm")
    written = write(tmp_path / "m.rkllm")
    assert (tmp_path / "m.rkllm").is_symlink()
    assert (tmp_path / "folder" / "real.rkllm").read_bytes() == written
    assert os.listdir(tmp_path / "folder") == ["real.rkllm"]


def test_a_target_that_is_a_folder_or_has_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"is a folder; name a file to write"):
        ModelWriter(tmp_path, KEYS, ENTRIES)
    with pytest.raises(InvalidArgumentError, match=r"the folder .*nowhere does not exist"):
        ModelWriter(tmp_path / "nowhere" / "m.rkllm", KEYS, ENTRIES)


@pytest.mark.parametrize(
    "key",
    [
        ("k", "u32", -1),
        ("k", "u32", 2**32),
        ("k", "u32", "1"),
        ("k", "[f32]", ["x"]),
        ("k", "string", 5),
        ("k", "u99", 1),
    ],
)
def test_a_value_that_does_not_fit_its_type_is_refused(tmp_path: Path, key: Key) -> None:
    with pytest.raises(InvalidArgumentError, match="key 'k'"):
        ModelWriter(tmp_path / "m.rkllm", [key], ENTRIES)


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"given twice.*'k'"):
        ModelWriter(tmp_path / "m.rkllm", [("k", "u32", 1), ("k", "u32", 2)], ENTRIES)


# ---- a full disk ----

_FILL = """
import resource, signal, sys
from rkllm_ext.errors import ModelFileError
from rkllm_ext.writer import Entry, ModelWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with ModelWriter(sys.argv[1], [], [Entry("w", "", 1, 100_000)]) as file:
        file.write(bytes(400_000))
except ModelFileError as error:
    print(error)
"""


def test_a_file_larger_than_the_limit_is_refused_and_removed(tmp_path: Path) -> None:
    (tmp_path / "m.rkllm").write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", _FILL, str(tmp_path / "m.rkllm")], capture_output=True, text=True, check=True
    )
    assert "m.rkllm: cannot be written: File too large; 0.4 MB are needed; nothing was changed" in done.stdout
    assert os.listdir(tmp_path) == ["m.rkllm"]
    assert (tmp_path / "m.rkllm").read_bytes() == b"old"


@pytest.mark.parametrize("call", ["pwrite", "fsync", "replace"])
def test_a_disk_that_fills_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer.os, call, full)
    with pytest.raises(ModelFileError, match="No space left on device"):
        write(tmp_path / "m.rkllm")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []


def test_writes_that_the_system_cuts_short_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write(tmp_path / "a.rkllm")
    real = os.pwrite
    monkeypatch.setattr(writer.os, "pwrite", lambda fd, data, position: real(fd, data[:7], position))
    assert write(tmp_path / "b.rkllm") == whole


def test_a_folder_without_permission_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(writer.os, "open", refused)
    with pytest.raises(ModelFileError, match="cannot be written: Permission denied; nothing was changed"):
        write(tmp_path / "m.rkllm")


def test_header_counts(tmp_path: Path) -> None:
    raw = write(tmp_path / "m.rkllm")
    assert struct.unpack_from("<4sIQQ", raw) == (b"GGUF", 3, 4, len(KEYS) + 4)
