# SPDX-License-Identifier: Apache-2.0
"""Long computations that Ctrl-C ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["interruptible"]

Result = TypeVar("Result")

_SHORT = 64  # items of an input: the library looks that often whether it was aborted
_AGAIN = 0.02  # seconds: the library forgets an abort from before its computation


def interruptible(call: Callable[[], Result], x: object, abort: Callable[[], None]) -> Result:
    """Return call(), which computes an input x and ends early, with an exception, when abort() is called.

    Python handles signals in the main thread, between two steps of its own. So that thread only waits, unless x is
    short; what is raised there, KeyboardInterrupt for one, aborts the computation.
    """
    is_short = hasattr(x, "__len__") and len(x) <= _SHORT
    if is_short or threading.current_thread() is not threading.main_thread():
        return call()
    results: list[Result] = []
    errors: list[BaseException] = []
    beginning = threading.Lock()  # whoever gets it decides: compute begins, or it never will
    done = threading.Event()  # Thread.join, once interrupted, takes the thread for ended

    def compute() -> None:
        if not beginning.acquire(blocking=False):
            return
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    try:
        threading.Thread(target=compute, daemon=True).start()
        done.wait()
    except BaseException:
        if not beginning.acquire(blocking=False):
            while not done.is_set():
                abort()
                done.wait(_AGAIN)
        raise
    if errors:
        raise errors.pop()
    return results.pop()
