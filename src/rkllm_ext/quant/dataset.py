# SPDX-License-Identifier: Apache-2.0
"""Calibration texts: a JSON list of {"input", "target"} as the vendor's toolkit takes it, or the built-in one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError

BUILT_IN_USED = (
    "no dataset is given: a short built-in text is used to calibrate; "
    "texts of the kind that the model is for give better weights"
)
BUILT_IN = Path(__file__).with_name("calibration.json")


def read_texts(path: str | os.PathLike[str] | None = None) -> list[str]:
    """Return the texts of a dataset: each entry's input and, right behind it, its target.

    A newline is put between the two unless the input ends with white space, as prompts in a template's format do.

    Parameters
    ----------
    path
        The JSON file; None: the built-in texts (English, Chinese, code; about 3,000 tokens).

    Raises
    ------
    InvalidArgumentError
        The file cannot be read or is no such list; the entry is named.
    """
    return [_joined(each["input"], each["target"]) for each in _entries(Path(BUILT_IN if path is None else path))]


def _entries(path: Path) -> list[dict[str, str]]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidArgumentError(f"dataset {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"dataset {path}: is not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise InvalidArgumentError(
            f"dataset {path}: is not JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"dataset {path}: is not usable JSON: {error}") from error
    if not isinstance(values, list) or not values:
        found = "an empty list" if values == [] else f"a JSON {type(values).__name__}"
        raise InvalidArgumentError(f'dataset {path}: is {found}; a list of {{"input": ..., "target": ...}} is needed')
    for index, value in enumerate(values):
        _check(value, f"dataset {path}: entry {index}")
    return values


def _check(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise InvalidArgumentError(f'{where} is a JSON {type(value).__name__}; {{"input", "target"}} is needed')
    for key in ("input", "target"):
        if key not in value:
            raise InvalidArgumentError(f'{where} has no "{key}"')
        if not isinstance(value[key], str):
            raise InvalidArgumentError(f'{where}: "{key}" is a JSON {type(value[key]).__name__}; text is needed')
    if not (value["input"] + value["target"]).strip():
        raise InvalidArgumentError(f"{where} holds no text")


def _joined(prompt: str, answer: str) -> str:
    return prompt + ("" if not prompt or prompt[-1].isspace() else "\n") + answer
