# SPDX-License-Identifier: Apache-2.0
"""The bodies of Ollama's requests. A field that is not here is refused by name; null is the same as nothing."""
# ruff: noqa: UP006, UP035  (annotations are read at run time, see fields.py)

from typing import Annotated, Any, Dict, List, Literal, Optional, Union

from pydantic import Field

from .fields import Body, Text, Tool

Form = Union[Literal["json", ""], Dict[str, Any]]


class Options(Body):
    num_predict: Optional[Annotated[int, Field(ge=-2, lt=2**31)]] = Field(None, description="Below 0: to the end.")
    num_ctx: Optional[Annotated[int, Field(ge=1, lt=2**31)]] = Field(None, description="At most the server's context.")
    temperature: Optional[Annotated[float, Field(ge=0, le=100)]] = None
    top_k: Optional[Annotated[int, Field(ge=0, lt=2**31)]] = None
    top_p: Optional[Annotated[float, Field(ge=0, le=1)]] = None
    min_p: Optional[Annotated[float, Field(ge=0, le=1)]] = None
    seed: Optional[Annotated[int, Field(ge=-(2**63), lt=2**63)]] = None
    stop: Optional[Union[Text, List[Text]]] = None
    repeat_penalty: Optional[Annotated[float, Field(gt=0, le=10)]] = None
    repeat_last_n: Optional[Literal[64]] = None
    presence_penalty: Optional[Annotated[float, Field(ge=-2, le=2)]] = None
    frequency_penalty: Optional[Annotated[float, Field(ge=-2, le=2)]] = None
    mirostat: Optional[Literal[0, 1, 2]] = None
    mirostat_tau: Optional[Annotated[float, Field(ge=0, le=100)]] = None
    mirostat_eta: Optional[Annotated[float, Field(ge=0, le=1)]] = None


class Common(Body):
    model: Text
    stream: Optional[bool] = Field(None, description="Default true.")
    format: Optional[Form] = Field(None, description='"json", or a JSON schema.')
    options: Optional[Options] = None
    keep_alive: Optional[Union[str, float]] = Field(None, description="Accepted: models stay loaded.")
    think: Optional[Literal[False]] = None


class GenerateBody(Common):
    prompt: Optional[str] = None
    system: Optional[str] = None
    raw: Optional[bool] = Field(None, description="Give the model the prompt as it is, without its chat template.")


class Function(Body):
    name: Text
    arguments: Dict[str, Any]
    index: Optional[int] = None


class Call(Body):
    id: Optional[str] = None
    function: Function


class Message(Body):
    role: Literal["system", "user", "assistant", "tool"]
    content: Optional[str] = None
    tool_calls: Optional[List[Call]] = None
    tool_name: Optional[str] = None
    tool_call_id: Optional[str] = None


class ChatBody(Common):
    messages: Annotated[List[Message], Field(min_length=1)]
    tools: Optional[List[Tool]] = None


class ShowBody(Body):
    model: Optional[Text] = None
    name: Optional[Text] = None
    verbose: Optional[bool] = None


class EmbedBody(Body):
    model: Text
    input: Union[str, List[str]]
    truncate: Optional[bool] = Field(None, description="Default true: a text that is too long loses its end.")
    dimensions: Optional[Annotated[int, Field(ge=1, lt=2**31)]] = None
    keep_alive: Optional[Union[str, float]] = None
