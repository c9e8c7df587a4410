# SPDX-License-Identifier: Apache-2.0
"""Interrupted conversions go on where they ended, with the bytes of one that was not interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from rkllm_ext import convert
from rkllm_ext.cli import main
from rkllm_ext.convert import ConversionReport
from rkllm_ext.errors import InvalidArgumentError, ModelFileError
from rkllm_ext.journal import Journal, partial_path
from rkllm_ext.quant.quantizer import RoundToNearest


class Packed(list[str]):
    """The names of the tensors that were packed; stops the conversion after `limit` of them."""

    def __init__(self, limit: int | None, failure: BaseException) -> None:
        super().__init__()
        self._limit = limit
        self._failure = failure

    def __call__(self, name: str) -> None:
        if self._limit is not None and len(self) == self._limit:
            raise self._failure
        self.append(name)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[str], ConversionReport | None]]:
    real = RoundToNearest.pack

    def run(
        source: Path, out: Path, limit: int | None = None, failure: BaseException | None = None, **options: Any
    ) -> tuple[list[str], ConversionReport | None]:
        packed = Packed(limit, failure or KeyboardInterrupt())

        def counted(self: RoundToNearest, weights: Any) -> Any:
            packed(weights.name)
            return real(self, weights)

        with monkeypatch.context() as patch:
            patch.setattr(RoundToNearest, "pack", counted)
            try:
                report = convert(source, out, **{"quantized_dtype": "w4a16_g32", "resume": True, **options})
            except BaseException as error:
                assert failure is None or error is failure
                return list(packed), None
        return list(packed), report

    return run


@pytest.fixture
def expected(tiny_llama: Path, tmp_path: Path) -> bytes:
    convert(tiny_llama, tmp_path / "whole.rkllm", "w4a16_g32")
    content = (tmp_path / "whole.rkllm").read_bytes()
    (tmp_path / "whole.rkllm").unlink()
    return content


@pytest.mark.parametrize("limit", [1, 7, 20])
def test_an_interrupted_conversion_goes_on_with_the_same_bytes(
    tiny_llama: Path, tmp_path: Path, expected: bytes, run: Any, limit: int
) -> None:
    out = tmp_path / "m.rkllm"
    out.write_bytes(b"old")
    first, _ = run(tiny_llama, out, limit, measure=True)
    assert len(first) == limit
    assert out.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == [".m.rkllm.journal", ".m.rkllm.partial", "m.rkllm"]
    rest, report = run(tiny_llama, out, measure=True)
    assert out.read_bytes() == expected
    assert os.listdir(tmp_path) == ["m.rkllm"]
    whole = convert(tiny_llama, out, "w4a16_g32", measure=True)
    assert first + rest == [row["name"] for row in whole.tensors]
    assert report.tensors == whole.tensors


def test_several_interruptions_in_a_row(tiny_llama: Path, tmp_path: Path, expected: bytes, run: Any) -> None:
    names: list[str] = []
    for limit in (3, 0, 5):
        names += run(tiny_llama, tmp_path / "m.rkllm", limit)[0]
    assert len(names) == 8
    names += run(tiny_llama, tmp_path / "m.rkllm")[0]
    assert (tmp_path / "m.rkllm").read_bytes() == expected
    assert len(names) == len(set(names))


def test_an_interruption_before_the_first_tensor_leaves_nothing(tiny_llama: Path, tmp_path: Path, run: Any) -> None:
    run(tiny_llama, tmp_path / "m.rkllm", 0)
    assert os.listdir(tmp_path) == []


def test_without_resume_nothing_is_kept(tiny_llama: Path, tmp_path: Path, run: Any) -> None:
    run(tiny_llama, tmp_path / "m.rkllm", 7, resume=False)
    assert os.listdir(tmp_path) == []


def test_what_failed_for_want_of_memory_is_kept_and_what_is_refused_is_not(
    tiny_llama: Path, tmp_path: Path, run: Any
) -> None:
    run(tiny_llama, tmp_path / "m.rkllm", 7, MemoryError())
    assert len(os.listdir(tmp_path)) == 2
    run(tiny_llama, tmp_path / "m.rkllm", 7, ModelFileError(f"{tiny_llama}: a weight is not finite"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "options",
    [{"quantized_dtype": "w8a8"}, {"head_format": "fp16"}, {"platform": "rk3576"}, {"measure": True}],
    ids=lambda options: next(iter(options)),
)
def test_other_settings_start_anew(tiny_llama: Path, tmp_path: Path, run: Any, options: dict[str, str]) -> None:
    run(tiny_llama, tmp_path / "m.rkllm", 7)
    packed, report = run(tiny_llama, tmp_path / "m.rkllm", **options)
    assert len(packed) == report.n_tensors
    found = (tmp_path / "m.rkllm").read_bytes()
    convert(tiny_llama, tmp_path / "m.rkllm", **{"quantized_dtype": "w4a16_g32", **options})
    assert (tmp_path / "m.rkllm").read_bytes() == found


def test_a_changed_source_starts_anew(tiny_llama: Path, tmp_path: Path, run: Any) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_llama, source)
    run(source, tmp_path / "m.rkllm", 7)
    weights = bytearray((source / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (source / "model.safetensors").write_bytes(weights)
    packed, report = run(source, tmp_path / "m.rkllm")
    assert len(packed) == report.n_tensors


@pytest.mark.parametrize("damage", ["byte", "short", "gone"])
def test_only_what_is_in_the_partial_file_counts(
    tiny_llama: Path, tmp_path: Path, expected: bytes, run: Any, damage: str
) -> None:
    out = tmp_path / "m.rkllm"
    run(tiny_llama, out, 7)
    partial = partial_path(out)
    content = bytearray(partial.read_bytes())
    if damage == "byte":  # in the third of the seven tensors: two are whole
        content[_offset_of(expected, 2)] ^= 0xFF
        partial.write_bytes(content)
    elif damage == "short":
        partial.write_bytes(content[:-1])
    else:
        partial.unlink()
    packed, report = run(tiny_llama, out)
    assert len(packed) == report.n_tensors - (2 if damage == "byte" else 0)
    assert out.read_bytes() == expected


def _offset_of(content: bytes, index: int) -> int:
    """Return where the data of a tensor begins in a model file."""
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(content)
        file.flush()
        return int(GGUFReader(file.name).tensors[index].data_offset)


@pytest.mark.parametrize("cut", ["half a line", "not JSON", "no checksum"])
def test_a_damaged_journal_counts_up_to_the_damage(
    tiny_llama: Path, tmp_path: Path, expected: bytes, run: Any, cut: str
) -> None:
    out = tmp_path / "m.rkllm"
    run(tiny_llama, out, 7)
    journal = tmp_path / ".m.rkllm.journal"
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == 8
    broken = {"half a line": lines[5][:9], "not JSON": "\x00\n", "no checksum": json.dumps({"facts": {}}) + "\n"}
    journal.write_text("".join([*lines[:5], broken[cut]]))
    packed, report = run(tiny_llama, out)
    assert len(packed) == report.n_tensors - 4
    assert out.read_bytes() == expected


def test_a_killed_process_leaves_what_the_next_one_goes_on_with(
    tiny_llama: Path, tmp_path: Path, expected: bytes, run: Any
) -> None:
    script = """
import os, signal, sys
from rkllm_ext import convert
from rkllm_ext.quant.quantizer import RoundToNearest

real, left = RoundToNearest.pack, 9
def pack(self, weights):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, weights)

RoundToNearest.pack = pack
convert(sys.argv[1], sys.argv[2], "w4a16_g32", resume=True)
"""
    out = tmp_path / "m.rkllm"
    done = subprocess.run([sys.executable, "-c", script, str(tiny_llama), str(out)])
    assert done.returncode == -signal.SIGKILL
    packed, report = run(tiny_llama, out)
    lost = len(packed) - (report.n_tensors - 9)  # packed ahead, not yet written
    assert 0 <= lost <= 2
    assert out.read_bytes() == expected


def test_two_processes_do_not_write_one_file(tiny_llama: Path, tmp_path: Path, run: Any) -> None:
    out = tmp_path / "m.rkllm"
    run(tiny_llama, out, 7)
    before = partial_path(out).read_bytes()
    other = Journal(out)
    other.open("other")
    try:
        with pytest.raises(InvalidArgumentError, match="another process is writing it"):
            convert(tiny_llama, out, "w4a16_g32", resume=True)
    finally:
        other.close()
    assert partial_path(out).read_bytes() == before


def test_progress_counts_what_was_kept(tiny_llama: Path, tmp_path: Path, run: Any) -> None:
    run(tiny_llama, tmp_path / "m.rkllm", 7)
    calls: list[tuple[int, int]] = []
    run(tiny_llama, tmp_path / "m.rkllm", progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]


def test_a_level_that_calibrates_goes_on_with_the_same_bytes(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rkllm_ext.quant.calibrated import Calibrated

    convert(tiny_llama, tmp_path / "whole.rkllm", "w4a16_g32", optimization_level=1)
    real, left = Calibrated.pack, [5]

    def stopping(self: Calibrated, weights: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(self, weights)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Calibrated, "pack", stopping)
        convert(tiny_llama, tmp_path / "m.rkllm", "w4a16_g32", optimization_level=1, resume=True)
    convert(tiny_llama, tmp_path / "m.rkllm", "w4a16_g32", optimization_level=1, resume=True)
    assert (tmp_path / "m.rkllm").read_bytes() == (tmp_path / "whole.rkllm").read_bytes()


def test_the_command_says_what_is_kept_and_goes_on(
    tiny_llama: Path, tmp_path: Path, expected: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    def stopping(self: RoundToNearest, weights: Any) -> Any:
        if weights.name == "blk.1.attn_q.weight":
            raise KeyboardInterrupt
        return real(self, weights)

    real = RoundToNearest.pack
    command = ["convert", str(tiny_llama), str(tmp_path / "m.rkllm")]
    for options, kept in (([], True), (["--no-resume"], False)):
        for name in os.listdir(tmp_path):
            (tmp_path / name).unlink()
        with monkeypatch.context() as patch:
            patch.setattr(RoundToNearest, "pack", stopping)
            with pytest.raises(SystemExit) as caught:
                main([*command, *options])
        assert caught.value.code == 130
        err = capsys.readouterr().err
        assert ("m.rkllm.partial; the same command goes on from there" in err) == kept
        assert err.endswith("rkllm-ext: stopped\n")
        assert bool(os.listdir(tmp_path)) == kept
        with pytest.raises(SystemExit) as caught:
            main([*command, *options])
        assert caught.value.code in (0, None)
        assert (tmp_path / "m.rkllm").read_bytes() == expected
