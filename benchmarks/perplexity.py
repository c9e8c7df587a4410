# SPDX-License-Identifier: Apache-2.0
"""Perplexity of converted models on a text, computed by the engine; the table of docs/quantization.md.

    python benchmarks/perplexity.py SOURCE --text FILE --dtypes fp16,w8a8,w4a16_g32 [--tokens 65536] [--context 512]

SOURCE is a checkpoint (it is converted to each format in a temporary folder) or a .rkllm file. The text is cut into
windows of --context tokens that do not overlap; every token of a window but its first is predicted from those before
it. The begin token is put before each window only where the tokenizer asks for one.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import rkllm_ext
from rkllm_ext.convert import convert


def negative_log_likelihood(logits: NDArray[np.float32], ids: NDArray[np.int32]) -> float:
    """Sum -log p(ids[i + 1] | ids[: i + 1]) over a window; logits float32 [n, vocab], ids int32 [n]."""
    rows, targets = logits[:-1], ids[1:]
    top = rows.max(axis=1, keepdims=True)
    sums = np.exp(rows - top).sum(axis=1, dtype=np.float64)
    return float((np.log(sums) + top[:, 0] - rows[np.arange(len(rows)), targets]).sum(dtype=np.float64))


def perplexity(path: Path, text: str, n_tokens: int, context: int) -> tuple[float, int]:
    """Return the perplexity and the number of predicted tokens."""
    with rkllm_ext.LLM(path, max_context_len=context) as llm:
        bos = llm.tokenize("")
        ids = llm.tokenize(text)[len(bos) :][:n_tokens]
        loss, count = 0.0, 0
        for start in tqdm(range(0, len(ids), context - len(bos)), desc=path.stem, leave=False):
            window = np.concatenate([bos, ids[start : start + context - len(bos)]]).astype(np.int32)
            if len(window) < 2:
                break
            loss += negative_log_likelihood(llm.logits(window), window)
            count += len(window) - 1
    return math.exp(loss / count), count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--dtypes", default="fp16,w8a8,w4a16,w4a16_g64,w4a16_g32")
    parser.add_argument("--head-dtype", default=None, help="format of the embedding and the output matrix")
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--context", type=int, default=512)
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    print("| format | file, MB | perplexity | tokens | seconds |\n|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for dtype in [""] if arguments.source.suffix == ".rkllm" else arguments.dtypes.split(","):
            path = arguments.source
            if dtype:
                path = Path(folder) / f"{dtype}.rkllm"
                convert(arguments.source, path, dtype, head_format=arguments.head_dtype)
            started = time.perf_counter()
            value, count = perplexity(path, text, arguments.tokens, arguments.context)
            seconds = time.perf_counter() - started
            size = path.stat().st_size / 1e6
            print(f"| {dtype or path.name} | {size:.1f} | {value:.3f} | {count} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
