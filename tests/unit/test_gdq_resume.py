# SPDX-License-Identifier: Apache-2.0
"""What gdq has learned when it is interrupted is not learned again, and the result is that of one that was not."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rkllm_ext import convert
from rkllm_ext.errors import InvalidArgumentError, ModelFileError
from rkllm_ext.journal import Journal, partial_path
from rkllm_ext.quant.qparams import FromParameters, Unfinished

torch = pytest.importorskip("torch")

from rkllm_ext.quant import gdq  # noqa: E402

KEPT = [".gdq.qparams.journal", ".gdq.qparams.partial"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def whole(tiny_llama: Path, few_texts: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the model of a conversion that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    convert(tiny_llama, folder / "m.rkllm", "w4a16_g32", algorithm="gdq", steps=3, dataset=few_texts)
    return (folder / "m.rkllm").read_bytes()


@pytest.fixture
def run(tiny_llama: Path, few_texts: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Return run(folder, stop, ...): convert until block `stop` is to be learned; return the blocks that were."""
    best = gdq.Learner._best

    def run(folder: Path, stop: int = 99, **options: Any) -> list[int]:
        learned: list[int] = []

        def counted(self: gdq.Learner, layer: int, *rest: Any) -> Any:
            if layer == stop:
                raise KeyboardInterrupt
            learned.append(layer)
            return best(self, layer, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(gdq.Learner, "_best", counted)
            arguments = {"algorithm": "gdq", "steps": 3, "dataset": few_texts, "resume": True, **options}
            with suppress(KeyboardInterrupt):
                convert(tiny_llama, folder / "m.rkllm", "w4a16_g32", **arguments)
        return learned

    return run


def finished(folder: Path) -> bytes:
    """Return the model that is in the folder, where nothing is left of what was kept."""
    assert sorted(os.listdir(folder)) == ["gdq.qparams", "m.rkllm"]
    return (folder / "m.rkllm").read_bytes()


def test_an_interrupted_learner_goes_on_to_the_same_bytes(tmp_path: Path, whole: bytes, run: Any) -> None:
    assert run(tmp_path, stop=1) == [0]
    assert sorted(os.listdir(tmp_path)) == KEPT
    assert run(tmp_path) == [1]
    assert finished(tmp_path) == whole


def test_what_is_learned_is_not_learned_again_when_packing_was_interrupted(
    tmp_path: Path, whole: bytes, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FromParameters, "pack", interrupted)
        assert run(tmp_path) == [0, 1]
    assert sorted(os.listdir(tmp_path)) == [*KEPT, "gdq.qparams"]
    assert run(tmp_path) == []
    assert finished(tmp_path) == whole


@pytest.mark.parametrize("changed", [{"seed": 1}, {"steps": 4}, {"dataset": None}])
def test_other_arguments_start_anew(tmp_path: Path, run: Any, changed: dict[str, Any]) -> None:
    assert run(tmp_path, stop=1) == [0]
    assert run(tmp_path, **changed) == [0, 1]
    assert finished(tmp_path)


def test_another_source_starts_anew(tmp_path: Path, tiny_llama: Path, few_texts: Path, run: Any) -> None:
    assert run(tmp_path, stop=1) == [0]
    other = tmp_path / "other"
    shutil.copytree(tiny_llama, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 2e-5}))
    arguments = {"algorithm": "gdq", "steps": 3, "dataset": few_texts}
    expected, out = tmp_path / "expected", tmp_path / "m.rkllm"
    expected.mkdir()
    convert(other, expected / "m.rkllm", "w4a16_g32", **arguments)  # type: ignore[arg-type]
    convert(other, out, "w4a16_g32", **arguments, resume=True)  # type: ignore[arg-type]
    assert out.read_bytes() == (expected / "m.rkllm").read_bytes()


def test_nothing_is_kept_of_nothing_and_without_resume(tmp_path: Path, run: Any) -> None:
    assert run(tmp_path, stop=0) == []
    assert run(tmp_path, stop=1, resume=False) == [0]
    assert os.listdir(tmp_path) == []


def test_a_damaged_block_is_learned_again(tmp_path: Path, whole: bytes, run: Any) -> None:
    assert run(tmp_path, stop=1) == [0]
    partial = partial_path(tmp_path / "gdq.qparams")
    data = bytearray(partial.read_bytes())
    data[-9] ^= 1
    partial.write_bytes(data)
    assert run(tmp_path) == [0, 1]
    assert finished(tmp_path) == whole


def test_a_full_disk_keeps_what_was_learned_before(
    tmp_path: Path, whole: bytes, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = Journal.add
    failures = [None, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))]

    def add(self: Journal, piece: Any) -> None:
        failure = failures.pop(0)
        if failure:
            raise failure
        noted(self, piece)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", add)
        with pytest.raises(ModelFileError, match=r"gdq\.qparams: cannot be written: No space left on device"):
            run(tmp_path)
    assert sorted(os.listdir(tmp_path)) == KEPT
    assert run(tmp_path) == [1]
    assert finished(tmp_path) == whole


def test_two_learners_do_not_write_one_file(tmp_path: Path, run: Any) -> None:
    with Unfinished(tmp_path / "gdq.qparams", "another", {}, {}):
        with pytest.raises(InvalidArgumentError, match="another process is writing it"):
            run(tmp_path)
        assert sorted(os.listdir(tmp_path)) == KEPT
    assert os.listdir(tmp_path) == []
