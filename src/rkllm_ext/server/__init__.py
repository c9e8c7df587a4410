# SPDX-License-Identifier: Apache-2.0
"""Serving a model to many clients (extra `server`): the engine layer, and an HTTP application on top of it.

`Engine` needs no web package and serves whatever is in the same process; `create_app` makes the Flask application.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import create_app as create_app
    from .engine import Engine as Engine
    from .model import Model as Model
    from .request import Event as Event
    from .request import Request as Request
    from .ticket import Ticket as Ticket

_ORIGINS = {
    "create_app": "app",
    "Engine": "engine",
    "Model": "model",
    "Event": "request",
    "Request": "request",
    "Ticket": "ticket",
}
__all__ = ["Engine", "Event", "Model", "Request", "Ticket", "create_app"]


def __getattr__(name: str) -> Any:
    if name not in _ORIGINS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_ORIGINS[name]}"), name)
