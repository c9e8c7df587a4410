# SPDX-License-Identifier: Apache-2.0
"""What does it cost that an answer is constrained?  python benchmarks/bench_constrain.py model.rkllm

An answer is generated with each form, and the very tokens of it are then decoded again without one: both runs choose
the same tokens, the second because all others are forbidden to it by a mask that costs nothing to compute. The two take
turns; medians of the time per token. "of decode" is what the form adds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

import rkllm_ext

FORMS: dict[str, dict[str, Any]] = {
    "schema": {
        "json_schema": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "age": {"type": "integer", "minimum": 0, "maximum": 150},
                "city": {"enum": ["Berlin", "Paris", "Tokyo"]},
                "hobbies": {"type": "array", "items": {"type": "string"}, "minItems": 2},
                "address": {
                    "type": "object",
                    "properties": {"street": {"type": "string"}, "number": {"type": "integer"}},
                    "required": ["street", "number"],
                },
            },
            "required": ["name", "age", "city", "hobbies", "address"],
            "additionalProperties": False,
        }
    },
    "any JSON": {"json_schema": {}},
    "regex": {"regex": r"([A-Z][a-z]{1,11} ){20}[a-z]+\."},
    "grammar": {"grammar": 'start: item ("\\n" item){15}\nitem: "- " WORDS\nWORDS: /[A-Za-z ]{3,40}/'},
}
MESSAGES = [{"role": "user", "content": "Describe a person: name, age, city, hobbies and address."}]


def milliseconds(llm: rkllm_ext.LLM, settings: dict[str, Any]) -> tuple[float, list[int]]:
    """Return the decode time per token of an answer, and its tokens."""
    answer = llm.chat(MESSAGES, **settings)
    assert answer.perf is not None
    return answer.perf.generate_ms / max(1, answer.perf.generate_tokens), answer.token_ids.tolist()


def replay(llm: rkllm_ext.LLM, tokens: list[int], settings: dict[str, Any]) -> float:
    """Return the decode time per token of the same answer without its form."""
    words = 4 * ((llm.info.vocab_size + 31) // 32)
    masks = [(1 << token).to_bytes(words, "little") for token in tokens]

    class Known:
        cut = False

        def __call__(self, _: list[int]) -> bytes | None:
            return masks.pop(0) if masks else None

    prompt, add_bos = llm._prompt(MESSAGES)
    options = {**llm._defaults, **settings, "add_bos": add_bos}
    stream = llm._handle.start(prompt, options, rkllm_ext.Stream, constraint=Known())
    _, ids = stream.collect()
    assert ids.tolist() == tokens
    assert stream.perf is not None
    return stream.perf.generate_ms / max(1, stream.perf.generate_tokens)


def measure(path: Path, threads: int, rounds: int, tokens: int) -> dict[str, tuple[float, float, int]]:
    """Return milliseconds per token of each form with and without it, and the tokens of its answer."""
    results = {}
    with rkllm_ext.LLM(path, max_context_len=1024, n_threads=threads) as llm:
        settings = {"max_new_tokens": tokens, "seed": 7, "temperature": 0.7}
        for name, form in FORMS.items():
            milliseconds(llm, {**settings, **form})  # compiles the form
            pairs, ids = [], []
            for _ in range(rounds):
                with_form, ids = milliseconds(llm, {**settings, **form})
                pairs.append((with_form, replay(llm, ids, settings)))
            results[name] = (
                statistics.median(pair[0] for pair in pairs),
                statistics.median(pair[1] for pair in pairs),
                len(ids),
            )
    return results


@pytest.mark.bench
def test_every_form_is_measured(tiny_model: Path) -> None:
    pytest.importorskip("llguidance")
    assert min(row[0] for row in measure(tiny_model, 1, 1, 40).values()) > 0


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = measure(options.model, options.threads, options.rounds, options.tokens)
    if options.json:
        print(json.dumps(results))
        return
    print(f"{'form':<10} {'tokens':>6} {'ms/token':>9} {'without':>8} {'of decode':>9}")
    for name, (with_form, without, count) in results.items():
        print(f"{name:<10} {count:>6} {with_form:>9.2f} {without:>8.2f} {100 * (with_form / without - 1):>8.1f}%")


if __name__ == "__main__":
    main()
