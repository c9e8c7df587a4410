# SPDX-License-Identifier: Apache-2.0
"""The bodies of requests, as OpenAI documents them, with extensions of our own.

A field that is not here is refused by name, and so are those of `REFUSED`, with the reason. null is the same as
nothing. The annotations are read at run time, by pydantic, on every Python that is supported: hence Optional and Union.
"""
# ruff: noqa: UP006, UP035

from typing import Annotated, Any, Dict, List, Literal, Optional, Union

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Text = Annotated[str, StringConstraints(min_length=1)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Prompt = Union[str, List[TokenId], List[str], List[List[TokenId]]]
Stop = Union[Text, Annotated[List[Text], Field(max_length=4)]]
LogitBias = Dict[Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]]

# Fields of OpenAI's that make no sense here, and why. A value of the tuple is accepted: it asks for nothing.
_HOSTED = "this server keeps nothing"
REFUSED: Dict[str, "tuple[str, tuple[Any, ...]]"] = {
    "audio": ("the model has no voice", ()),
    "best_of": ("all n answers are returned; use n", (1,)),
    "function_call": ("deprecated; use tool_choice", ()),
    "functions": ("deprecated; use tools", ()),
    "metadata": (_HOSTED, ({},)),
    "modalities": ("only text is possible", (["text"],)),
    "moderation": ("there is no moderation", ()),
    "prediction": ("not supported", ()),
    "prompt_cache_retention": ("prompts are kept as long as there is room", ()),
    "reasoning_effort": ("the model has no such setting", ("none",)),
    "service_tier": ("there is one tier", ("auto", "default")),
    "store": (_HOSTED, (False,)),
    "suffix": ("the model does not fill in", ("",)),
    "verbosity": ("the model has no such setting", ()),
    "web_search_options": ("there is no web search", ()),
}

# Parts of contents, and fields of messages, that no text stands for.
_NO_EYES = "a .rkllm file holds no image encoder, so the model reads text only; describe the image in words"
REFUSED_PARTS: Dict[str, str] = {
    "image_url": _NO_EYES,
    "image": _NO_EYES,
    "images": _NO_EYES,
    "input_audio": "the model hears nothing; give its words as text",
    "file": "files are not read; give their text",
}


class Body(BaseModel):
    """A JSON object without unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Body):
    include_usage: Optional[bool] = Field(None, description="A last chunk has the usage of the whole request.")


class Sampling(Body):
    """What chooses tokens, the same for all routes of OpenAI's."""

    temperature: Optional[Annotated[float, Field(ge=0, le=2)]] = Field(None, description="0: greedy. Default 1.")
    top_p: Optional[Annotated[float, Field(ge=0, le=1)]] = Field(None, description="Default 1.")
    seed: Optional[Annotated[int, Field(ge=-(2**63), lt=2**63)]] = Field(
        None, description="The same seed gives the same answer; answer i of n gets seed + i."
    )
    presence_penalty: Optional[Annotated[float, Field(ge=-2, le=2)]] = Field(
        None, description="Looks at the last 64 tokens, prompt included."
    )
    frequency_penalty: Optional[Annotated[float, Field(ge=-2, le=2)]] = Field(None, description="As presence_penalty.")
    logit_bias: Optional[LogitBias] = Field(None, description="-100 forbids a token.")
    top_k: Optional[Annotated[int, Field(ge=0, lt=2**31)]] = Field(None, description="Extension. 0: all. Default 40.")
    min_p: Optional[Annotated[float, Field(ge=0, le=1)]] = Field(None, description="Extension. Default 0.")
    repeat_penalty: Optional[Annotated[float, Field(gt=0, le=10)]] = Field(None, description="Extension. Default 1.")
    mirostat: Optional[Literal[0, 1, 2]] = Field(None, description="Extension. Default 0.")
    mirostat_tau: Optional[Annotated[float, Field(ge=0, le=100)]] = Field(None, description="Extension. Default 5.")
    mirostat_eta: Optional[Annotated[float, Field(ge=0, le=1)]] = Field(None, description="Extension. Default 0.1.")


class Common(Sampling):
    model: Text
    stream: Optional[bool] = None
    stream_options: Optional[StreamOptions] = None
    max_tokens: Optional[Annotated[int, Field(ge=0, lt=2**31)]] = None
    n: Optional[Annotated[int, Field(ge=1, le=128)]] = None
    stop: Optional[Stop] = None
    user: Optional[str] = Field(None, description="Users take turns in the queue.")
    safety_identifier: Optional[str] = Field(None, description="As user.")
    prompt_cache_key: Optional[str] = Field(None, description="Accepted: prompts find what they share by themselves.")
    lora: Optional[Text] = Field(None, description="Extension. The name of an adapter to answer with.")
    prompt_cache: Optional[Union[bool, Text]] = Field(
        None, description="Extension. false: start from no earlier prompt; a name: of a loaded prompt cache."
    )
    ignore_eos: Optional[bool] = Field(None, description="Extension. End tokens do not end the answer.")


class TextPart(Body):
    type: Literal["text"]
    text: str


class RefusalPart(Body):
    type: Literal["refusal"]
    refusal: str


class FunctionCall(Body):
    name: Text
    arguments: str


class ToolCall(Body):
    id: Text
    type: Literal["function"]
    function: FunctionCall


class SystemMessage(Body):
    role: Literal["system", "developer"]
    content: Union[str, Annotated[List[TextPart], Field(min_length=1)]]
    name: Optional[str] = None


class UserMessage(Body):
    role: Literal["user"]
    content: Union[str, Annotated[List[TextPart], Field(min_length=1)]]
    name: Optional[str] = None


class AssistantMessage(Body):
    role: Literal["assistant"]
    content: Optional[Union[str, List[Union[TextPart, RefusalPart]]]] = None
    refusal: Optional[str] = None
    name: Optional[str] = None
    tool_calls: Optional[List[ToolCall]] = None


class ToolMessage(Body):
    role: Literal["tool"]
    content: Union[str, Annotated[List[TextPart], Field(min_length=1)]]
    tool_call_id: str


Message = Annotated[Union[SystemMessage, UserMessage, AssistantMessage, ToolMessage], Field(discriminator="role")]


class Function(Body):
    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: Optional[str] = None
    parameters: Optional[Dict[str, Any]] = None
    strict: Optional[bool] = Field(None, description="Arguments always follow the schema.")


class Tool(Body):
    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    name: Text


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Body):
    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: Optional[str] = None
    schema_: Dict[str, Any] = Field(alias="schema")
    strict: Optional[bool] = Field(None, description="Answers always follow the schema.")


class TextFormat(Body):
    type: Literal["text"]


class JsonObjectFormat(Body):
    type: Literal["json_object"]


class JsonSchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[Union[TextFormat, JsonObjectFormat, JsonSchemaFormat], Field(discriminator="type")]


class ChatBody(Common):
    messages: Annotated[List[Message], Field(min_length=1)]
    max_completion_tokens: Optional[Annotated[int, Field(ge=0, lt=2**31)]] = None
    logprobs: Optional[bool] = None
    top_logprobs: Optional[Annotated[int, Field(ge=0, le=20)]] = None
    response_format: Optional[ResponseFormat] = None
    tools: Optional[Annotated[List[Tool], Field(max_length=128)]] = None
    tool_choice: Optional[Union[Literal["none", "auto", "required"], NamedTool]] = None
    parallel_tool_calls: Optional[bool] = None


class CompletionBody(Common):
    prompt: Prompt
    echo: Optional[bool] = None
    logprobs: Optional[Annotated[int, Field(ge=0, le=20)]] = None


class EmbeddingBody(Body):
    model: Text
    input: Prompt
    encoding_format: Optional[Literal["float", "base64"]] = None
    dimensions: Optional[Annotated[int, Field(ge=1, lt=2**31)]] = None
    user: Optional[str] = None


class TokenizeBody(Body):
    model: Optional[Text] = None
    content: str
    add_special: Optional[bool] = Field(None, description="Put the begin token first. Default false.")
    parse_special: Optional[bool] = Field(None, description="Special tokens become their ids. Default true.")
    with_pieces: Optional[bool] = Field(None, description="Give the text of each token, too.")


class DetokenizeBody(Body):
    model: Optional[Text] = None
    tokens: List[TokenId]
