# SPDX-License-Identifier: Apache-2.0
"""How fast are several sequences that are decoded together?  python benchmarks/bench_batch.py model.rkllm ...

Each count of sessions decodes the same number of steps behind a prompt of its own; the counts take turns, and the
median of the rounds is given. "x one" is the tokens/s of all sequences over those of one. To compare builds, name the
folders of their librkllmrt.so with --libraries OLD NEW: they take turns as well, each round of each in a process of its
own, and "x first" is the tokens/s over those of the first.
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


def seconds_per_step(llm: rkllm_ext.LLM, count: int, context: int, steps: int) -> float:
    """Return the time of one step of `count` sessions together."""
    random = np.random.default_rng(count)
    vocab = llm.info.vocab_size
    sessions = [llm.session() for _ in range(count)]
    for session in sessions:
        session.prefill(random.integers(0, vocab, context).astype(np.int32))
    tokens = random.integers(0, vocab, (steps + 1, count)).tolist()
    rkllm_ext.step_together(sessions, tokens[0])  # warm
    start = time.perf_counter()
    for row in tokens[1:]:
        rkllm_ext.step_together(sessions, row)
    elapsed = time.perf_counter() - start
    for session in sessions:
        session.close()
    return elapsed / steps


def measure(path: Path, counts: list[int], threads: int, context: int, steps: int, rounds: int) -> dict[int, float]:
    """Return tokens/s of each count of sequences, medians of interleaved rounds."""
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    with rkllm_ext.LLM(path, max_context_len=context + steps + 8, n_threads=threads) as llm:
        for _ in range(rounds):
            for count in counts:
                seconds[count].append(seconds_per_step(llm, count, context, steps))
    return {count: count / statistics.median(times) for count, times in seconds.items()}


def measure_builds(path: Path, options: argparse.Namespace) -> dict[str, dict[int, float]]:
    """Return tokens/s of each build and count, medians of rounds in which the builds take turns."""
    command = [sys.executable, __file__, str(path), "--json", "--rounds", "1", "--counts", *map(str, options.counts)]
    command += ["--threads", str(options.threads), "--context", str(options.context), "--steps", str(options.steps)]
    found: dict[str, dict[int, list[float]]] = {library: defaultdict(list) for library in options.libraries}
    for _ in range(options.rounds):
        for library, speeds in found.items():
            environment = {**os.environ, "LD_LIBRARY_PATH": library}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            for count, speed in json.loads(done.stdout)["tokens_per_second"].items():
                speeds[int(count)].append(speed)
    return {
        library: {count: statistics.median(values) for count, values in speeds.items()}
        for library, speeds in found.items()
    }


def print_builds(builds: dict[str, dict[int, float]]) -> None:
    """Print a table of tokens/s, builds below each other."""
    first = next(iter(builds.values()))
    print(f"{'sequences':>9} {'tokens/s':>9} {'x one':>6} {'x first':>8}")
    for library, speeds in builds.items():
        one = next(iter(speeds.values()))
        for count, speed in speeds.items():
            print(f"{count:>9} {speed:>9.1f} {speed / one:>6.2f} {speed / first[count]:>8.2f}  {library}")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--libraries", nargs="+", default=[], metavar="FOLDER")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for path in options.models:
        if options.libraries:
            print(f"{path.name}, {options.threads} threads, context {options.context}")
            print_builds(measure_builds(path, options))
            continue
        speeds = measure(path, options.counts, options.threads, options.context, options.steps, options.rounds)
        if options.json:
            print(json.dumps({"model": path.name, "threads": options.threads, "tokens_per_second": speeds}))
            continue
        print(f"{path.name}, {options.threads} threads, context {options.context}")
        print(f"{'sequences':>9} {'tokens/s':>9} {'x one':>6}")
        for count, speed in speeds.items():
            print(f"{count:>9} {speed:>9.1f} {speed / speeds[options.counts[0]]:>6.2f}")


if __name__ == "__main__":
    main()
