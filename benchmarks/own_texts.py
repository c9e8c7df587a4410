# SPDX-License-Identifier: Apache-2.0
"""What would the model itself write? Texts to calibrate with where none of the later use are at hand.

    python benchmarks/own_texts.py MODEL.rkllm texts.json [--texts 96] [--tokens 256] [--together 8] [--threads 1]

The model, best in `fp16` or `w8a8`, goes on from short openings of many kinds of text, drawn at temperature 1 from the
likeliest 95 %. The file is what ``rkllm-ext convert --dataset`` takes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import rkllm_ext

OPENINGS = (
    "The history of", "In the early years of the 20th century ,", "Born in", "The river", "He was appointed",
    "The album was released in", "The species is found in", "The battle began", "The episode was written by",
    "According to the census ,", "The team finished the season", "The church was built in", "Her first novel",
    "Scientists have found that", "The city council", "A study published in", "How to", "What is the", "Dear Sir ,",
    "Once upon a time", "Chapter 1", "Abstract", "def ", "import ", "Step 1 :", "Question :", "The government of",
    "On the morning of", "She said that", "The company announced", "In mathematics ,", "The film received",
)  # fmt: skip


def texts_of(llm: rkllm_ext.LLM, openings: list[str], n_tokens: int, seed: int) -> list[str]:
    """Return a text for each opening, of `n_tokens` tokens or up to where the model ends it."""
    ids = [llm.tokenize(opening, add_bos=True).tolist() for opening in openings]
    sessions = [llm.session() for _ in openings]
    try:
        for session, prompt in zip(sessions, ids):
            session.prefill(np.array(prompt, np.int32))
        while min(map(len, ids)) < n_tokens:
            tokens = [
                session.sample(
                    temperature=1.0, top_k=0, top_p=0.95, repeat_penalty=1.0, seed=seed + 1000 * i + len(each)
                )
                for i, (session, each) in enumerate(zip(sessions, ids))
            ]
            for each, token in zip(ids, tokens):
                each.append(token)
            rkllm_ext.step_together(sessions, tokens)
    finally:
        for session in sessions:
            session.close()
    # What comes behind the end of a text is another one, as in what the model was trained with.
    return [llm.detokenize(each[:n_tokens], skip_special=True) for each in ids]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--texts", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--together", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    texts: list[str] = []
    with rkllm_ext.LLM(options.model, max_context_len=options.tokens + 32, n_threads=options.threads) as llm:
        while len(texts) < options.texts:
            n = min(options.together, options.texts - len(texts))
            openings = [OPENINGS[(len(texts) + i) % len(OPENINGS)] for i in range(n)]
            texts += texts_of(llm, openings, options.tokens, options.seed + 1_000_000 * len(texts))
    rows = [{"input": "", "target": text} for text in texts]
    options.out.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
