# SPDX-License-Identifier: Apache-2.0
"""JSON files whose top level is an object, with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import ModelFileError


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    ModelFileError
        The file cannot be read, is not UTF-8 JSON, or holds something other than an object.
    """
    try:
        return parse_object(path.read_bytes(), str(path))
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error


def parse_object(text: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object; a key that occurs twice is an error."""
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{where} is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ModelFileError(f"{where} is not JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except _Repeated as error:
        raise ModelFileError(f"{where} has the key {error.args[0]!r} twice") from None
    except (RecursionError, ValueError) as error:
        raise ModelFileError(f"{where} is not usable JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{where} is a JSON {type(value).__name__}, expected an object")
    return value


class _Repeated(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _Repeated(key)
        result[key] = value
    return result
