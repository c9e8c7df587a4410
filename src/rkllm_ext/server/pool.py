# SPDX-License-Identifier: Apache-2.0
"""Sequences that are kept, so that a prompt need not compute what an earlier one had in common with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..session import Session

_WORTH_A_COPY = 16  # positions in common from which on a busy sequence is copied


class Slot:
    """A session with the adapter it computes with. `ids`: its sequence, as far as it is idle."""

    def __init__(self, session: Session, lora: str) -> None:
        self.session = session
        self.lora = lora
        self.busy = True
        self.ids: NDArray[np.int32] = np.empty(0, np.int32)

    def common(self, ids: NDArray[np.int32]) -> int:
        """Return how many of the first tokens are those of a prompt."""
        own = self.session.tokens if self.busy else self.ids
        n = min(len(own), len(ids))
        different = np.flatnonzero(own[:n] != ids[:n])
        return int(different[0]) if len(different) else n


class Pool:
    """The sessions of an engine: busy ones, and idle ones that are kept. Used by one thread.

    Parameters
    ----------
    open_session : callable
        Makes an empty session for the name of an adapter.
    most : int
        Sessions, busy ones included. Memory: this many KV caches, as far as their sequences are long.
    """

    def __init__(self, open_session: Callable[[str], Session], most: int) -> None:
        self._open = open_session
        self._most = most
        self._slots: list[Slot] = []  # the one that was used last is the last one

    def take(self, prompt: Sequence[int], lora: str, reuse: bool) -> Slot:
        """Return a busy slot whose session has as much in common with the prompt as any, or is empty."""
        ids = np.asarray(prompt, np.int32)
        found = [(slot.common(ids), not slot.busy, slot) for slot in self._slots if slot.lora == lora] if reuse else []
        common, idle, best = max(found, key=lambda row: row[:2], default=(0, False, None))
        if best is not None and idle and (2 * common >= len(best.ids) or len(self._slots) >= self._most):
            return self._use(best)
        if best is not None and common >= _WORTH_A_COPY:
            self._make_room(best)
            copy = Slot(best.session.fork(), lora)
            self._slots.append(copy)
            return copy
        self._make_room(None)
        slot = Slot(self._open(lora), lora)
        self._slots.append(slot)
        return slot

    def give_back(self, slot: Slot, keep: bool = True) -> None:
        """Keep an idle session for later prompts, or close it."""
        if keep:
            slot.busy = False
            slot.ids = slot.session.tokens
            self._slots.remove(slot)
            self._slots.append(slot)
        else:
            self._drop(slot)

    @property
    def positions(self) -> int:
        """Positions whose keys and values are in memory."""
        return sum(len(slot.session) for slot in self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def close(self) -> None:
        for slot in list(self._slots):
            self._drop(slot)

    def _use(self, slot: Slot) -> Slot:
        slot.busy = True
        self._slots.remove(slot)
        self._slots.append(slot)
        return slot

    def _make_room(self, spared: Slot | None) -> None:
        # The idle one that was used longest ago goes.
        if len(self._slots) >= self._most:
            idle = next((slot for slot in self._slots if not slot.busy and slot is not spared), None)
            if idle is not None:
                self._drop(idle)

    def _drop(self, slot: Slot) -> None:
        self._slots.remove(slot)
        slot.session.close()
