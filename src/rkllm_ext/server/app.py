# SPDX-License-Identifier: Apache-2.0
"""The Flask application: routes, keys, limits, errors, and a line for each request."""

from __future__ import annotations

import hmac
import os
import re
import time
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

import flask
from flask_cors import CORS
from werkzeug.exceptions import HTTPException

from ..errors import InvalidArgumentError
from . import ollama, openai, service, vendor
from .engine import Engine
from .metrics import Metrics
from .model import Model
from .models import Models
from .refusals import Refusal, refusal_of
from .request import LOG
from .serving import GoneError, Serving, answered

MOST_BODY = 8 * 2**20  # bytes
_OPEN_TO_ALL = {"/health"}
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]+)?")
_PREFLIGHT_AGE = 600  # seconds that a browser need not ask again what it may send


def create_app(
    model: str | os.PathLike[str] | Model | Engine,
    *,
    others: Mapping[str, str] | None = None,
    parallel: int = 4,
    max_queue: int = 64,
    api_key: str | None = None,
    timeout: float | None = 600.0,
    most_body: int = MOST_BODY,
    cors_origins: Collection[str] = (),
    **settings: Any,
) -> flask.Flask:
    """Return an application that serves a model. Any WSGI server can run it, in one process.

    Parameters
    ----------
    model : path, Model or Engine
    others : mapping of str to path, optional
        Further models by name, loaded when a request first names them.
    parallel, max_queue : int
        As in `Engine`, where model is none.
    api_key : str, optional
        What clients must send as `Authorization: Bearer KEY`, on every route but /health.
    timeout : float, optional
        Seconds that a request may take, waiting included; None: any.
    most_body : int
        Bytes of a request's body.
    cors_origins : collection of str
        Origins (`https://chat.example.org`) whose pages may send requests and read the answers; "*": all.
    **settings
        Of `LLM`: max_context_len, n_threads, kv_type.

    Raises
    ------
    InvalidArgumentError
        An origin is none, or as `Engine`.

    Returns
    -------
    flask.Flask
        `app.extensions["rkllm"]` is its `Models`: `drain()` and `close()` them in the end.

    Examples
    --------
    >>> app = create_app(model_path)
    >>> app.test_client().get("/health").json
    {'status': 'ok'}
    >>> app.extensions["rkllm"].close()
    """
    for origin in cors_origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise InvalidArgumentError(f"{origin!r} is no origin; it is written as https://chat.example.org, or *")
    if not isinstance(model, (Model, Engine)):
        model = Model(model, **settings)
    engine = model if isinstance(model, Engine) else Engine(model, parallel, max_queue)
    models = Models(engine, others, **settings)
    app = flask.Flask("rkllm_ext.server", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = most_body
    app.extensions["rkllm"] = models
    metrics = Metrics(models)
    serving = Serving(models, metrics, timeout)
    for part in (openai, service, ollama, vendor):
        app.register_blueprint(part.routes(serving))
    _guard(app, api_key, cors_origins)
    _tell_errors(app)
    _keep_books(app, metrics)
    return app


def _guard(app: flask.Flask, api_key: str | None, cors_origins: Collection[str]) -> None:
    if cors_origins:
        CORS(app, origins=list(cors_origins), max_age=_PREFLIGHT_AGE)

    @app.before_request
    def check() -> None:
        request = flask.request
        if cors_origins and request.method == "OPTIONS":
            return  # a browser asks what it may send: nothing is done, and it sends no key
        if api_key is not None and request.path not in _OPEN_TO_ALL:
            kind, _, given = request.headers.get("Authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), api_key.encode()):
                raise Refusal(
                    401,
                    "the API key is missing or wrong; send it as Authorization: Bearer KEY",
                    "authentication_error",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        # A page of another site can make a browser send requests here.
        origin = request.headers.get("Origin")
        invited = "*" in cors_origins or origin in cors_origins
        if api_key is None and origin and not invited and urlsplit(origin).netloc != request.host:
            raise Refusal(403, f"requests of pages of {origin} are not answered", "permission_error", code="origin")


def _tell_errors(app: flask.Flask) -> None:
    def told(refusal: Refusal) -> flask.Response:
        response = answered(refusal.body(flask.request.path), refusal.status)
        response.headers.update(refusal.headers)
        return response

    @app.errorhandler(HTTPException)
    def http(error: HTTPException) -> flask.Response:
        method, path = flask.request.method, flask.request.path
        sentences = {
            404: f"there is no route {path}; /openapi.json has the list",
            405: f"{path} does not take {method}",
            413: f"the body is larger than {app.config['MAX_CONTENT_LENGTH']} bytes",
        }
        refusal = Refusal(error.code or 500, sentences.get(error.code or 500, error.name.lower()))
        refusal.headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Location")}
        return told(refusal)

    @app.errorhandler(GoneError)
    def gone(_: GoneError) -> flask.Response:
        return told(Refusal(499, "the client has gone"))

    @app.errorhandler(Exception)
    def any_error(error: Exception) -> flask.Response:
        refusal = refusal_of(error)
        if refusal.status == 500:
            LOG.exception("%s %s failed", flask.request.method, flask.request.path)
        return told(refusal)


def _keep_books(app: flask.Flask, metrics: Metrics) -> None:
    @app.before_request
    def begin() -> None:
        flask.g.began = time.monotonic()

    @app.after_request
    def end(response: flask.Response) -> flask.Response:
        # Of a route, so that addresses that clients make up do not become names of metrics.
        route = flask.request.url_rule.rule if flask.request.url_rule is not None else "none"
        metrics.responded(route, response.status_code)
        method, path, client = flask.request.method, flask.request.path, flask.request.remote_addr
        began = flask.g.get("began", time.monotonic())

        def log() -> None:
            fields = {"method": method, "path": path, "client": client, "status": response.status_code}
            seconds = round(time.monotonic() - began, 4)
            LOG.info("%s %s %s", method, path, response.status_code, extra={**fields, "seconds": seconds})

        response.call_on_close(log)
        return response
