# SPDX-License-Identifier: Apache-2.0
"""A plugin for pytest inside an emulated Python: leaves out what says nothing there, and in CI what takes too long.

BoardPython.test puts it beside the wheel. BOARD_TESTS=all runs everything but NOT_THERE.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

#: Beginnings of test ids below tests/ -> why an emulated board is not the place for them.
NOT_THERE = {
    "abi/test_limits.py": "limits of memory and valgrind, which are those of the emulator",
    "abi/test_releases.py::test_threads_of_runs_race_with_nobody": "the thread sanitizer has none for arm64 here",
    "unit/test_benchmarks.py": "times, which are nobody's here",
    "unit/test_soak.py": "memory and threads of the process, which are the emulator's",
    "unit/test_import_directions.py": "reads sources, which are the same everywhere",
    "unit/test_source_layout.py": "reads sources, which are the same everywhere",
}
#: The same -> what CI leaves to `pytest -m slow`, and the seconds of a processor that it takes there.
LONG: dict[str, str] = {}


def reason(name: str) -> str:
    """Return why a test is left out; "": it is not."""
    lists = (NOT_THERE, {} if os.environ.get("BOARD_TESTS") == "all" else LONG)
    return next((why for each in lists for begin, why in each.items() if name.startswith(begin)), "")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is on the lists."""
    reasons = {item: reason(item.nodeid.partition("tests/")[2]) for item in items}
    left_out = [item for item, why in reasons.items() if why]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    config.stash[_LEFT_OUT] = Counter((item.nodeid.partition("::")[0], reasons[item]) for item in left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was left out, and why."""
    for (file, why), count in sorted(config.stash.get(_LEFT_OUT, Counter()).items()):
        terminalreporter.write_line(f"LEFT OUT [{count}] {file}: {why}")


_LEFT_OUT = pytest.StashKey[Counter[tuple[str, str]]]()
