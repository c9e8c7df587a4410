# SPDX-License-Identifier: Apache-2.0
"""Write the seeds of the prompt cache fuzzer: `python make_cache_corpus.py MODEL DIR`; needs the package installed.

MODEL is a small .rkllm file, DIR gets states of it: each kind of KV cache, some lengths, tokens and embeddings.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import rkllm_ext


def main(model: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(1)
    for kv_type in ("f16", "f32", "int8"):
        with rkllm_ext.LLM(model, max_context_len=12, kv_type=kv_type) as llm:
            ids = draw.integers(0, llm.info.vocab_size, 11).astype(np.int32)
            for n in (1, 3, 11):
                llm.save_prompt_cache(ids[:n], folder / f"{kv_type}-{n}")
            llm.save_prompt_cache(
                draw.standard_normal((2, llm.info.dim)).astype(np.float32), folder / f"{kv_type}-rows"
            )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
