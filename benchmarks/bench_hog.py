# SPDX-License-Identifier: Apache-2.0
"""What does decoding lose when another program holds one of its cores?  python benchmarks/bench_hog.py MODEL.rkllm

The other program is a busy loop on one processor, stopped and continued from turn to turn, so that both figures see the
same machine. With two threads on two processors at least half of the speed should be left. Afterwards: the processor
time that the idle library takes in a second, which should be none.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time

import numpy as np

import rkllm_ext

HOG = "import os, sys\nos.sched_setaffinity(0, [int(sys.argv[1])])\nwhile True: pass"


def tokens_per_second(llm: rkllm_ext.LLM, n_tokens: int) -> float:
    ids = np.arange(5, 21, dtype=np.int32)
    perf = llm.generate(ids, max_new_tokens=n_tokens, temperature=0.0, ignore_eos=True).perf
    assert perf is not None
    return perf.generate_tokens_per_second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    cpu = max(os.sched_getaffinity(0))
    speeds: dict[bool, list[float]] = {False: [], True: []}
    with rkllm_ext.LLM(
        arguments.model, max_context_len=arguments.tokens + 32, n_threads=arguments.threads, reuse_prefix=False
    ) as llm:
        tokens_per_second(llm, arguments.tokens)
        with subprocess.Popen([sys.executable, "-c", HOG, str(cpu)]) as hog:
            try:
                for _ in range(arguments.rounds):
                    for busy in (False, True):
                        hog.send_signal(signal.SIGCONT if busy else signal.SIGSTOP)
                        time.sleep(0.1)
                        speeds[busy].append(tokens_per_second(llm, arguments.tokens))
            finally:
                hog.kill()
        before = time.process_time()
        time.sleep(1.0)
        idle = time.process_time() - before
    alone, shared = (statistics.median(speeds[busy]) for busy in (False, True))
    print(f"{arguments.threads} threads alone {alone:.1f} tokens/s, beside a hog on cpu {cpu} {shared:.1f}")
    print(f"left: {100 * shared / alone:.0f} %; each round: ", end="")
    print(", ".join(f"{100 * b / a:.0f} %" for a, b in zip(speeds[False], speeds[True])))
    print(f"processor time of a second of idleness: {1000 * idle:.2f} ms")


if __name__ == "__main__":
    main()
