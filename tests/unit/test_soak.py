# SPDX-License-Identifier: Apache-2.0
"""The soak benchmark in short: what comes and goes leaves nothing behind, and no answer is wrong."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def soak(repo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak", repo / "benchmarks" / "soak.py")
    assert spec and spec.loader
    module = sys.modules["soak"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_hundred_runs_leave_nothing_behind(soak: ModuleType, tmp_path: Path) -> None:
    model, lora = soak.small_model(tmp_path)
    one = soak.Soak(model, lora, tmp_path, seed=1)
    for action in one.actions.values():  # threads and files of the first time stay
        assert action()
    seen, wrong = one.run(100, 20)
    # So few runs are not enough for allocators to have all they keep; 2,000 of the benchmark are.
    assert not soak.verdict(seen, wrong, most_growth_mb=24.0)
    assert sum(wrong.values()) == 0 and len(seen) == 6


def test_what_grows_and_what_is_wrong_is_told(soak: ModuleType) -> None:
    grown = [soak.Usage(0, 50.0, 3, 9), soak.Usage(50, 60.0, 3, 9), soak.Usage(100, 70.0, 4, 10)]
    faults = soak.verdict(grown, soak.Counter({"abort": 2, "answer": 0}))
    assert faults == [
        "2 wrong answers: abort",
        "memory grew from 60.0 to 70.0 MB",
        "threads grew from 3 to 4",
        "files grew from 9 to 10",
    ]
