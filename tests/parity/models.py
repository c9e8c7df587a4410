# SPDX-License-Identifier: Apache-2.0
"""Converted models for the parity tests, each made once per test run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import rkllm_ext
from rkllm_ext import _rkllm
from rkllm_ext.convert import convert

SHARED = Path(__file__).resolve().parents[3] / "shared"

#: Reference folders of the families that exist here. One of them is a pickle, which needs torch.
REFERENCES = [
    "llama-dynamic",
    "llama-dynamic-bf16",
    "llama-linear-sharded",
    "llama-llama3",
    *(["llama-mha-bin"] if importlib.util.find_spec("torch") else []),
    "qwen2",
    "qwen2-g512-bf16",
    "internlm2",
    "phi3",
    "phi3-fp16",
    "phi3-longrope",
    "gemma",
    "gemma2",
    "minicpm",
    "phi",
    "chatglm3",
    "qwen",
    "minicpm3",
    "minicpm3-longext",
]

#: Formats that can be asked for by name.
FORMATS = [format.name for format in _rkllm.formats() if format.offered]


class Converter:
    """Converts a checkpoint to a format at the first request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, source: Path, quantized_dtype: str) -> Path:
        out = self.folder / f"{source.name}-{quantized_dtype}.rkllm"
        if not out.exists():
            convert(source, out, quantized_dtype)
        return out


def some_ids(llm: rkllm_ext.LLM, n: int) -> NDArray[np.int32]:
    """Return the same random tokens each time."""
    return np.random.default_rng(3).integers(0, llm.info.vocab_size, n).astype(np.int32)


def logits_do_not_depend_on_threads_or_chunks(model: Path, activations: str | None = None) -> None:
    """Check the logits of a prompt, bit for bit."""
    with rkllm_ext.LLM(model, max_context_len=320, n_threads=1, activations=activations) as llm:
        ids = some_ids(llm, 290)
        expected = llm.logits(ids)
        assert np.isfinite(expected).all()
        for threads in (1, 2, 4):
            for chunk in (1, 7, 64, 290):
                llm._handle.set_options({"n_threads": threads, "prefill_chunk": chunk})
                assert np.array_equal(llm.logits(ids), expected), f"{threads} threads, chunks of {chunk}"
