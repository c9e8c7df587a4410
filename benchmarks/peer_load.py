# SPDX-License-Identifier: Apache-2.0
"""How long until the first token, in how much memory, beside llama.cpp?  python benchmarks/peer_load.py [MODEL ...]

Needs `llama-cpp-python`. Each try is a process of its own: once its modules are imported, the time from opening the
model to the logits of a one-token prompt, and the memory that is then the process's own (private pages, less those
before the model was opened). The sides take turns with the files in the page cache; figures are medians. Models are
those of `peer_llama_cpp.py`, whose files are made where they are missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from peer_llama_cpp import SHAPES, Ours, Peer, numbers, prepare


def private_mb() -> float:
    """Return the megabytes of this process that no other shares and that no file holds."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1000


def once(side: str, path: Path, n_threads: int, context: int) -> None:
    """Open a model, compute one token and print what it took."""
    if side == "llama.cpp":
        import llama_cpp  # noqa: F401  its import is not part of the figure
    else:
        import rkllm_ext.llm  # noqa: F401
    before = private_mb()
    start = time.perf_counter()
    opened = (Peer if side == "llama.cpp" else Ours)(path, n_threads, context)
    opened.run(np.array([100], np.int32), True)
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, private_mb() - before]))
    opened.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=["smollm2-135m", "qwen2-0.5b"], help=", ".join(SHAPES))
    parser.add_argument("--types", default="q4_0,q8_0,f16")
    parser.add_argument("--threads", type=numbers, default=[2])
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("peer-models"), help="where the files are kept")
    parser.add_argument("--once", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        once(arguments.once[0], Path(arguments.once[1]), arguments.threads[0], arguments.context)
        return
    print(f"{'model':15} {'type':5} {'th':2} {'question':12} {'llama.cpp':>10} {'rkllm_ext':>10} {'ratio':>7}")
    for name in arguments.models:
        for kind in arguments.types.split(","):
            files = prepare(name, kind, arguments.folder)
            for n_threads in arguments.threads:
                tries: list[list[list[float]]] = [[], []]
                for _ in range(arguments.repeats):
                    for side, path, of_side in zip(("llama.cpp", "rkllm_ext"), files, tries):
                        command = [sys.executable, __file__, "--once", side, str(path), "--threads", str(n_threads)]
                        command += ["--context", str(arguments.context)]
                        result = subprocess.run(command, check=True, capture_output=True, text=True)
                        of_side.append(json.loads(result.stdout.splitlines()[-1]))
                for i, question in enumerate(("seconds", "private MB")):
                    peer, ours = (statistics.median(t[i] for t in of_side) for of_side in tries)
                    print(
                        f"{name:15} {kind:5} {n_threads:2d} {question:12} {peer:10.3f} {ours:10.3f} {ours / peer:7.2f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
