# SPDX-License-Identifier: Apache-2.0
"""A plugin for pytest inside an emulated Python: leaves out what says nothing there, and ends in time.

BoardPython.test puts it beside the wheel. BOARD_SECONDS: no test begins later than that, and LAST are the last ones;
not set: all run. What was left out is told at the end, with its reason.
"""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest

#: Beginnings of test ids below tests/ -> why an emulated board is not the place for them.
NOT_THERE = {
    "abi/test_limits.py": "limits of memory and valgrind, which are those of the emulator",
    "abi/test_releases.py::test_threads_of_runs_race_with_nobody": "the thread sanitizer has none for arm64 here",
    "unit/test_benchmarks.py": "times, which are nobody's here",
    "unit/test_import_directions.py": "reads sources, which are the same everywhere",
    "unit/test_soak.py": "memory and threads of the process, which are the emulator's",
    "unit/test_source_layout.py": "reads sources, which are the same everywhere",
}
#: What takes longest for what it says about a processor: distances from float of bits that other tests compare, and
#: algorithms of the PC that converts.
LAST = (
    "abi/test_other_library.py",
    "abi/test_releases.py",
    "parity/test_prompt_cache_bits.py",
    "parity/test_formats.py",
    "unit/test_bench.py",
    "unit/test_evaluate.py",
    "unit/test_fuzz_readers.py",
    "unit/test_hybrid.py",
    "unit/test_level1.py",
    "unit/test_lora_convert.py",
    "unit/test_prequantized.py",
    "unit/test_resume.py",
)
SECONDS = float(os.environ.get("BOARD_SECONDS", "inf"))
BEGUN = time.monotonic()
LEFT_OUT = pytest.StashKey["Counter[tuple[str, str]]"]()


def _name(item: pytest.Item) -> str:
    return item.nodeid.partition("tests/")[2]


def _reason(item: pytest.Item) -> str:
    return next((why for begin, why in NOT_THERE.items() if _name(item).startswith(begin)), "")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what does not belong here, and put what takes long behind the rest."""
    left_out = [item for item in items if _reason(item)]
    config.hook.pytest_deselected(items=left_out)
    config.stash[LEFT_OUT] = Counter((_name(item).partition("::")[0], _reason(item)) for item in left_out)
    items[:] = [item for item in items if not _reason(item)]
    if float("inf") > SECONDS:
        items.sort(key=lambda item: _name(item).startswith(LAST))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let no test begin when the time is over."""
    if time.monotonic() - BEGUN > SECONDS:
        item.config.stash[LEFT_OUT][_name(item).partition("::")[0], f"{SECONDS:.0f} s are over; -m slow runs it"] += 1
        pytest.skip("out of time")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was left out, and why."""
    for (file, why), count in sorted(config.stash.get(LEFT_OUT, Counter()).items()):
        terminalreporter.write_line(f"LEFT OUT [{count}] {file}: {why}")
