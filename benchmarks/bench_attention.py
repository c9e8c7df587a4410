# SPDX-License-Identifier: Apache-2.0
"""What does a longer context cost?  python benchmarks/bench_attention.py MODEL.rkllm [--kv-types f16,int8]

Prints CPU seconds of a prefill and CPU milliseconds of a decoded token for growing contexts, with one thread: CPU time
suffers less than wall time from whatever else the machine does. To compare builds, name the folders of their
librkllmrt.so with --libraries OLD NEW: each figure is then taken from both in turns, and the table has their medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

import rkllm_ext

GREEDY = {"temperature": 0.0, "repeat_penalty": 1.0, "ignore_eos": True}
DECODED = 32


def measure(path: Path, kv_type: str, prefills: list[int], contexts: list[int]) -> dict[str, float]:
    """Return {"prefill N": CPU seconds, "decode at N": CPU milliseconds per token}."""
    figures = {}
    longest = max(*prefills, *[context + DECODED for context in contexts]) + 2
    with rkllm_ext.LLM(path, max_context_len=longest, n_threads=1, kv_type=kv_type) as llm:
        ids = np.random.default_rng(0).integers(0, llm.info.vocab_size, longest).astype(np.int32)
        llm.generate(ids[-8:], max_new_tokens=4, **GREEDY)

        def seconds(n: int, new_tokens: int) -> float:
            started = time.process_time()
            llm.generate(ids[:n], max_new_tokens=new_tokens, **GREEDY)
            return time.process_time() - started

        for n in sorted(prefills):
            llm.generate(ids[-8:], max_new_tokens=1, **GREEDY)  # nothing to reuse
            figures[f"prefill {n}"] = seconds(n, 1)
        for n in sorted(contexts, reverse=True):
            seconds(n, 1)  # only the last position is computed again by the next run
            figures[f"decode at {n}"] = 1000 * seconds(n, DECODED + 1) / (DECODED + 1)
    return figures


def measure_with(library: str, arguments: argparse.Namespace, kv_type: str) -> dict[str, float]:
    """The same, in a process of its own that loads librkllmrt.so from a folder ("": the installed one)."""
    command = [sys.executable, __file__, str(arguments.model), "--child", kv_type]
    command += ["--prefills", arguments.prefills, "--contexts", arguments.contexts]
    environment = {**os.environ, "LD_LIBRARY_PATH": library} if library else dict(os.environ)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def counts(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prefills", default="512,2048")
    parser.add_argument("--contexts", default="16,1536,4096")
    parser.add_argument("--kv-types", default="f16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--libraries", nargs="+", default=[""], metavar="FOLDER")
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        lengths = counts(arguments.prefills), counts(arguments.contexts)
        print(json.dumps(measure(arguments.model, arguments.child, *lengths)))
        return
    cases = [(kv_type, library) for kv_type in arguments.kv_types.split(",") for library in arguments.libraries]
    found: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(arguments.rounds):
        for kv_type, library in cases:
            for name, value in measure_with(library, arguments, kv_type).items():
                found[name][kv_type, library].append(value)
    print("| | " + " | ".join(" ".join(part for part in case if part) for case in cases) + " |")
    print("|---|" + "--:|" * len(cases))
    for name, values in found.items():
        print(f"| {name} | " + " | ".join(f"{statistics.median(values[case]):.3f}" for case in cases) + " |")


if __name__ == "__main__":
    main()
