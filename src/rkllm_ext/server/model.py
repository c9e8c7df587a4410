# SPDX-License-Identifier: Apache-2.0
"""A loaded model as the engine layer needs it: prompts as ids, ids as text, forms of answers, embeddings."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .._rkllm import GGUFFile
from ..constrain import Constraint, Grammars, grammars_of
from ..conversation import Conversations
from ..library import need_own
from ..llm import LLM
from ..options import Form

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..session import Session


class Model:
    """A `.rkllm` file, loaded. Used by any threads.

    Parameters
    ----------
    path : str or os.PathLike
    name : str, optional
        What clients call it; the file's name without its ending.
    **settings
        Of `LLM`: max_context_len, n_threads, kv_type.

    Attributes
    ----------
    llm : LLM
    info : Info
    tokens : list of bytes
        What each id stands for.
    special : frozenset of int
        Ids that no text stands for.
    ends : frozenset of int
        Ids that end an answer.
    loras : list of str
        Names of the adapters that are loaded.
    prompt_caches : list of str
        Names of the prompt caches that are loaded.
    """

    def __init__(self, path: str | os.PathLike[str], name: str | None = None, **settings: Any) -> None:
        self.path = os.path.abspath(os.fsdecode(path))
        self.name = name or os.path.splitext(os.path.basename(self.path))[0]
        need_own("serving, which reads tokens and decodes several answers together,")
        self.llm = LLM(self.path, **settings)
        self.info = self.llm.info
        self.tokens, special = self.llm.handle.token_table()
        self.special = frozenset(special)
        with GGUFFile(self.path) as file:
            eos = file.values.get("tokenizer.ggml.eos_token_id")
            self.ends = frozenset(int(end) for end in file.values.get("rkllm.end_tokens", [] if eos is None else [eos]))
        self.loras: list[str] = []
        self.prompt_caches: list[str] = []
        self._conversations = Conversations(self.llm.handle, self.path)
        self._grammars: Grammars | None = None
        self._lock = threading.Lock()  # for the compiled forms

    @property
    def chat_template(self) -> str | None:
        """The text of the model's chat template; None: it has none."""
        return self.llm.handle.metadata("tokenizer.chat_template")

    def text_ids(self, text: str) -> list[int]:
        """Return the ids of a prompt as `LLM.generate` would have it."""
        ids: list[int] = self.llm.tokenize(text, add_bos=True).tolist()
        return ids

    def chat_ids(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """Return the ids of a conversation in the model's chat template, with further variables (``tools``) of it.

        Raises
        ------
        UnsupportedModelError
            The model has no chat template.
        InvalidArgumentError
            The template refuses the messages.
        """
        prompt, add_bos = self._conversations.prompt(messages, **variables)
        if not isinstance(prompt, str):
            return prompt.tolist()
        ids: list[int] = self.llm.tokenize(prompt, add_bos=add_bos == "auto").tolist()
        return ids

    def constraint(self, form: Form, budget: int | None) -> Constraint:
        """Return what gives one answer of at most `budget` tokens a form.

        Raises
        ------
        InvalidArgumentError
            The schema, expression or grammar is wrong, or uses what is not supported.
        UnsupportedModelError
            The package llguidance is not installed.
        """
        with self._lock:
            if self._grammars is None:
                self._grammars = grammars_of(self.llm.handle, self.path)
            return self._grammars.constraint(form, budget)

    def open_session(self, lora: str) -> Session:
        """Open an empty sequence that computes with an adapter."""
        return self.llm.session(lora=lora or None)

    def embed(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the mean of the final hidden states of a text, float32 [dim]. One caller at a time."""
        import numpy as np

        return self.llm.embed(np.asarray(ids, np.int32))

    def ids_of(self, tokens: Sequence[str]) -> list[int]:
        """Return the ids of those texts that are single tokens."""
        found = (self.llm.handle.token_id(token) for token in tokens)
        return [token for token in found if token is not None]

    def load_lora(self, path: str | os.PathLike[str], name: str) -> None:
        """Load an adapter that requests may name. As `LLM.load_lora`."""
        self.llm.load_lora(path, name)
        self.loras.append(name)

    def load_prompt_cache(self, path: str | os.PathLike[str], name: str) -> None:
        """Load a saved state from which prompts start that begin as it does. As `LLM.load_prompt_cache`."""
        self.llm.load_prompt_cache(path, name)
        self.prompt_caches.append(name)

    def close(self) -> None:
        """Free the model."""
        self.llm.close()
