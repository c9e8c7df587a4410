# SPDX-License-Identifier: Apache-2.0
"""A loaded model as everyone who has one may use it: its facts, its tokens, what it computes besides answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Union

from ._rkllm import Handle, Multimodal
from .errors import InvalidArgumentError
from .interruptible import interruptible
from .options import checked
from .results import Info, Perf

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

    from ._rkllm import Array

    Input = Union[str, Array, Multimodal]

__all__ = ["LoadedModel"]


class LoadedModel:
    """What an `LLM` is beside its answers. A context manager."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    # ---- tokens and numbers -----------------------------------------------------------------------------------------

    def tokenize(self, text: str | bytes, *, parse_special: bool = True, add_bos: bool = False) -> NDArray[np.int32]:
        """Return the token ids of a text, int32 [n].

        Parameters
        ----------
        text : str or bytes
            Bytes are UTF-8; what is invalid is read as U+FFFD.
        parse_special : bool
            Special tokens written in the text become their ids.
        add_bos : bool
            Put the begin token first if the model's tokenizer asks for one, as `generate` does.
        """
        return self._handle.tokenize(text, parse_special, add_bos)

    def detokenize(self, ids: Array | Sequence[int], *, skip_special: bool = False) -> str:
        """Return the text of token ids; incomplete characters become U+FFFD.

        Raises
        ------
        InvalidArgumentError
            An id is not in the vocabulary.
        """
        return self._handle.detokenize(ids, skip_special)

    def logits(self, x: Input, *, lora: str | None = None) -> NDArray[np.float32]:
        """Return the logits of every position of an input, float32 [n, vocab_size]. Input and errors as `generate`."""
        options = {"add_bos": "auto", **checked({"lora": lora})}
        return interruptible(lambda: self._handle.logits(x, options), x, self.abort)

    def hidden_states(self, x: Input, *, lora: str | None = None) -> NDArray[np.float32]:
        """Return the final hidden states, behind the last norm, float32 [n, dim]. Input and errors as `generate`."""
        options = {"add_bos": "auto", **checked({"lora": lora})}
        return interruptible(lambda: self._handle.hidden_states(x, options), x, self.abort)

    def embed(
        self, x: Input | list[str], *, pooling: Literal["mean", "last"] = "mean", normalized: bool = False
    ) -> NDArray[np.float32]:
        """Return one vector for a text, float32 [dim], or one for each text of a list, float32 [n, dim].

        Parameters
        ----------
        x : str, int32 [n], float32 [n, dim] or Multimodal; or a list of str
        pooling : {"mean", "last"}
            The mean of the final hidden states of all positions, or that of the last position.
        normalized : bool
            Divide a vector by its length.

        Raises
        ------
        InvalidArgumentError
            pooling is neither, the list is empty, or x is none of these.
        ContextFullError
            A text is longer than max_context_len.
        """
        import numpy as np

        if pooling not in ("mean", "last"):
            raise InvalidArgumentError(f"pooling is {pooling!r}; 'mean' or 'last' is needed")
        if isinstance(x, list):
            if not x:
                raise InvalidArgumentError("the list of texts is empty; at least one is needed")
            return np.stack([self.embed(text, pooling=pooling, normalized=normalized) for text in x])
        states = self.hidden_states(x)
        vector = states[-1].astype(np.float64) if pooling == "last" else states.mean(axis=0, dtype=np.float64)
        length = float(np.sqrt(np.dot(vector, vector))) if normalized else 1.0
        return np.asarray(vector / (length or 1.0), np.float32)

    # ---- state ------------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """End the active run before its next token, from any thread. Its finish_reason becomes "abort".

        Of `logits`, `hidden_states` and `embed` in another thread the chunk that is computed is the last one
        (AbortedError there); with the vendor's library they end as runs do.
        """
        self._handle.abort()

    @property
    def handle(self) -> Handle:
        """The binding underneath, for parts of the package that build upon it."""
        return self._handle

    @property
    def is_running(self) -> bool:
        """Whether a run is active."""
        return self._handle.is_running

    @property
    def perf(self) -> Perf | None:
        """Figures of the last run that ended; None before the first, and on a library that has none."""
        figures = self._handle.perf
        return None if figures is None else Perf(**figures)

    @property
    def info(self) -> Info:
        """Facts about the model."""
        return Info(**self._handle.info())

    def close(self) -> None:
        """Free the model; an active run is aborted first. A second call does nothing."""
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LLM({self._handle.path!r})"

    def __reduce__(self) -> Any:
        raise TypeError("an LLM holds a loaded model and cannot be pickled; pickle its path and load it again")
