# SPDX-License-Identifier: Apache-2.0
"""Conversations as prompts, the way the model's own chat template and tokenizer have them."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._rkllm import GGUFFile, Handle, Piece, is_extended, keeps_conversations, library_path
from .errors import InvalidArgumentError, UnsupportedByRuntimeError, UnsupportedModelError
from .options import Value
from .stream import Stream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .chat import ChatTemplate

    Messages = Sequence[Mapping[str, Any]]


class ToldStream(Stream):
    """A run whose text is told to whoever asked for it, when it has been read to its end."""

    __slots__ = ("_tell", "_texts")

    def tell(self, whom: Callable[[str], None]) -> None:
        """Tell the text at the end. To be called before anything is read."""
        self._texts: list[str] = []
        self._tell: Callable[[str], None] | None = whom

    def __next__(self) -> Piece:
        try:
            piece = super().__next__()
        except StopIteration:
            self._tell_once()
            raise
        self._texts.append(piece.text)
        return piece

    def collect(self) -> tuple[str, NDArray[np.int32]]:
        """As `Stream`'s."""
        text, ids = super().collect()
        self._texts.append(text)
        self._tell_once()
        return text, ids

    def _tell_once(self) -> None:
        if self._tell is not None:
            self._tell("".join(self._texts))
            self._tell = None


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
        self._kept: list[Mapping[str, Any]] = []
        self._told: tuple[str, str] | None = None  # the system message and tools that the vendor's library has

    @property
    def are_the_librarys(self) -> bool:
        """Whether it is the vendor's library that makes prompts of conversations and keeps them."""
        return self._source is None and not is_extended()

    def turn(
        self, messages: Messages, tools: Messages | None, thinking: bool | None, keep_history: bool
    ) -> tuple[str | array[int], dict[str, Value]]:
        """Return the text or the ids to answer to, and the options of the run. As `LLM.chat` has them."""
        if self.are_the_librarys:
            return self._turn_of_the_library(messages, tools, bool(thinking), keep_history)
        given = {"tools": tools, "enable_thinking": thinking}
        variables = {name: value for name, value in given.items() if value is not None}
        template = self._compiled()[0]
        for name in variables:
            if not template.reads(name):
                raise UnsupportedModelError(
                    f"{self._handle.path}: the model's chat template has no place for {name}; leave "
                    f"{'thinking' if name == 'enable_thinking' else name} away or give an LLM(..., chat_template=...)"
                )
        prompt, add_bos = self.prompt([*self._kept, *messages] if keep_history else messages, **variables)
        return prompt, {"add_bos": add_bos, "keep_history": False}

    def keep(self, messages: Messages, answer: str) -> None:
        """Put messages and the answer to them behind those that are kept."""
        self._kept += [*messages, {"role": "assistant", "content": answer}]

    def forget(self) -> None:
        """Let the next conversation begin anew."""
        self._kept = []

    def prompt(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> tuple[str | array[int], str]:
        """Return the text or the ids of a conversation, and the option add_bos of its run.

        Further variables (``tools``) are the template's. Raises as `LLM.chat`.
        """
        template, bos = self._compiled()
        prompt = template.render(messages, add_generation_prompt=True, **variables)
        separator = self._handle.metadata("rkllm.chat.separator") if is_extended() else None
        if separator:
            return self._ids_of_pieces(prompt.split(separator)), "0"
        return prompt, "0" if bos and prompt.startswith(bos) else "auto"

    def _compiled(self) -> tuple[ChatTemplate, str]:
        if self._template is None:
            self._template = self._read()
        return self._template

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

    def _turn_of_the_library(
        self, messages: Messages, tools: Messages | None, thinking: bool, keep_history: bool
    ) -> tuple[str, dict[str, Value]]:
        # From 1.2 on it puts the model's template around one text, of the user or a tool; tools bring a system message.
        from .chat import checked_messages

        needed = "LLM(..., chat_template=...), the text of the model's template: the vendor's library does not give it"
        if not keeps_conversations():
            raise UnsupportedByRuntimeError(f"a conversation needs {needed} ({library_path()})")
        *before, message = checked_messages(messages)
        systems = [str(first["content"]) for first in before if first["role"] == "system"]
        if len(before) != len(systems) or len(systems) > (tools is not None) or message["role"] not in ("user", "tool"):
            raise UnsupportedByRuntimeError(
                f"a conversation of more than one text of the user or a tool needs {needed}, and puts it around one "
                f"text only; keep_history=True lets it go on behind the one before ({library_path()})"
            )
        if not isinstance(message["content"], str):
            raise UnsupportedByRuntimeError(f"a message in parts needs {needed} ({library_path()})")
        self._tell_tools(systems[0] if systems else None, tools)
        options: dict[str, Value] = {"role": message["role"], "thinking": thinking, "keep_history": keep_history}
        return str(message["content"]), {"add_bos": "auto", **options}

    def _tell_tools(self, system: str | None, tools: Messages | None) -> None:
        # Once: they stay, and so does the system message where a later turn of the conversation has none.
        before = self._told
        if tools is None and before is None:
            return
        if tools is None:
            raise UnsupportedByRuntimeError(
                "a conversation without the tools of the one before: the vendor's library does not take them back; "
                f"load the model again ({library_path()})"
            )
        text = json.dumps(tools, ensure_ascii=False)
        if before is not None and before[1] == text and system in (None, before[0]):
            return
        self._handle.set_function_tools(system or "", text)
        self._told = (system or "", text)
