# SPDX-License-Identifier: Apache-2.0
"""`POST /rkllm_chat`, the route of the vendor's server, for clients that were written for that one."""
# ruff: noqa: UP006, UP035  (annotations are read at run time, see fields.py)

from typing import Any, Dict, Iterator, List, Optional

import flask

from .fields import Body
from .refusals import Refusal, bad_field
from .request import Request
from .serving import Serving, Watched, answered, stream, to_json


class VendorMessage(Body):
    role: str
    content: str


class VendorBody(Body):
    model: Optional[str] = None
    messages: Optional[List[VendorMessage]] = None
    stream: Optional[bool] = None
    enable_thinking: Optional[bool] = None
    tools: Optional[List[Dict[str, Any]]] = None


# Those of the vendor's server: the defaults of RKLLMParam.
_SAMPLING = {"top_k": 40, "top_p": 0.9, "temperature": 0.8, "repeat_penalty": 1.1}


def routes(serving: Serving) -> flask.Blueprint:
    """Return /rkllm_chat."""
    blueprint = flask.Blueprint("vendor", __name__)

    @blueprint.post("/rkllm_chat")
    def rkllm_chat() -> flask.Response:
        body = serving.body(VendorBody)
        if not body.messages:
            raise bad_field("messages", "there are none", "missing_required_parameter")
        if body.tools:
            raise bad_field("tools", "not possible here; use /v1/chat/completions", "unsupported_parameter")
        # Clients of the vendor's name no model: whatever they say, the first one answers.
        engine = serving.models.first
        variables = {} if body.enable_thinking is None else {"enable_thinking": body.enable_thinking}
        ids = engine.model.chat_ids([message.model_dump() for message in body.messages], **variables)
        request = Request(ids, sampling=_SAMPLING, timeout=serving.timeout, client=serving.client)
        watched = serving.submit(engine, request)
        if body.stream:
            return stream(_lines(watched), "text/plain", _failed)
        text = "".join(event.text for event in watched)
        usage = watched.ticket.usage
        counted = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
        counted["total_tokens"] = usage.prompt_tokens + usage.completion_tokens
        return answered(_object({"message": {"role": "assistant", "content": text}}, "stop", counted))

    return blueprint


def _object(content: Dict[str, Any], reason: Optional[str], usage: Optional[Dict[str, int]] = None) -> Dict[str, Any]:
    nothing = {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}
    return {
        "id": "rkllm_chat",
        "object": "rkllm_chat",
        "created": None,
        "choices": [{"index": 0, **content, "logprobs": None, "finish_reason": reason}],
        "usage": usage or nothing,
    }


def _line(text: str, reason: Optional[str]) -> bytes:
    # One JSON line and a blank one; what comes with "stop" is passed over by clients.
    return f"{to_json(_object({'delta': {'role': 'assistant', 'content': text}}, reason))}\n\n".encode()


def _lines(watched: Watched) -> Iterator[bytes]:
    for batch in watched.batches():
        text = "".join(event.text for event in batch)
        parts = [_line(text, None)] if text else []
        if batch[-1].finish_reason is not None:
            parts.append(_line("", "stop"))
        if parts:
            yield b"".join(parts)


def _failed(refusal: Refusal) -> bytes:
    return (to_json({"status": "error", "message": refusal.message}) + "\n\n").encode()
