# SPDX-License-Identifier: Apache-2.0
"""How good is a model? Perplexity on a text, and the distance of its predictions from those of another model.

A text is cut into windows that do not overlap; of each window every token but the first is predicted from those before
it. Memory: the logits of one window per model, context x vocabulary x 4 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Union

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidArgumentError
from .llm import LLM
from .progress import Progress, Report

Ids = Union[NDArray[np.int32], Sequence[int]]
_ROWS = 32  # positions whose probabilities are worked on at once, so that arrays of doubles stay small


@dataclass(frozen=True)
class Perplexity:
    """Perplexity on a text: `value` is e^`loss`, `loss` the mean of -log p over `n_predicted` tokens, in nats."""

    value: float
    loss: float
    n_predicted: int


@dataclass(frozen=True)
class Divergence:
    """Distance of a model from a reference on a text, and the perplexities of both.

    The `kl` fields are mean, median and 99th percentile of the Kullback-Leibler divergence sum p_ref log(p_ref / p)
    over the predicted positions, in nats; `top1_agreement` is the share of positions where both have the same likeliest
    token.
    """

    kl_mean: float
    kl_median: float
    kl_p99: float
    top1_agreement: float
    model: Perplexity
    reference: Perplexity

    @property
    def n_predicted(self) -> int:
        return self.model.n_predicted


def perplexity(llm: LLM, ids: Ids, context: int = 512, progress: Report = None) -> Perplexity:
    """Return the perplexity of a model on token ids.

    Parameters
    ----------
    llm
        The model.
    ids
        int32 [n], without begin tokens: where the model's tokenizer asks for one, it is put before each window.
    context
        Tokens of a window, the begin token included.
    progress
        True: a bar on stderr. A function is called with (done, total) tokens.

    Raises
    ------
    InvalidArgumentError
        There is nothing to predict, an id is not in the vocabulary, or the context does not fit the model.
    """
    total, count = 0.0, 0
    for window, logits in _evaluated([llm], ids, context, progress, "perplexity"):
        for rows, targets in _chunks(window, *logits):
            total -= float(_picked(_log_softmax(rows[0]), targets).sum())
            count += len(targets)
    return _perplexity(total, count)


def divergence(llm: LLM, reference: LLM, ids: Ids, context: int = 512, progress: Report = None) -> Divergence:
    """Return how far a model's predictions are from a reference model's. Arguments and errors as `perplexity`.

    Raises
    ------
    InvalidArgumentError
        Also when the vocabularies differ.
    """
    sizes = llm.info.vocab_size, reference.info.vocab_size
    if sizes[0] != sizes[1]:
        raise InvalidArgumentError(f"the model has {sizes[0]} tokens and the reference {sizes[1]}: not the same model")
    losses = [0.0, 0.0]
    kl: list[NDArray[np.float64]] = []
    agreed = 0
    for window, logits in _evaluated([llm, reference], ids, context, progress, "divergence"):
        for (ours, theirs), targets in _chunks(window, *logits):
            agreed += int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
            log_p, log_q = _log_softmax(ours), _log_softmax(theirs)
            losses[0] -= float(_picked(log_p, targets).sum())
            losses[1] -= float(_picked(log_q, targets).sum())
            np.subtract(log_q, log_p, out=log_p)
            kl.append(np.einsum("ij,ij->i", np.exp(log_q, out=log_q), log_p))
    values = np.concatenate(kl)
    return Divergence(
        kl_mean=float(values.mean()),
        kl_median=float(np.median(values)),
        kl_p99=float(np.percentile(values, 99)),
        top1_agreement=agreed / len(values),
        model=_perplexity(losses[0], len(values)),
        reference=_perplexity(losses[1], len(values)),
    )


def _perplexity(total: float, count: int) -> Perplexity:
    loss = total / count
    return Perplexity(math.exp(loss) if loss < 700 else math.inf, loss, count)


def _evaluated(
    models: Sequence[LLM], ids: Ids, context: int, progress: Report, title: str
) -> Iterator[tuple[NDArray[np.int32], list[NDArray[np.float32]]]]:
    """Yield each window and the logits [n, vocab] of each model for it."""
    longest = min(model.info.max_context_len for model in models)
    if not 2 <= context <= longest:
        raise InvalidArgumentError(f"the context is {context} tokens; 2 ... {longest} is possible for this model")
    begin = models[0].tokenize("", add_bos=True)
    text = np.ascontiguousarray(ids, np.int32)
    step = context - len(begin)
    if text.ndim != 1 or len(text) + len(begin) < 2 or step < 1:
        raise InvalidArgumentError(f"ids of shape {text.shape} hold nothing to predict")
    with Progress(progress, len(text), title, unit="tokens") as done:
        for start in range(0, len(text), step):
            window = np.concatenate([begin, text[start : start + step]]).astype(np.int32)
            if len(window) > 1:
                yield window, [model.logits(window) for model in models]
            done.add(len(window) - len(begin))


def _chunks(
    window: NDArray[np.int32], *logits: NDArray[np.float32]
) -> Iterator[tuple[list[NDArray[np.float32]], NDArray[np.int32]]]:
    """Yield, for a few positions at a time, the models' logits there and the token that follows each."""
    for start in range(0, len(window) - 1, _ROWS):
        end = min(start + _ROWS, len(window) - 1)
        yield [each[start:end] for each in logits], window[start + 1 : end + 1]


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    rows: NDArray[np.float64] = logits.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows


def _picked(rows: NDArray[np.float64], targets: NDArray[np.int32]) -> NDArray[np.float64]:
    picked: NDArray[np.float64] = rows[np.arange(len(targets)), targets]
    return picked
