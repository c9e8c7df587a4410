# SPDX-License-Identifier: Apache-2.0
"""A run, piece by piece."""

from __future__ import annotations

from ._rkllm import BaseStream
from .results import Perf


class Stream(BaseStream):
    """A run: an iterator of `Piece`, and a context manager that ends the run when it is left. Made by `LLM.stream`.

    The model computes while the consumer works, at most some 2000 tokens ahead. A run that is not read to its end is
    aborted by `close`, by leaving the `with` block, or when the stream is garbage; the model can be used again after
    it. One thread consumes a stream.

    Attributes
    ----------
    finish_reason : str or None
        As in `Generation`; None before the end.

    Raises
    ------
    RKLLMError
        When iterated: the run failed. The class is that of the failure, as for `LLM.generate`.

    Examples
    --------
    >>> with LLM(model_path, max_new_tokens=100) as llm:
    ...     with llm.stream("Once upon a time") as stream:
    ...         first = next(stream)
    ...     stream.finish_reason
    'abort'
    """

    __slots__ = ()

    def __del__(self) -> None:
        self.close()

    @property
    def perf(self) -> Perf | None:
        """Figures of the run, from its end on; None before it, and on a library that has none."""
        figures = self.figures
        return None if figures is None else Perf(**figures)
