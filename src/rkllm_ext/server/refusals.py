# SPDX-License-Identifier: Apache-2.0
"""What a client is told when a request cannot be answered: a status, and OpenAI's error object."""

from __future__ import annotations

from typing import Any

from ..errors import (
    ContextFullError,
    InvalidArgumentError,
    OutOfMemoryError,
    RKLLMError,
    UnsupportedModelError,
)
from .request import DeadlineError, DrainingError, QueueFullError

_RETRY_AFTER = 2  # seconds


class Refusal(Exception):
    """A request that is refused.

    Parameters
    ----------
    status : int
        Of HTTP.
    message : str
    kind : str
        OpenAI's type of the error.
    param : str, optional
        The field that is wrong.
    code : str, optional
        OpenAI's code of the error.
    headers : dict, optional
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = headers or {}

    def body(self, path: str = "") -> dict[str, Any]:
        """Return OpenAI's error object; for a path of Ollama's or the vendor's, what their servers say."""
        if path.startswith("/api/"):
            return {"error": self.message}
        if path == "/rkllm_chat":
            return {"status": "error", "message": self.message}
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def bad_field(field: str, sentence: str, code: str | None = None) -> Refusal:
    """Return the refusal of a field, by name."""
    return Refusal(400, f"{field}: {sentence}", param=field, code=code)


def refusal_of(error: Exception) -> Refusal:
    """Return what a client is told about an error; of one that is not ours, that there was one."""
    if isinstance(error, Refusal):
        return error
    later = {"Retry-After": str(_RETRY_AFTER)}
    if isinstance(error, QueueFullError):
        return Refusal(429, str(error), "rate_limit_error", code="queue_full", headers=later)
    if isinstance(error, DrainingError):
        return Refusal(503, str(error), "service_unavailable_error", code="shutting_down", headers=later)
    if isinstance(error, DeadlineError):
        return Refusal(503, str(error), "timeout_error", code="timeout", headers=later)
    if isinstance(error, OutOfMemoryError):
        return Refusal(503, str(error), "service_unavailable_error", code="out_of_memory", headers=later)
    if isinstance(error, ContextFullError):
        return Refusal(400, str(error), code="context_length_exceeded")
    if isinstance(error, (InvalidArgumentError, UnsupportedModelError)):
        return Refusal(400, str(error))
    if isinstance(error, RKLLMError):
        return Refusal(500, str(error), "server_error")
    return Refusal(500, "the server made a mistake; its log says which", "server_error", code="internal_error")
