# SPDX-License-Identifier: Apache-2.0
"""How much faster is decoding with tokens guessed ahead?  python benchmarks/bench_draft.py model.rkllm

Greedy answers, with `draft` 0, 4 and 8 in turns: to a prompt that asks to repeat a text (guesses from the prompt are
right), to one that asks for a summary, and to one that has nothing to be guessed from. Medians of the rounds; the
answers are compared.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import rkllm_ext

TEXT = (
    "The river rises in the northern hills, runs through three valleys and reaches the sea after two hundred miles. "
    "In spring the snow of the hills fills it to its banks, and the mills along the second valley work day and night. "
    "In autumn the river is low, the mills stand still, and the farmers of the third valley dig channels to the fields."
)
TASKS = {
    "repeat": f"Repeat this text word for word:\n\n{TEXT}",
    "summary": f"Summarise this text in two sentences:\n\n{TEXT}",
    "story": "Tell me a story about a lighthouse.",
}
GREEDY = {"temperature": 0.0, "repeat_penalty": 1.0}


def measure(path: Path, threads: int, tokens: int, rounds: int) -> dict[str, dict[int, tuple[float, float]]]:
    """Return, for each task and draft, tokens/s and the share of guesses that were right."""
    results: dict[str, dict[int, tuple[float, float]]] = {}
    with rkllm_ext.LLM(path, max_context_len=1024, n_threads=threads) as llm:
        for task, prompt in TASKS.items():
            speeds: dict[int, list[float]] = {0: [], 4: [], 8: []}
            right = {}
            answers = set()
            for _ in range(rounds):
                for draft, speed in speeds.items():
                    messages = [{"role": "user", "content": prompt}]
                    answer = llm.chat(messages, max_new_tokens=tokens, draft=draft, **GREEDY)
                    assert answer.perf is not None
                    speed.append(answer.perf.generate_tokens_per_second)
                    right[draft] = answer.perf.accepted_tokens / max(1, answer.perf.drafted_tokens)
                    answers.add(tuple(answer.token_ids.tolist()))
            assert len(answers) == 1
            results[task] = {draft: (statistics.median(speed), right[draft]) for draft, speed in speeds.items()}
    return results


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{'task':<8} {'draft':>5} {'tokens/s':>9} {'x none':>7} {'right':>6}")
    for task, rows in measure(options.model, options.threads, options.tokens, options.rounds).items():
        for draft, (speed, right) in rows.items():
            print(f"{task:<8} {draft:>5} {speed:>9.1f} {speed / rows[0][0]:>7.2f} {100 * right:>5.0f}%")


if __name__ == "__main__":
    main()
