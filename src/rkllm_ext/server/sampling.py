# SPDX-License-Identifier: Apache-2.0
"""The fields that OpenAI's routes have in common, as the engine's request."""

from __future__ import annotations

import math
from typing import Any

from .engine import Engine
from .fields import Common
from .refusals import bad_field

DEFAULT_TOP_K = 40  # of tokens beyond it small models make nonsense
_NAMES = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "top_k",
    "min_p",
    "repeat_penalty",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
)


def settings_of(body: Common, engine: Engine, client: str, timeout: float | None) -> dict[str, Any]:
    """Return the arguments of a `Request` that do not depend on the route.

    Raises
    ------
    Refusal
        A field does not fit the model.
    """
    sampling: dict[str, Any] = {"top_k": DEFAULT_TOP_K}
    sampling.update({name: value for name in _NAMES if (value := getattr(body, name)) is not None})
    if body.seed is not None:
        sampling["seed"] = body.seed % 2**64
    if body.logit_bias:
        sampling["logit_bias"] = _bias(body.logit_bias, engine.model.info.vocab_size)
    if body.stream_options is not None and not body.stream:
        raise bad_field("stream_options", "only possible with stream")
    return {
        "sampling": sampling,
        "stop": [body.stop] if isinstance(body.stop, str) else list(body.stop or ()),
        "n": body.n or 1,
        "lora": _lora(body.lora, engine),
        "reuse_prefix": _reuses(body.prompt_cache, engine),
        "ignore_eos": bool(body.ignore_eos),
        "timeout": timeout,
        "client": f"{client}/{body.user or body.safety_identifier or ''}",
    }


def _bias(given: dict[str, float], vocab_size: int) -> dict[int, float]:
    bias = {int(token): -math.inf if value == -100 else value for token, value in given.items()}
    for token in bias:
        if token >= vocab_size:
            raise bad_field("logit_bias", f"there is no token {token}; the vocabulary is 0 ... {vocab_size - 1}")
    return bias


def _lora(name: str | None, engine: Engine) -> str:
    if name is not None and name not in engine.model.loras:
        raise bad_field("lora", f"there is no adapter {name!r}; loaded are: {', '.join(engine.model.loras) or 'none'}")
    return name or ""


def _reuses(cache: bool | str | None, engine: Engine) -> bool:
    known = engine.model.prompt_caches
    if isinstance(cache, str) and cache not in known:
        raise bad_field("prompt_cache", f"there is no prompt cache {cache!r}; loaded are: {', '.join(known) or 'none'}")
    return cache is not False
