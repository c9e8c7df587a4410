# SPDX-License-Identifier: Apache-2.0
"""The models of a server by their names; all but the first are loaded when they are asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from .engine import Engine
from .model import Model
from .refusals import Refusal


class Models:
    """Engines by name. Used by any threads.

    Parameters
    ----------
    engine : Engine
        The one that is served from the beginning.
    others : mapping of str to path
        Further models, loaded when a request first names them, with the same settings.
    settings
        Of `Model`, for these.
    """

    def __init__(self, engine: Engine, others: Mapping[str, str] | None = None, **settings: Any) -> None:
        self.first = engine
        self.created = int(time.time())
        self._paths = dict(others or {})
        self._settings = settings
        self._engines = {engine.model.name: engine}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        return [self.first.model.name, *(name for name in self._paths if name != self.first.model.name)]

    @property
    def loaded(self) -> list[Engine]:
        return list(self._engines.values())

    def get(self, name: str | None) -> Engine:
        """Return the engine of a model; None: the first one.

        Raises
        ------
        Refusal
            There is no such model.
        RKLLMError
            It cannot be loaded.
        """
        if name is None:
            return self.first
        engine = self._engines.get(name)
        if engine is not None:
            return engine
        if name not in self._paths:
            known = ", ".join(self.names)
            raise Refusal(404, f"there is no model {name!r}; there are: {known}", param="model", code="model_not_found")
        with self._lock:
            if name not in self._engines:
                model = Model(self._paths[name], name, **self._settings)
                self._engines[name] = Engine(model, self.first.parallel, self.first.max_queue)
            return self._engines[name]

    def drain(self, timeout: float | None) -> bool:
        """Refuse new requests and wait for those that are here. Whether all have ended within `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for engine in self.loaded:
            engine.stop_taking()
        return all(
            engine.drain(None if deadline is None else max(0.0, deadline - time.monotonic())) for engine in self.loaded
        )

    @property
    def is_draining(self) -> bool:
        return self.first.is_draining

    def close(self) -> None:
        for engine in self.loaded:
            engine.close()
