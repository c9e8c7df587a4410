# SPDX-License-Identifier: Apache-2.0
"""Answers that wait for their turn: clients take turns, each client's own come in order."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """One queue for each client. Not thread-safe.

    Examples
    --------
    >>> queue = FairQueue()
    >>> for client, item in [("a", 1), ("a", 2), ("b", 3)]:
    ...     queue.put(client, item)
    >>> [queue.take(lambda item: True) for _ in range(3)]
    [1, 3, 2]
    """

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[Item]] = OrderedDict()  # the first one's turn is next

    def put(self, client: str, item: Item) -> None:
        self._clients.setdefault(client, deque()).append(item)

    def take(self, is_ready: Callable[[Item], bool]) -> Item | None:
        """Return the first item of the first client that has one which is ready; None: nobody has."""
        for client, items in self._clients.items():
            if is_ready(items[0]):
                item = items.popleft()
                self._clients.move_to_end(client)
                if not items:
                    del self._clients[client]
                return item
        return None

    def remove(self, is_gone: Callable[[Item], bool]) -> list[Item]:
        """Take out and return what meets a condition."""
        gone = [item for item in self if is_gone(item)]
        if gone:
            for client, items in list(self._clients.items()):
                self._clients[client] = deque(item for item in items if not is_gone(item))
                if not self._clients[client]:
                    del self._clients[client]
        return gone

    def __iter__(self) -> Iterator[Item]:
        for items in self._clients.values():
            yield from items

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))
