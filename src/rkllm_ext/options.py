# SPDX-License-Identifier: Apache-2.0
"""The settings of a model and of one run: their names, and values of the types that the library takes.

Ranges are the library's to judge; here a value only becomes an int, a float, a bool or a text, or an error that names
it.
"""

from __future__ import annotations

import json
import math
import operator
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Union

from .errors import InvalidArgumentError

Value = Union[int, float, bool, str]
Form = tuple[str, str]  # that an answer is to have: the name of the setting, and its text
_FORMS = ("json_schema", "regex", "grammar")


def _integer(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidArgumentError(f"{name} is {value!r}; an integer is needed") from None
    if not -(2**31) <= number < 2**31:
        raise InvalidArgumentError(f"{name} is {number}; an integer of 32 bits is needed")
    return number


def finite(name: str, value: Any) -> float:
    """Return a value as a finite float, or raise InvalidArgumentError that names it."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidArgumentError(f"{name} is {value!r}; a number is needed") from None
    if isinstance(value, str) or not math.isfinite(number):
        raise InvalidArgumentError(f"{name} is {value!r}; a finite number is needed")
    return number


def _flag(name: str, value: Any) -> bool:
    if value not in (False, True):  # numpy's booleans and 0, 1 as well
        raise InvalidArgumentError(f"{name} is {value!r}; True or False is needed")
    return bool(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name} is {value!r}; a str is needed")
    return value


def _seed(name: str, value: Any) -> int | str:
    if value is None:
        return "random"
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidArgumentError(
            f"{name} is {value!r}; an integer, or None for a new one each run, is needed"
        ) from None
    if not 0 <= number < 2**64:
        raise InvalidArgumentError(f"{name} is {number}; 0 ... 2^64 - 1 is possible")
    return number


def _logit_bias(name: str, value: Any) -> str:
    # {id: bias} as the library reads it, "id:bias,id:bias"
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"{name} is {value!r}; a dict of token ids and numbers is needed")
    rows = []
    for token, bias in value.items():
        forbids = isinstance(bias, float) and bias == -math.inf
        number = "-inf" if forbids else repr(finite(f"{name} of token {token!r}", bias))
        rows.append(f"{_integer(f'a token of {name}', token)}:{number}")
    return ",".join(rows)


def _stop(name: str, value: Any) -> str:
    # As the library reads it, separated by U+001F
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise InvalidArgumentError(f"{name} is {value!r}; a str or a list of them is needed")
    for text in texts:
        if not text:
            raise InvalidArgumentError(f"a text of {name} is empty; at least one character is needed")
        if any(character in "\0\x1f" or "\ud800" <= character <= "\udfff" for character in text):
            raise InvalidArgumentError(
                f"{text!r} of {name} has a character that is not possible: NUL, U+001F or a surrogate"
            )
    return "\x1f".join(texts)


def _logprobs(name: str, value: Any) -> int:
    if value is None:
        return -1
    if isinstance(value, bool) or _integer(name, value) < 0:
        raise InvalidArgumentError(f"{name} is {value}; 0 or more, or None for no log-probabilities, is needed")
    return _integer(name, value)


def _path(name: str, value: Any) -> str:
    try:
        return "" if value is None else os.fsdecode(value)
    except TypeError:
        raise InvalidArgumentError(f"{name} is {value!r}; a path, or None for none, is needed") from None


def _name(name: str, value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise InvalidArgumentError(f"{name} is {value!r}; a str, or None for none, is needed")
    return value or ""


_RUN: dict[str, Callable[[str, Any], Value]] = {
    "max_new_tokens": _integer,
    "top_k": _integer,
    "top_p": finite,
    "temperature": finite,
    "repeat_penalty": finite,
    "frequency_penalty": finite,
    "presence_penalty": finite,
    "mirostat": _integer,
    "mirostat_tau": finite,
    "mirostat_eta": finite,
    "min_p": finite,
    "logit_bias": _logit_bias,
    "stop": _stop,
    "logprobs": _logprobs,
    "seed": _seed,
    "skip_special_token": _flag,
    "ignore_eos": _flag,
    "lora": _name,
    "n_keep": _integer,
    "draft": _integer,
    "reuse_prefix": _flag,
    "keep_history": _flag,
    "save_prompt_cache": _path,
}
# Those that choose among tokens.
_SAMPLING = (
    "top_k",
    "top_p",
    "temperature",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "min_p",
    "logit_bias",
    "seed",
)
_MODEL: dict[str, Callable[[str, Any], Value]] = {
    "max_context_len": _integer,
    "n_threads": _integer,
    "kv_type": _text,
    "activations": _text,
    "img_start": _text,
    "img_end": _text,
    "img_content": _text,
}


def checked_thinking(value: Any) -> bool | None:
    """Return whether a model is to think before it answers; None: not said. Raises InvalidArgumentError."""
    return None if value is None else _flag("thinking", value)


def checked(settings: Mapping[str, Any]) -> dict[str, Value]:
    """Return the settings of a model with values of the right types.

    Raises
    ------
    InvalidArgumentError
        A value is not of the type that the setting has.
    """
    return {name: (_RUN.get(name) or _MODEL[name])(name, value) for name, value in settings.items()}


def checked_overrides(settings: Mapping[str, Any]) -> dict[str, Value]:
    """Return the settings of one run with values of the right types.

    Raises
    ------
    InvalidArgumentError
        A name is no setting of a run; the sentence names the nearest. Or a value is not of the right type.

    Examples
    --------
    >>> checked_overrides({"top_k": 1, "seed": None})
    {'top_k': 1, 'seed': 'random'}
    """
    _check_names(settings, (*_RUN, *_FORMS), "one run")
    return checked(settings)


def checked_sampling(settings: Mapping[str, Any]) -> dict[str, Value]:
    """Return the settings of a session, which are those that choose among tokens. As `checked_overrides`."""
    _check_names(settings, _SAMPLING, "a session")
    return checked(settings)


def sampling_of(settings: Mapping[str, Value]) -> dict[str, Value]:
    """Return those settings of a run that a session has as well."""
    return {name: value for name, value in settings.items() if name in _SAMPLING}


def pop_form(settings: dict[str, Any]) -> Form | None:
    """Take the form of an answer out of the settings of a run: its kind and its text, or None.

    Raises
    ------
    InvalidArgumentError
        More than one form is given, or one of a wrong type.
    """
    forms = {kind: settings.pop(kind, None) for kind in _FORMS}
    given = [(kind, value) for kind, value in forms.items() if value is not None]
    if not given:
        return None
    if len(given) > 1:
        raise InvalidArgumentError(f"{' and '.join(kind for kind, _ in given)} are given; an answer has one form")
    kind, value = given[0]
    if kind == "json_schema" and isinstance(value, (Mapping, bool)):
        try:
            value = json.dumps(value)
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(f"json_schema: {error}") from None
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{kind} is {value!r}; a str is needed")
    return kind, value


def _check_names(settings: Iterable[str], known: Collection[str], whose: str) -> None:
    for name in settings:
        if name not in known:
            raise InvalidArgumentError(f"{_unknown(name, known)}; {', '.join(known)} can be set for {whose}")


def _unknown(name: str, known: Collection[str]) -> str:
    from difflib import get_close_matches

    if name in _MODEL:
        return f"{name} is set when the model is loaded, LLM(..., {name}=...)"
    near = get_close_matches(name, known, n=1)
    return f"there is no setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
