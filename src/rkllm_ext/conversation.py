# SPDX-License-Identifier: Apache-2.0
"""Conversations as prompts, the way the model's own chat template and tokenizer have them."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._rkllm import GGUFFile, Handle, is_extended, library_path, puts_template
from .errors import InvalidArgumentError, UnsupportedByRuntimeError, UnsupportedModelError

if TYPE_CHECKING:
    from .chat import ChatTemplate


class Conversations:
    """The chat template of a loaded model, read when it is first asked for.

    Parameters
    ----------
    handle
        The model; it outlives this object.
    file
        Its path, from which the texts of the begin and end tokens are read.
    source
        The chat template that takes the place of the model's own; None: that one.
    """

    def __init__(self, handle: Handle, file: str, source: str | None = None) -> None:
        self._handle = handle
        self._file = file
        self._source = source
        self._template: tuple[ChatTemplate, str] | None = None  # and the text of the begin token

    def prompt(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> tuple[str | array[int], str]:
        """Return the text or the ids of a conversation, and the option add_bos of its run.

        Further variables (``tools``) are the template's. Raises as `LLM.chat`.
        """
        if self._source is None and not is_extended():
            return _one_message(messages, variables), "auto"
        if self._template is None:
            self._template = self._read()
        template, bos = self._template
        prompt = template.render(messages, add_generation_prompt=True, **variables)
        separator = self._handle.metadata("rkllm.chat.separator") if is_extended() else None
        if separator:
            return self._ids_of_pieces(prompt.split(separator)), "0"
        return prompt, "0" if bos and prompt.startswith(bos) else "auto"

    def _read(self) -> tuple[ChatTemplate, str]:
        from .chat import ChatTemplate

        if not is_extended():  # whose files nobody else reads
            return ChatTemplate(self._source or ""), ""
        source = self._source
        if source is None:
            source = self._handle.metadata("tokenizer.chat_template")
        if not source:
            raise UnsupportedModelError(
                f"{self._handle.path}: the model has no chat template; give the prompt as plain text"
            )
        with GGUFFile(self._file) as file:
            tokens = [file.values.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")]
        bos, eos = ("" if token is None else self._handle.detokenize([token]) for token in tokens)
        return ChatTemplate(source, bos, eos), bos

    def _ids_of_pieces(self, pieces: Sequence[str]) -> array[int]:
        # For tokenizers that read no special token from a text: pieces are, by turns, text and a special token.
        ids = self._handle.tokenize("", True, True).tolist()
        for index, piece in enumerate(pieces):
            if index % 2 == 0:
                ids += self._handle.tokenize(piece, False).tolist()
            elif piece:
                special = self._handle.token_id(piece)
                if special is None:
                    raise InvalidArgumentError(f"the model knows no role {piece!r}")
                ids.append(special)
        return array("i", ids)


def _one_message(messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
    # The vendor's library from 1.2 on puts the model's template around a prompt, which is what the user says first.
    from .chat import checked_messages

    needed = "LLM(..., chat_template=...), the text of the model's template: the vendor's library does not give it"
    if not puts_template():
        raise UnsupportedByRuntimeError(f"a conversation needs {needed} ({library_path()})")
    message, *more = checked_messages(messages)
    if more or variables or message["role"] != "user" or not isinstance(message["content"], str):
        raise UnsupportedByRuntimeError(
            f"a conversation of more than one text of the user needs {needed}, "
            f"and puts it around one text only ({library_path()})"
        )
    return str(message["content"])
