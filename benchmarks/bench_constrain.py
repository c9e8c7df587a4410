# SPDX-License-Identifier: Apache-2.0
"""What does it cost that an answer is constrained?  python benchmarks/bench_constrain.py model.rkllm

"form" is the processor time that the form takes before each token. "decode" is the time per token of the very same
answer without the form: all other tokens are forbidden by masks that were made before. The two take turns; medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rkllm_ext

FORMS: dict[str, dict[str, str]] = {
    "schema": {
        "json_schema": json.dumps(
            {
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
        )
    },
    "any JSON": {"json_schema": "{}"},
    "regex": {"regex": r"([A-Z][a-z]{1,11} ){20}[a-z]+\."},
    "grammar": {"grammar": 'start: item ("\\n" item){15}\nitem: "- " WORDS\nWORDS: /[A-Za-z ]{3,40}/'},
}
MESSAGES = [{"role": "user", "content": "Describe a person: name, age, city, hobbies and address."}]


class Timed:
    """A constraint and the processor time that it takes."""

    def __init__(self, constraint: Callable[[list[int]], bytes | None]) -> None:
        self._constraint = constraint
        self.seconds = 0.0
        self.cut = False

    def __call__(self, tokens: list[int]) -> bytes | None:
        start = time.thread_time()
        mask = self._constraint(tokens)
        self.seconds += time.thread_time() - start
        return mask


def answer(llm: rkllm_ext.LLM, options: dict[str, Any], constraint: Timed) -> tuple[list[int], float]:
    """Return the tokens of an answer and the time of each, milliseconds."""
    prompt, add_bos = llm._conversations.prompt(MESSAGES)
    stream = llm._handle.start(prompt, {**options, "add_bos": add_bos}, rkllm_ext.Stream, constraint=constraint)
    _, ids = stream.collect()
    assert stream.perf is not None
    return ids.tolist(), stream.perf.generate_ms / max(1, stream.perf.generate_tokens)


def known(tokens: list[int], vocab_size: int) -> Timed:
    """Return a constraint that lets just these tokens through."""
    size = 4 * ((vocab_size + 31) // 32)
    masks = iter([(1 << token).to_bytes(size, "little") for token in tokens])
    return Timed(lambda _: next(masks, None))


def measure(path: Path, threads: int, rounds: int, tokens: int) -> dict[str, tuple[int, float, float]]:
    """Return for each form the tokens of its answer, and milliseconds of form and of decode for each."""
    results = {}
    with rkllm_ext.LLM(path, max_context_len=1024, n_threads=threads, max_new_tokens=tokens, seed=7) as llm:
        prompt, add_bos = llm._conversations.prompt(MESSAGES)
        options = {**llm._defaults, "add_bos": add_bos}
        for name, form in FORMS.items():
            forms, decodes, ids = [], [], []
            for _ in range(1 + rounds):  # the first one compiles the form
                timed = Timed(llm._constraint(next(iter(form.items())), prompt, options))
                ids, _ = answer(llm, options, timed)
                forms.append(1000 * timed.seconds / len(ids))
                again, decode = answer(llm, options, known(ids, llm.info.vocab_size))
                decodes.append(decode)
                assert again == ids
            results[name] = (len(ids), statistics.median(forms[1:]), statistics.median(decodes[1:]))
    return results


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = measure(options.model, options.threads, options.rounds, options.tokens)
    if options.json:
        print(json.dumps(results))
        return
    print(f"{'answer':<10} {'tokens':>6} {'form, ms/token':>15} {'decode, ms/token':>17} {'share':>6}")
    for name, (count, form, decode) in results.items():
        print(f"{name:<10} {count:>6} {form:>15.3f} {decode:>17.2f} {100 * form / decode:>5.1f}%")


if __name__ == "__main__":
    main()
