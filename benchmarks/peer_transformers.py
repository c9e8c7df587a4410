# SPDX-License-Identifier: Apache-2.0
"""Does the engine compute what `transformers` computes? Perplexity of one checkpoint by both, of the same windows.

    python benchmarks/peer_transformers.py MODEL_DIR --text FILE [--tokens 16384] [--context 512] [--kv-type f32]

Needs `transformers` and torch, which compute in float32; ours has the weights in f16. Both get the same token ids, and
the same code makes perplexities of their logits.
"""

from __future__ import annotations

import argparse
import tempfile
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
    """transformers, with what `perplexity` asks of an `LLM`."""

    def __init__(self, source: Path, context: int, begin: np.ndarray, n_threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(n_threads)
        self.info = Info(context)
        self._torch, self._begin = torch, begin
        self._model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()

    def tokenize(self, text: str, add_bos: bool) -> np.ndarray:
        """Return what a window begins with, which is not to depend on the tokenizer."""
        assert add_bos and not text
        return self._begin

    def logits(self, ids: np.ndarray) -> np.ndarray:
        with self._torch.inference_mode():
            found: np.ndarray = self._model(self._torch.from_numpy(np.asarray(ids)).long()[None]).logits[0].numpy()
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--kv-type", default=None, help="of our cache, f16 if none is given; transformers' has f32")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print("| | perplexity | tokens |\n|---|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fp16.rkllm"
        rkllm_ext.convert(options.source, path, "fp16")
        settings = {"max_context_len": options.context, "n_threads": options.threads, "kv_type": options.kv_type}
        with rkllm_ext.LLM(path, **settings) as llm:
            begin = llm.tokenize("", add_bos=True)
            ids = llm.tokenize(options.text.read_text(encoding="utf-8"), parse_special=False)[: options.tokens]
            found = perplexity(llm, ids, options.context)
        print(f"| ours | {found.value:.4f} | {found.n_predicted} |", flush=True)
    peer: Any = Peer(options.source, options.context, begin, options.threads)
    found = perplexity(peer, ids, options.context)
    print(f"| transformers, float32 | {found.value:.4f} | {found.n_predicted} |", flush=True)


if __name__ == "__main__":
    main()
