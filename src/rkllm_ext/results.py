# SPDX-License-Identifier: Apache-2.0
"""What a model answers: the text of a run, its figures, and facts about the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def _per_second(count: int, milliseconds: float) -> float:
    return 1000.0 * count / milliseconds if milliseconds > 0 else 0.0


@dataclass(frozen=True)
class Perf:
    """Figures of one run.

    Attributes
    ----------
    prefill_ms, generate_ms
        Time for the input, and for the answer after its first token, milliseconds.
    prefill_tokens, generate_tokens
        Tokens of the input that were computed, and of the answer.
    finish_reason
        As in `Generation`; "error" when the run failed.
    seed
        That the run used; the same seed and input give the same answer. None on the vendor's library, which has none.
    reused_tokens
        Tokens of the input whose state was there already: from the run before, or from a prompt cache.
    drafted_tokens, accepted_tokens
        Tokens of the answer that were guessed ahead (`draft`), and how many of these were right.
    input_address
        Address of the token or embedding array that the engine read; None for text.
    peak_memory_mb
        Of the process.
    """

    prefill_ms: float
    generate_ms: float
    prefill_tokens: int
    generate_tokens: int
    finish_reason: str
    seed: int | None
    input_address: int | None
    peak_memory_mb: float
    reused_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def prefill_tokens_per_second(self) -> float:
        """Speed of reading the input; 0 when nothing was computed."""
        return _per_second(self.prefill_tokens, self.prefill_ms)

    @property
    def generate_tokens_per_second(self) -> float:
        """Speed of writing the answer; 0 when nothing was computed."""
        return _per_second(self.generate_tokens, self.generate_ms)


@dataclass(frozen=True)
class Info:
    """Facts about a loaded model.

    Attributes
    ----------
    vocab_size, dim, n_layers, n_heads, n_kv_heads, head_dim
        The shape of the network.
    max_context, max_context_len
        Positions that the model was made for, and that were asked for when it was loaded.
    n_threads
        Threads that compute.
    bos_token_id
        Token that begins a text; -1: none.
    n_parameters
    weight_bytes
        Bytes of weights that one token of an answer reads.
    file_bytes, kv_bytes
        Size of the file, and of the KV cache.
    load_ms
        Time that loading took, milliseconds.
    format
        Weight format that was asked for at conversion.
    isa
        Instruction set of the kernels.
    """

    vocab_size: int
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    max_context: int
    max_context_len: int
    n_threads: int
    bos_token_id: int
    n_parameters: int
    weight_bytes: int
    file_bytes: int
    kv_bytes: int
    load_ms: float
    format: str
    isa: str


class TokenLogprobs(NamedTuple):
    """Natural logarithms of probabilities in the model's own distribution, before all sampling settings.

    Attributes
    ----------
    token_id
        The token that was chosen.
    logprob
    top
        The most probable tokens, (id, log-probability), best first.
    """

    token_id: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass(frozen=True)
class Generation:
    """A whole answer.

    Attributes
    ----------
    text
        The answer; a character that is not complete at its end is left out.
    token_ids : int32 [n]
        Its tokens, a numpy array; an array.array where there is no numpy.
    finish_reason
        "stop" (an end token or a stop string), "length" (max_new_tokens), "context" (the context is full) or "abort".
    perf
        Figures of the run; None on a library that has none (the vendor's 1.1.x).
    logprobs
        Of each token, when the run was asked for them (`logprobs=5`); else None.
    """

    text: str
    token_ids: NDArray[np.int32]
    finish_reason: str
    perf: Perf | None
    logprobs: list[TokenLogprobs] | None = None
