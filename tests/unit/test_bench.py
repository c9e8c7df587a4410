# SPDX-License-Identifier: Apache-2.0
"""Speeds and limits are measured, told, and asked for with sense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rkllm_ext import _rkllm
from rkllm_ext.bench import measure
from rkllm_ext.cli import main
from rkllm_ext.convert import convert
from rkllm_ext.errors import InvalidArgumentError


@pytest.fixture(scope="module")
def model(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "model.rkllm"
    convert(tiny_llama, out, "w8a8")
    return out


def test_limits_are_positive_for_one_and_two_threads() -> None:
    for n_threads in (1, 2):
        assert all(value > 0 for value in _rkllm.limits(n_threads))
    with pytest.raises(InvalidArgumentError, match="0 to 256"):
        _rkllm.limits(1000)


def test_a_measurement_adds_up(model: Path) -> None:
    one, two = measure(model, n_prompt=20, n_generated=5, threads=[1, 2], repeats=1)
    assert (one.n_threads, two.n_threads, one.format) == (1, 2, "w8a8")
    for row in (one, two):
        assert row.prefill > 0 and row.decode > 0 and row.load_ms > 0 and row.peak_memory_mb > 0
        assert row.memory_share == pytest.approx(row.weight_gbs / row.read_gbs)


def test_activations_are_those_that_were_asked_for(tiny_llama: Path, model: Path, tmp_path: Path) -> None:
    convert(tiny_llama, tmp_path / "m.rkllm", "w4a16_g32")
    (row,) = measure(tmp_path / "m.rkllm", n_prompt=4, n_generated=2, repeats=1, activations="int8")
    assert row.activations == "int8"
    with pytest.raises(InvalidArgumentError, match="for 4-bit weights"):
        list(measure(model, n_prompt=4, n_generated=2, repeats=1, activations="int8"))


@pytest.mark.parametrize("arguments", [{"n_prompt": 0}, {"n_generated": 1}, {"repeats": 0}, {"n_prompt": 100_000}])
def test_what_cannot_be_measured_is_refused(model: Path, arguments: dict[str, int]) -> None:
    with pytest.raises(InvalidArgumentError):
        list(measure(model, **arguments))


def test_without_numbers_what_is_measured_fits_the_model(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", str(model), "-r", "1", "--json"])
    assert end.value.code == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["n_prompt"] + row["n_generated"] == 512  # tiny-llama's context


def test_the_command_prints_a_row_for_each_number_of_threads(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", str(model), "-p", "8", "-n", "4", "-r", "1"]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "-t", "1,2"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["1", "2"]
    with pytest.raises(SystemExit):
        main([*arguments, "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["n_prompt"] == 8 and row["n_generated"] == 4 and row["isa"] == _rkllm.active_isa()
    with pytest.raises(SystemExit) as end:
        main([*arguments, "-t", "two"])
    assert end.value.code == 2
