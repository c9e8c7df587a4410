# SPDX-License-Identifier: Apache-2.0
"""What do weight formats cost? Perplexity of a checkpoint in each of them, computed by the engine.

    python benchmarks/perplexity.py SOURCE --text FILE --dtypes fp16,w8a8,w4a16_g32 [--tokens 65536] [--context 512]

One file is measured by ``rkllm-ext eval``, which cuts the text in the same way.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import rkllm_ext
from rkllm_ext.convert import convert
from rkllm_ext.evaluate import perplexity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--dtypes", default="fp16,w8a8,w4a16,w4a16_g64,w4a16_g32")
    parser.add_argument("--head-dtype", default=None, help="format of the embedding and the output matrix")
    parser.add_argument("--opt", type=int, default=0, help="optimization level")
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--context", type=int, default=512)
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    print("| format | file, MB | perplexity | tokens | seconds |\n|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for dtype in arguments.dtypes.split(","):
            path = Path(folder) / f"{dtype}.rkllm"
            convert(arguments.source, path, dtype, optimization_level=arguments.opt, head_format=arguments.head_dtype)
            started = time.perf_counter()
            with rkllm_ext.LLM(path, max_context_len=arguments.context) as llm:
                ids = llm.tokenize(text, parse_special=False)[: arguments.tokens]
                found = perplexity(llm, ids, arguments.context, progress=True)
            seconds = time.perf_counter() - started
            size = path.stat().st_size / 1e6
            print(f"| {dtype} | {size:.1f} | {found.value:.3f} | {found.n_predicted} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
