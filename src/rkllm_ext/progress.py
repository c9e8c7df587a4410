# SPDX-License-Identifier: Apache-2.0
"""Progress of a long piece of work: a bar with the time left on a terminal, or a caller's own function."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Union

Report = Union[bool, Callable[[int, int], None], None]


class Progress:
    """Counts work towards a total; a context manager.

    Parameters
    ----------
    report
        True: a bar on stderr where that is a terminal. A function is called with (done, total). None, False: silence.
    total
        How much there is to do.
    title
        What the bar says it is doing.
    unit
        What is counted.
    """

    def __init__(self, report: Report, total: int, title: str, unit: str = "B") -> None:
        self._call = report if callable(report) else None
        self._done = 0
        self._total = total
        self._title = title
        self._unit = unit
        self._wants_bar = report is True and sys.stderr.isatty()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self._wants_bar:
            from tqdm import tqdm

            self._bar = tqdm(total=self._total, desc=self._title, unit=self._unit, unit_scale=True, leave=False)
        return self

    def add(self, count: int) -> None:
        """Count what was done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        if self._call is not None:
            self._call(self._done, self._total)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
