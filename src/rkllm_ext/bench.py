# SPDX-License-Identifier: Apache-2.0
"""How fast a model is on this machine, and how near to what the machine can do."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ._rkllm import limits
from .errors import InvalidArgumentError
from .library import need_own
from .llm import LLM

__all__ = ["Speed", "measure"]


@dataclass(frozen=True)
class Speed:
    """Medians of a model with a number of threads.

    Attributes
    ----------
    model, format, isa, n_threads, activations
        What was measured, and with what.
    n_prompt, prefill
        Tokens of the prompt, and how many of them are read per second.
    n_generated, decode
        Tokens of the answer, and how many are written per second.
    weight_gbs, read_gbs
        Weights that decoding reads, and what this machine reads at most with these threads, 10^9 bytes per second.
    memory_share
        The one divided by the other. Above 1: the weights, or a part of them, stay in a cache.
    load_ms, peak_memory_mb
        Time until the file was open, and the most memory that the process had.
    """

    model: str
    format: str
    isa: str
    n_threads: int
    n_prompt: int
    prefill: float
    n_generated: int
    decode: float
    weight_gbs: float
    read_gbs: float
    memory_share: float
    load_ms: float
    peak_memory_mb: float
    activations: str


def measure(
    path: str | os.PathLike[str],
    n_prompt: int | None = 512,
    n_generated: int = 128,
    threads: Sequence[int | None] = (None,),
    repeats: int = 3,
    activations: str | None = None,
) -> Iterator[Speed]:
    """Yield the speed of a model for each number of threads; None stands for the library's own choice.

    Parameters
    ----------
    path
        A `.rkllm` file.
    n_prompt, n_generated
        Tokens of the prompt (random ones) and of the answer, at least 1 and 2. Prompt None: 512, or as many as fit.
    repeats
        Runs of which the medians are given, after one that does not count.
    activations
        As in `LLM`.

    Raises
    ------
    InvalidArgumentError
        Prompt and answer together are longer than the model's context, or a number is too small.
    """
    need_own("measuring speed beside the limits of this machine")
    with LLM(path, max_context_len=1) as llm:
        room = llm.info.max_context
    if n_prompt is None:
        n_prompt = max(1, min(512, room - n_generated))
    if n_prompt < 1 or n_generated < 2 or repeats < 1:
        raise InvalidArgumentError("a measurement needs 1 token of a prompt, 2 of an answer, and 1 repeat at least")
    if n_prompt + n_generated > room:
        raise InvalidArgumentError(
            f"{os.fspath(path)}: {n_prompt} tokens to read and {n_generated} to write are more than the {room} that "
            "the model was made for; ask for fewer"
        )
    for n_threads in threads:
        settings: dict[str, Any] = {"n_threads": n_threads, "activations": activations, "reuse_prefix": False}
        with LLM(path, max_context_len=n_prompt + n_generated, **settings) as llm:
            yield _measured(llm, path, n_prompt, n_generated, repeats, activations or "auto")


def _measured(
    llm: LLM, path: str | os.PathLike[str], n_prompt: int, n_generated: int, repeats: int, activations: str
) -> Speed:
    import numpy as np

    info = llm.info
    ids = np.random.default_rng(0).integers(0, info.vocab_size, n_prompt).astype(np.int32)
    prefill, decode, reads, memory = [], [], [], 0.0
    for repeat in range(repeats + 1):
        reads.append(limits(info.n_threads)[0])  # between the runs, since other programs come and go
        perf = llm.generate(ids, max_new_tokens=n_generated, temperature=0.0, ignore_eos=True).perf
        assert perf is not None  # measure() needs limits(), which only the library that has perf, too, has
        if repeat > 0:
            prefill.append(perf.prefill_tokens_per_second)
            decode.append(perf.generate_tokens_per_second)
        memory = perf.peak_memory_mb
    read, decoded = max(reads), statistics.median(decode)
    used = decoded * info.weight_bytes / 1e9
    return Speed(
        model=os.fspath(path),
        format=info.format,
        isa=info.isa,
        n_threads=info.n_threads,
        n_prompt=n_prompt,
        prefill=statistics.median(prefill),
        n_generated=n_generated,
        decode=decoded,
        weight_gbs=used,
        read_gbs=read,
        memory_share=used / read,
        load_ms=info.load_ms,
        peak_memory_mb=memory,
        activations=activations,
    )
