# SPDX-License-Identifier: Apache-2.0
"""Chat templates: the jinja2 text that turns a conversation into a prompt, rendered as transformers renders it.

A template comes with a model and is not trusted: it runs in jinja2's sandbox, which cannot reach the program.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import InvalidArgumentError, ModelFileError

if TYPE_CHECKING:
    from jinja2 import Template

Message = Mapping[str, Any]


class ChatTemplate:
    """A compiled chat template. May be used by several threads at once.

    Parameters
    ----------
    source
        The template's text, from ``tokenizer_config.json`` or a GGUF file.
    bos, eos
        The texts of the begin and end tokens, which templates know as ``bos_token`` and ``eos_token``.

    Raises
    ------
    ModelFileError
        The template is not valid jinja2.
    """

    def __init__(self, source: str, bos: str = "", eos: str = "") -> None:
        self._tokens = {"bos_token": bos, "eos_token": eos}
        self._template, self._variables = _compiled(source)

    def reads(self, variable: str) -> bool:
        """Return whether the template asks for a variable that a conversation may bring, for example ``tools``."""
        return variable in self._variables

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True, **variables: Any) -> str:
        """Return the prompt of a conversation.

        Parameters
        ----------
        messages
            ``{"role": "user", "content": "..."}`` each; whatever else a message holds reaches the template, too.
        add_generation_prompt
            Let the prompt end where the assistant's answer begins.
        variables
            Further variables of the template (``tools``, ``documents``, ...).

        Raises
        ------
        InvalidArgumentError
            The messages are no conversation, or the template refuses them.
        ModelFileError
            The template itself fails.

        Examples
        --------
        >>> ChatTemplate("{% for m in messages %}[{{ m.role }}] {{ m.content }}\\n{% endfor %}").render(
        ...     [{"role": "user", "content": "Hello"}])
        '[user] Hello\\n'
        """
        names = {"tools": None, "documents": None, **self._tokens, **variables}
        names.update(messages=checked_messages(messages), add_generation_prompt=add_generation_prompt)
        try:
            return self._template.render(names)
        except _RefusedError as error:
            raise InvalidArgumentError(f"the model's chat template refuses the conversation: {error}") from error
        except Exception as error:  # whatever a template can come across: undefined names, types, the sandbox, ...
            for index, message in enumerate(names["messages"]):
                if isinstance(message.get("content"), list):
                    raise InvalidArgumentError(
                        f"the content of message {index} ({message['role']}) is a list, which this model's chat "
                        "template does not take; give it as text"
                    ) from error
            raise ModelFileError(f"the model's chat template fails: {type(error).__name__}: {error}") from error


def checked_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return the messages as a list of dicts.

    Raises
    ------
    InvalidArgumentError
        They are not a sequence of one or more mappings with a role and a content.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise InvalidArgumentError(
            'messages must be a list such as [{"role": "user", "content": "Hello"}], with at least one message'
        )
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InvalidArgumentError(f"message {index} must be a mapping with a role, for example user: {message!r}")
        content = message.get("content")
        if not isinstance(content, (str, list)) and not (content is None and message.get("tool_calls")):
            raise InvalidArgumentError(f"message {index} ({message['role']}) needs a content that is text: {content!r}")
    return [dict(message) for message in messages]


class _RefusedError(Exception):
    """What a template raises with raise_exception()."""


def _refuse(message: str) -> None:
    raise _RefusedError(message)


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # jinja2's own filter escapes HTML, which a prompt must not contain
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _compiled(source: str) -> tuple[Template, set[str]]:
    from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}``: marks the assistant's text for training; here it is transparent."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's own attribute

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.filters["tojson"] = _tojson
    functions: dict[str, Callable[..., Any]] = {"raise_exception": _refuse, "strftime_now": _now}
    environment.globals.update(functions)
    try:
        return environment.from_string(source), meta.find_undeclared_variables(environment.parse(source))
    except TemplateSyntaxError as error:
        raise ModelFileError(f"the model's chat template is damaged in line {error.lineno}: {error}") from error
    except (TemplateError, RecursionError) as error:
        raise ModelFileError(f"the model's chat template cannot be compiled: {error}") from error
