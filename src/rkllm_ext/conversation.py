# SPDX-License-Identifier: Apache-2.0
"""Conversations as prompts, the way the model's own chat template and tokenizer have them."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._rkllm import GGUFFile, Handle
from .errors import InvalidArgumentError, UnsupportedModelError

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
    """

    def __init__(self, handle: Handle, file: str) -> None:
        self._handle = handle
        self._file = file
        self._template: tuple[ChatTemplate, str] | None = None  # and the text of the begin token

    def prompt(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> tuple[str | array[int], str]:
        """Return the text or the ids of a conversation, and the option add_bos of its run.

        Further variables (``tools``) are the template's. Raises as `LLM.chat`.
        """
        if self._template is None:
            self._template = self._read()
        template, bos = self._template
        prompt = template.render(messages, add_generation_prompt=True, **variables)
        separator = self._handle.metadata("rkllm.chat.separator")
        if separator:
            return self._ids_of_pieces(prompt.split(separator)), "0"
        return prompt, "0" if bos and prompt.startswith(bos) else "auto"

    def _read(self) -> tuple[ChatTemplate, str]:
        from .chat import ChatTemplate

        source = self._handle.metadata("tokenizer.chat_template")
        if source is None:
            raise UnsupportedModelError(f"{self._handle.path}: the model has no chat template; use generate()")
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
