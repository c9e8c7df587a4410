# SPDX-License-Identifier: Apache-2.0
"""Routes about the server itself, and about tokens."""

from __future__ import annotations

import flask

from .fields import DetokenizeBody, TokenizeBody
from .openapi import document
from .refusals import Refusal, bad_field
from .serving import Serving, answered


def routes(serving: Serving) -> flask.Blueprint:
    """Return /health, /ready, /metrics, /openapi.json, /tokenize and /detokenize."""
    blueprint = flask.Blueprint("service", __name__)

    @blueprint.get("/health")
    def health() -> flask.Response:
        return answered({"status": "ok"})

    @blueprint.get("/ready")
    def ready() -> flask.Response:
        if serving.models.is_draining:
            raise Refusal(503, "the server is being shut down", "service_unavailable_error", code="shutting_down")
        return answered({"status": "ready"})

    @blueprint.get("/metrics")
    def metrics() -> flask.Response:
        return flask.Response(serving.metrics.text(), content_type="text/plain; version=0.0.4; charset=utf-8")

    @blueprint.get("/openapi.json")
    def openapi() -> flask.Response:
        return answered(document(serving.models.names))

    @blueprint.post("/tokenize")
    def tokenize() -> flask.Response:
        body = serving.body(TokenizeBody)
        model = serving.models.get(body.model).model
        ids = model.llm.tokenize(
            body.content, parse_special=body.parse_special is not False, add_bos=bool(body.add_special)
        ).tolist()
        found = {"tokens": ids, "count": len(ids), "max_model_len": model.info.max_context_len}
        if body.with_pieces:
            found["pieces"] = [model.tokens[token].decode("utf-8", "replace") for token in ids]
        return answered(found)

    @blueprint.post("/detokenize")
    def detokenize() -> flask.Response:
        body = serving.body(DetokenizeBody)
        model = serving.models.get(body.model).model
        for token in body.tokens:
            if token >= model.info.vocab_size:
                raise bad_field("tokens", f"there is no token {token}; the vocabulary has {model.info.vocab_size}")
        return answered({"content": model.llm.detokenize(body.tokens)})

    return blueprint
