# SPDX-License-Identifier: Apache-2.0
"""Which wheel a board gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from rkllm_ext.deploy.survey import Survey
from rkllm_ext.deploy.wheels import fitting_wheel
from rkllm_ext.errors import RKLLMError

WHEELS = [
    "rkllm_ext-0.1.0-cp39-abi3-manylinux_2_17_aarch64.manylinux2014_aarch64.whl",
    "rkllm_ext-0.1.0-cp311-abi3-manylinux_2_17_aarch64.manylinux2014_aarch64.whl",
    "rkllm_ext-0.1.0-cp311-abi3-android_24_arm64_v8a.whl",
    "rkllm_ext-0.1.0-cp312-cp312-linux_aarch64.whl",
    "rkllm_ext-0.1.0-cp313-cp313-manylinux_2_39_aarch64.whl",
    "rkllm_ext-0.1.0-cp311-cp311-manylinux_2_17_x86_64.whl",
]


@pytest.mark.parametrize(
    ("python", "glibc", "expected"),
    [
        ((3, 9), (2, 31), WHEELS[0]),
        ((3, 10), (2, 35), WHEELS[0]),
        ((3, 11), (2, 36), WHEELS[1]),  # of two that later Pythons take the nearer one
        ((3, 12), (2, 36), WHEELS[3]),  # made for this Python: before the one that later ones take
        ((3, 13), (2, 36), WHEELS[1]),  # its own wants a newer glibc
        ((3, 13), (2, 41), WHEELS[4]),
    ],
)
def test_the_wheel_for_the_boards_python_and_glibc_is_taken(
    tmp_path: Path, python: tuple[int, int], glibc: tuple[int, int], expected: str
) -> None:
    for name in WHEELS:
        (tmp_path / name).touch()
    assert fitting_wheel(tmp_path, Survey(python=python, glibc=glibc)).name == expected


def test_a_newer_version_goes_before_a_nearer_one(tmp_path: Path) -> None:
    for name in (WHEELS[3], WHEELS[1].replace("0.1.0", "0.10.0"), WHEELS[1].replace("0.1.0", "0.9.0")):
        (tmp_path / name).touch()
    assert fitting_wheel(tmp_path, Survey(python=(3, 12))).name == WHEELS[1].replace("0.1.0", "0.10.0")


def test_a_board_that_no_wheel_fits_is_told_what_it_is(tmp_path: Path) -> None:
    for name in WHEELS:
        (tmp_path / name).touch()
    with pytest.raises(RKLLMError, match=r"no wheel of rkllm_ext for Python 3.8 on aarch64 with glibc 2.31; cross"):
        fitting_wheel(tmp_path, Survey(python=(3, 8), glibc=(2, 31)))
    with pytest.raises(RKLLMError, match=r"x\.whl: no such wheel or folder of wheels"):
        fitting_wheel(tmp_path / "x.whl", Survey())
