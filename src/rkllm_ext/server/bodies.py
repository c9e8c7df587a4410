# SPDX-License-Identifier: Apache-2.0
"""From the bytes of a body to its fields, or a refusal that names the field that is wrong."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from .fields import REFUSED, REFUSED_PARTS
from .refusals import Refusal, bad_field

Model = TypeVar("Model", bound=BaseModel)
_UNSUPPORTED = "unsupported_parameter"


def json_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises
    ------
    Refusal
        It is no JSON, or no object.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # halves of characters, "\\ud800", are no text
    except (ValueError, RecursionError) as error:
        sentence = str(error) if isinstance(error, json.JSONDecodeError) else "it is not JSON in UTF-8"
        raise Refusal(400, f"the body cannot be read: {sentence}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise Refusal(400, "the body must be a JSON object", code="invalid_json")
    return value


def parsed(kind: type[Model], data: bytes) -> Model:
    """Return a body's fields.

    Raises
    ------
    Refusal
        A field is unknown, refused, missing or wrong; the sentence names it.
    """
    given = json_object(data)
    for name, value in given.items():
        if name not in kind.model_fields and name in REFUSED and value is not None:
            reason, harmless = REFUSED[name]
            if not any(value == each and type(value) is type(each) for each in harmless):
                raise bad_field(name, reason, _UNSUPPORTED)
    _refuse_parts(given)
    try:
        return kind.model_validate({name: value for name, value in given.items() if name not in REFUSED})
    except ValidationError as error:
        raise _refusal(error, given) from None


def _refuse_parts(given: dict[str, Any]) -> None:
    # What is no text, by its own name: a client has to know that it is this that is not possible.
    messages = given.get("messages")
    rows: list[tuple[str, Any]] = [("", given)]
    for number, message in enumerate(messages if isinstance(messages, list) else []):
        content = message.get("content") if isinstance(message, dict) else None
        rows.append((f"messages.{number}.", message))
        for place, part in enumerate(content if isinstance(content, list) else []):
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind in REFUSED_PARTS:
                raise bad_field(f"messages.{number}.content.{place}", f"{kind}: {REFUSED_PARTS[kind]}", _UNSUPPORTED)
    for path, fields in rows:
        if isinstance(fields, dict) and fields.get("images"):
            raise bad_field(f"{path}images", REFUSED_PARTS["images"], _UNSUPPORTED)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _refusal(error: ValidationError, given: dict[str, Any]) -> Refusal:
    # Of a union every branch complains: what was meant is the one that has the right type, or of which most was right.
    def closeness(each: Any) -> tuple[int, bool]:
        return len(_path(each, given)), not each["type"].endswith("_type")

    first = max(error.errors(include_url=False, include_input=False), key=closeness)
    path = ".".join(map(str, _path(first, given)))
    if first["type"] == "extra_forbidden":
        return bad_field(path, "there is no such field", "unknown_parameter")
    if first["type"] == "missing":
        return bad_field(path, "the field is missing", "missing_required_parameter")
    return bad_field(path, first["msg"][:1].lower() + first["msg"][1:], "invalid_value")


def _path(error: Any, given: Any) -> list[int | str]:
    # Where the value is. pydantic names the branches of unions as well: "user", "function-after[...]", "list[str]".
    path: list[int | str] = []
    value = given
    for part in error["loc"]:
        if (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int)):
            value = value[part]
            path.append(part)
    if error["type"] == "missing":
        path.append(error["loc"][-1])
    return path
