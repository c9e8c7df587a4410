# SPDX-License-Identifier: Apache-2.0
"""Sessions: sequences over a loaded model whose tokens the caller chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from ._rkllm import BaseSession, Decoding, step_sessions
from .interruptible import interruptible
from .options import checked_sampling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

    from ._rkllm import Array, Multimodal
    from .logits import Logits


class Session(BaseSession):
    """One sequence with its own keys and values, over the model of an `LLM`. Made by `LLM.session`. A context manager.

    Sessions share the model's weights and threads with its runs and with each other. They stay usable when the LLM is
    closed. Thread-safety: one thread at a time uses a session, a second one gets BusyError; different sessions may be
    used by different threads. Other Python threads go on during `prefill`, `step` and `sample`.

    Examples
    --------
    >>> with LLM(model_path) as llm, llm.session() as session:
    ...     session.prefill("Once upon a time")
    ...     for _ in range(8):
    ...         session.step(session.logits.argmax())
    ...     text = llm.detokenize(session.tokens)
    """

    __slots__ = ()

    def prefill(self, x: str | Array | Multimodal, *, whole: bool = False) -> int:
        """Append an input and compute it; `logits` are then those of its last position.

        Parameters
        ----------
        x : str, int32 [n], float32 [n, dim] or Multimodal
            As for `LLM.generate`. The begin token is put first only where the sequence begins.
        whole : bool
            x is the whole sequence: what the session has in common with it from the first position on is kept, the rest
            is dropped.

        Returns
        -------
        int
            The positions that were computed.

        Raises
        ------
        InvalidArgumentError
            x has the wrong type, shape or values, or the session is closed.
        ContextFullError
            The sequence would be longer than max_context_len. Nothing has changed.
        AbortedError
            `abort` was called; what has been computed is kept.
        BusyError
            Another thread uses the session.
        """
        return interruptible(lambda: self.append(x, whole), x, self.abort)

    @property
    def logits(self) -> Logits | None:
        """The logits behind the last position, float32 [vocab_size], read-only and without a copy.

        Out of date after the session's next `prefill`, `step`, `truncate` or `close`: a use of it then raises
        InvalidArgumentError. `logits.copy()` stays. None when there are none: an empty session, or after `truncate`.
        Where there is no numpy (Android) it is a memoryview, which keeps the values of its step.
        """
        memory = self.hold_logits()
        if memory is None:
            return None
        try:
            from .logits import Logits
        except ImportError:
            return cast("Logits", memoryview(memory).cast("f"))
        return Logits.of(self, memory)

    def sample(self, mask: Array | None = None, **overrides: Any) -> int:
        """Choose a token from the logits. It is not appended: `step` does that.

        Parameters
        ----------
        mask : bool [vocab_size], or bits, optional
            Which tokens may be chosen. Bits are in words of 32, (vocab_size + 31) // 32 of them, beginning with the
            lowest bit of the first one.
        **overrides
            The sampling settings of `LLM.generate`, for this call only. A seed restarts the random numbers.

        Raises
        ------
        InvalidArgumentError
            There are no logits, the mask has another length or forbids everything, or a setting is not possible.
        """
        return self.choose(None if mask is None else _bits(mask), checked_sampling(overrides))

    def fork(self) -> Self:
        """Return a second session in the same state: sequence, logits, settings and random numbers."""
        return self.copy(type(self))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Session({self.path!r})"


def _bits(mask: Array) -> Array:
    # A truth value for each token as a bit for each, in words of 32.
    if memoryview(cast(Any, mask)).format != "?":
        return mask
    try:
        import numpy as np
    except ImportError:  # Android
        plain = memoryview(cast(Any, mask)).cast("B")
        words = sum(1 << token for token, allowed in enumerate(plain) if allowed)
        return words.to_bytes(4 * ((len(plain) + 31) // 32), "little")
    bits = np.packbits(np.asarray(mask).reshape(-1), bitorder="little")
    return np.concatenate([bits, np.zeros(-len(bits) % 4, np.uint8)])


def step_together(sessions: Sequence[Session], tokens: Sequence[int] | NDArray[np.int32]) -> None:
    """Append one token to each of several sessions of one LLM, in one pass over the model's weights.

    Each gets the bits that `Session.step` alone would give it, in much less time than one after another.

    Parameters
    ----------
    sessions : sequence of Session
    tokens : sequence of int
        One for each.

    Raises
    ------
    InvalidArgumentError
        The lengths differ, a session is closed or of another LLM, or a token is not in the vocabulary. Nothing has
        changed then, nor with the next two.
    ContextFullError
        One of the sequences is as long as max_context_len allows.
    BusyError
        Another thread uses one of the sessions, or one is named twice.
    """
    step_sessions(sessions, tokens)


def decode_together(
    sessions: Sequence[Session],
    tokens: Sequence[int] | NDArray[np.int32],
    masks: Sequence[Array | None] | None = None,
) -> list[int]:
    """Append one token to each of several sessions of one LLM and choose the next ones: `step_together` and `sample`.

    The tokens are those that these would give. Choices are made by the threads of the pass, at the same time.

    Parameters
    ----------
    sessions : sequence of Session
        Each chooses with the settings of its last `sample`, before that with its own.
    tokens : sequence of int
        One for each.
    masks : sequence of masks or None, optional
        Which tokens each may choose, as for `Session.sample`.

    Returns
    -------
    list of int
        What was chosen, and has not been appended.

    Raises
    ------
    InvalidArgumentError, ContextFullError, BusyError
        As `step_together`; or one of the sessions has no token to choose from, and all have been stepped.

    Examples
    --------
    >>> with LLM(model_path) as llm, llm.session(top_k=1) as a, llm.session(top_k=1) as b:
    ...     computed = a.prefill("Once upon a time"), b.prefill("There was a")
    ...     tokens = [a.sample(), b.sample()]
    ...     for _ in range(8):
    ...         tokens = decode_together([a, b], tokens)
    ...     text = llm.detokenize(b.tokens)
    """
    if len(sessions) == 0 and len(tokens) == 0:
        return []
    bits = None if masks is None else [None if mask is None else _bits(mask) for mask in masks]
    decoding = Decoding(sessions, tokens, bits)
    decoding.run()
    (chosen,) = decoding.take()
    decoding.take()  # raises what went wrong with a choice
    return chosen
