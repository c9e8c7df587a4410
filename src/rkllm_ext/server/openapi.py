# SPDX-License-Identifier: Apache-2.0
"""`/openapi.json`: what the routes take and return."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .._rkllm import version as library_version
from . import fields, ollama_fields
from .vendor import VendorBody

_REF = "#/components/schemas/{model}"
Schema = dict[str, Any]
_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_ANY: Schema = {}


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _one_of(*values: Any) -> Schema:
    return {"enum": list(values)}


_USAGE = _object(
    {
        "prompt_tokens": _COUNT,
        "completion_tokens": _COUNT,
        "total_tokens": _COUNT,
        "prompt_tokens_details": _object({"cached_tokens": _COUNT}),
    }
)
_ROW = {"token": _TEXT, "logprob": _NUMBER, "bytes": _list(_COUNT)}
_CHAT_LOGPROBS = _object(
    {"content": _list(_object({**_ROW, "top_logprobs": _list(_object(_ROW))})), "refusal": {"type": "null"}}
)
_CALL = _object({"id": _TEXT, "type": _one_of("function"), "function": _object({"name": _TEXT, "arguments": _TEXT})})
_HEAD = {"id": _TEXT, "created": _COUNT, "model": _TEXT, "system_fingerprint": _TEXT}
_CHAT_CHOICE = _object(
    {
        "index": _COUNT,
        "message": _object(
            {"role": _one_of("assistant"), "content": _or_null(_TEXT), "refusal": {"type": "null"}},
            {"tool_calls": _list(_CALL)},
        ),
        "logprobs": _or_null(_CHAT_LOGPROBS),
        "finish_reason": _one_of("stop", "length", "tool_calls"),
    }
)
_CHAT = _object({**_HEAD, "object": _one_of("chat.completion"), "choices": _list(_CHAT_CHOICE), "usage": _USAGE})
_LOGPROBS = _object(
    {
        "tokens": _list(_TEXT),
        "token_logprobs": _list(_or_null(_NUMBER)),
        "top_logprobs": _list(_or_null({"type": "object", "additionalProperties": _NUMBER})),
        "text_offset": _list(_COUNT),
    }
)
_COMPLETION_CHOICE = _object(
    {"text": _TEXT, "index": _COUNT, "logprobs": _or_null(_LOGPROBS), "finish_reason": _one_of("stop", "length")}
)
_COMPLETION = _object(
    {**_HEAD, "object": _one_of("text_completion"), "choices": _list(_COMPLETION_CHOICE), "usage": _USAGE}
)
_MODEL = _object({"id": _TEXT, "object": _one_of("model"), "created": _COUNT, "owned_by": _TEXT})
_EMBEDDING = _object({"object": _one_of("embedding"), "index": _COUNT, "embedding": {"anyOf": [_list(_NUMBER), _TEXT]}})
_EMBEDDINGS = _object(
    {
        "object": _one_of("list"),
        "data": _list(_EMBEDDING),
        "model": _TEXT,
        "usage": _object({"prompt_tokens": _COUNT, "total_tokens": _COUNT}),
    }
)
_ERROR = _object(
    {"error": _object({"message": _TEXT, "type": _TEXT, "param": _or_null(_TEXT), "code": _or_null(_TEXT)})}
)
_DURATIONS = {
    "done_reason": _TEXT,
    "total_duration": _COUNT,
    "load_duration": _COUNT,
    "prompt_eval_count": _COUNT,
    "prompt_eval_duration": _COUNT,
    "eval_count": _COUNT,
    "eval_duration": _COUNT,
}
_OLLAMA_HEAD = {"model": _TEXT, "created_at": _TEXT, "done": {"type": "boolean"}}
_OLLAMA_MESSAGE = _object({"role": _one_of("assistant"), "content": _TEXT}, {"tool_calls": _list(_ANY)})
_DETAILS = _object(
    {
        **{name: _TEXT for name in ("parent_model", "format", "family", "parameter_size", "quantization_level")},
        "families": _list(_TEXT),
    }
)
_ENTRY = {
    **{name: _TEXT for name in ("name", "model", "modified_at", "digest")},
    "size": _COUNT,
    "details": _DETAILS,
}
_VENDOR_COUNTS = _object({name: _or_null(_COUNT) for name in ("prompt_tokens", "completion_tokens", "total_tokens")})
_VENDOR = _object(
    {
        "id": _TEXT,
        "object": _TEXT,
        "created": {"type": "null"},
        "choices": _list(
            _object(
                {
                    "index": _COUNT,
                    "message": _object({"role": _TEXT, "content": _TEXT}),
                    "logprobs": {"type": "null"},
                    "finish_reason": _one_of("stop"),
                }
            )
        ),
        "usage": _VENDOR_COUNTS,
    }
)

# (method, path): what it is for, its body, its answer, what a stream of it is called
_ROUTES: dict[tuple[str, str], tuple[str, type[BaseModel] | None, Schema, str | None]] = {
    ("get", "/health"): ("Whether the server runs. Needs no key.", None, _object({"status": _TEXT}), None),
    ("get", "/ready"): ("Whether it takes requests.", None, _object({"status": _TEXT}), None),
    ("get", "/openapi.json"): ("This document.", None, {"type": "object"}, None),
    ("get", "/v1/models"): ("Models.", None, _object({"object": _one_of("list"), "data": _list(_MODEL)}), None),
    ("get", "/v1/models/{model}"): ("One model.", None, _MODEL, None),
    ("post", "/v1/chat/completions"): ("Answer a conversation.", fields.ChatBody, _CHAT, "text/event-stream"),
    ("post", "/v1/completions"): ("Continue a text.", fields.CompletionBody, _COMPLETION, "text/event-stream"),
    ("post", "/v1/embeddings"): ("Vectors of texts.", fields.EmbeddingBody, _EMBEDDINGS, None),
    ("post", "/tokenize"): (
        "Tokens of a text.",
        fields.TokenizeBody,
        _object({"tokens": _list(_COUNT), "count": _COUNT, "max_model_len": _COUNT}, {"pieces": _list(_TEXT)}),
        None,
    ),
    ("post", "/detokenize"): ("Text of tokens.", fields.DetokenizeBody, _object({"content": _TEXT}), None),
    ("post", "/rkllm_chat"): ("The route of the vendor's server.", VendorBody, _VENDOR, "text/plain"),
    ("post", "/api/generate"): (
        "Ollama: answer a prompt.",
        ollama_fields.GenerateBody,
        _object({**_OLLAMA_HEAD, "response": _TEXT}, _DURATIONS),
        "application/x-ndjson",
    ),
    ("post", "/api/chat"): (
        "Ollama: answer a conversation.",
        ollama_fields.ChatBody,
        _object({**_OLLAMA_HEAD, "message": _OLLAMA_MESSAGE}, _DURATIONS),
        "application/x-ndjson",
    ),
    ("get", "/api/tags"): ("Ollama: models.", None, _object({"models": _list(_object(_ENTRY))}), None),
    ("get", "/api/ps"): (
        "Ollama: loaded models.",
        None,
        _object({"models": _list(_object({**_ENTRY, "expires_at": _TEXT, "size_vram": _COUNT}))}),
        None,
    ),
    ("post", "/api/show"): ("Ollama: facts about a model.", ollama_fields.ShowBody, {"type": "object"}, None),
    ("post", "/api/embed"): (
        "Ollama: vectors of texts.",
        ollama_fields.EmbedBody,
        _object(
            {
                "model": _TEXT,
                "embeddings": _list(_list(_NUMBER)),
                "total_duration": _COUNT,
                "load_duration": _COUNT,
                "prompt_eval_count": _COUNT,
            }
        ),
        None,
    ),
    ("get", "/api/version"): ("The version.", None, _object({"version": _TEXT}), None),
}
_FAILURES = {
    "400": "The request is wrong; the sentence says what is.",
    "401": "The key is missing or wrong.",
    "403": "The request comes from a page of another site.",
    "404": "There is no such model.",
    "413": "The body is too large.",
    "429": "The queue is full; Retry-After says when to come again.",
    "503": "The server is being shut down, has no memory, or the time was over.",
}


def document(models: list[str]) -> dict[str, Any]:
    """Return the OpenAPI document of a server with these models."""
    kinds = {body for _, body, _, _ in _ROUTES.values() if body is not None}
    ordered = sorted(kinds, key=lambda kind: kind.__name__ + kind.__module__)
    names, definitions = models_json_schema([(kind, "validation") for kind in ordered], ref_template=_REF)
    for kind in ordered:
        if kind is not VendorBody and "model" in kind.model_fields:
            known = [*models, *(f"{name}:latest" for name in models)] if _is_ollamas(kind) else models
            reference = names[kind, "validation"]["$ref"].rpartition("/")[2]
            optional = not kind.model_fields["model"].is_required()
            properties = definitions["$defs"][reference]["properties"]
            properties["model"] = _or_null(_one_of(*known)) if optional else _one_of(*known)
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), (meaning, body, answer, streamed) in _ROUTES.items():
        content = {"application/json": {"schema": answer}}
        if streamed:
            content[streamed] = {}
        operation: dict[str, Any] = {
            "summary": meaning,
            "operationId": method + path.replace("/", "_").replace("{", "").replace("}", "").replace(".", "_"),
            "responses": {
                "200": {"description": "The answer.", "content": content},
                **{status: _failure(path, why) for status, why in _FAILURES.items()},
            },
        }
        if path == "/health":
            operation["security"] = []
        if "{model}" in path:
            operation["parameters"] = [
                {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "enum": models}}
            ]
        if body is not None:
            operation["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": names[body, "validation"]}},
            }
        paths.setdefault(path, {})[method] = operation
    paths["/metrics"] = {"get": _metrics()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "rkllm_ext", "version": library_version()},
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _is_ollamas(kind: type[BaseModel]) -> bool:
    return kind.__module__ == ollama_fields.__name__


def _failure(path: str, why: str) -> dict[str, Any]:
    schema = _ERROR
    if path.startswith("/api/"):
        schema = _object({"error": _TEXT})
    elif path == "/rkllm_chat":
        schema = _object({"status": _TEXT, "message": _TEXT})
    return {"description": why, "content": {"application/json": {"schema": schema}}}


def _metrics() -> dict[str, Any]:
    return {
        "summary": "Figures for Prometheus.",
        "operationId": "get_metrics",
        "responses": {"200": {"description": "The figures.", "content": {"text/plain": {"schema": _TEXT}}}},
    }
