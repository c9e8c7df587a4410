# SPDX-License-Identifier: Apache-2.0
"""Logits of a session, where the engine has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidArgumentError

if TYPE_CHECKING:
    from ._rkllm import BaseSession

# What can be asked of an array that is out of date: nothing that reads its values.
_SHAPE = frozenset({"shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides", "flags"})


class Logits(np.ndarray[Any, np.dtype[np.float32]]):
    """The logits behind the last position of a session: a read-only float32 [vocab_size] view of the engine's memory.

    Nothing is copied. When the session has moved on, whoever still uses the view gets an InvalidArgumentError; keep
    values with `logits.copy()`. The memory belongs to the view and is never written again, so that also what has gone
    round this class (`numpy.asarray`, a slice, a memoryview) reads the values of its own step, whatever becomes of the
    session. Results of operations are ordinary arrays.
    """

    _session: BaseSession | None = None  # None: an ordinary array that numpy made from a view
    _moves = 0

    @classmethod
    def of(cls, session: BaseSession, memory: Any) -> Logits:
        """Return the view of a session's memory, as `BaseSession.hold_logits` has exported it now."""
        view = np.frombuffer(memory, np.float32).view(cls)
        view._session = session
        view._moves = session.moves
        return view

    def _values(self) -> NDArray[np.float32]:
        # The same memory as an ordinary array, if it is up to date.
        session: BaseSession | None = object.__getattribute__(self, "_session")
        if session is not None and session.moves != object.__getattribute__(self, "_moves"):
            raise InvalidArgumentError(
                "these logits are out of date, the session has moved on; take session.logits again, or keep a copy()"
            )
        return np.ndarray.view(self, np.ndarray)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name in _SHAPE:
            return super().__getattribute__(name)
        return getattr(self._values(), name)

    def __getitem__(self, key: Any) -> Any:
        return self._values()[key]

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return getattr(ufunc, method)(*_plain(inputs), **_plain(kwargs))

    def __array_function__(self, func: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        return func(*_plain(args), **_plain(kwargs))

    def __repr__(self) -> str:
        try:
            return f"Logits({np.array_repr(self._values())})"
        except InvalidArgumentError:
            return "Logits(out of date)"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        return self._values().__reduce__()


def _plain(value: Any) -> Any:
    # Arguments with ordinary arrays in place of logits.
    if isinstance(value, Logits):
        return value._values()
    if isinstance(value, (list, tuple)):
        return type(value)([_plain(item) for item in value]) if type(value) in (list, tuple) else value
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return value
