# SPDX-License-Identifier: Apache-2.0
"""What do the same bits cost beside llama.cpp? Perplexity of one f16 GGUF file in its types and in our formats.

    python benchmarks/peer_perplexity.py MODEL-f16.gguf --text FILE [--tokens 16384] [--context 512]
        [--types F16,Q8_0,Q4_0] [--dtypes fp16,w8a8,w4a16_g32]

Needs `llama-cpp-python`, whose own quantizer makes the types; both sides compute the same windows of the same tokens,
and the same code makes perplexities of their logits. In llama.cpp's Q4_0 files the embedding may have 4 bits where
there is another output matrix; ours have 8 bits in both.
"""

from __future__ import annotations

import argparse
import ctypes
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import rkllm_ext
from rkllm_ext.evaluate import perplexity


@dataclass(frozen=True)
class Info:
    max_context_len: int


class Peer:
    """llama.cpp, with what `perplexity` asks of an `LLM`."""

    def __init__(self, path: Path, context: int, begin: np.ndarray, n_threads: int) -> None:
        from llama_cpp import Llama

        self.info = Info(context)
        self._begin = begin
        self._llama: Any = Llama(
            str(path), n_ctx=context, n_batch=context, n_threads=n_threads, n_threads_batch=n_threads,
            logits_all=True, verbose=False,
        )  # fmt: skip

    def tokenize(self, text: str, add_bos: bool) -> np.ndarray:
        """Return what a window begins with, which is not to depend on the tokenizer."""
        assert add_bos and not text
        return self._begin

    def logits(self, ids: np.ndarray) -> np.ndarray:
        self._llama.reset()
        self._llama.eval(ids.tolist())
        return self._llama.scores[: len(ids)]

    def close(self) -> None:
        self._llama.close()


def quantized_by_peer(source: Path, out: Path, kind: str, n_threads: int) -> None:
    """Write a GGUF file of a type with llama.cpp's quantizer."""
    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    settings.allow_requantize = True
    settings.nthread = n_threads
    if llama_cpp.llama_model_quantize(bytes(source), bytes(out), ctypes.byref(settings)) != 0:
        raise SystemExit(f"llama.cpp cannot quantize {source} to {kind}")


@contextmanager
def silenced() -> Iterator[None]:
    """Keep llama.cpp's log off the table."""
    import llama_cpp

    @llama_cpp.llama_log_callback
    def ignore(level: int, text: bytes, data: Any) -> None:
        pass

    llama_cpp.llama_log_set(ignore, ctypes.c_void_p(0))
    yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--types", default="F16,Q8_0,Q4_0", help="of llama.cpp")
    parser.add_argument("--dtypes", default="fp16,w8a8,w4a16_g32", help="ours")
    parser.add_argument("--opt", type=int, default=0, help="our optimization level")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()

    def row(name: str, path: Path, model: Any) -> None:
        started = time.perf_counter()
        found = perplexity(model, ids, options.context)
        seconds = time.perf_counter() - started
        size = path.stat().st_size / 1e6
        print(f"| {name} | {size:.1f} | {found.value:.4f} | {found.n_predicted} | {seconds:.0f} |", flush=True)

    def made(suffix: str, make: Callable[[Path], Any]) -> Path:
        path = Path(folder) / f"model-{suffix}"
        make(path)
        return path

    print("| | file, MB | perplexity | tokens | seconds |\n|---|--:|--:|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory() as folder, silenced():
        ids = begin = np.zeros(0, np.int32)
        for dtype in options.dtypes.split(","):
            path = made(
                f"{dtype}.rkllm",
                lambda out, dtype=dtype: rkllm_ext.convert(options.source, out, dtype, optimization_level=options.opt),
            )
            with rkllm_ext.LLM(path, max_context_len=options.context, n_threads=options.threads) as llm:
                begin = llm.tokenize("", add_bos=True)
                ids = llm.tokenize(options.text.read_text(encoding="utf-8"), parse_special=False)[: options.tokens]
                row(dtype, path, llm)
            path.unlink()
        for kind in options.types.split(","):
            path = made(
                f"{kind}.gguf",
                lambda out, kind=kind: quantized_by_peer(options.source, out, kind, options.threads),
            )
            with closing(Peer(path, options.context, begin, options.threads)) as peer:
                row(f"llama.cpp {kind}", path, peer)
            path.unlink()


if __name__ == "__main__":
    main()
