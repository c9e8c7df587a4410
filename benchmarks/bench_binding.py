# SPDX-License-Identifier: Apache-2.0
"""What does a token cost on its way to Python? Beside a C callback, and a ctypes callback that feeds a queue.Queue.

The model is tests/abi/standin.c, which computes nothing. "full speed": it sends as fast as it can, and the figure is
wall time per token. "paced": it sends one token each millisecond, as a model would, and the figure is processor time
per token, which is what the binding takes away from the model's threads. The C callback is the floor; the others stand
above it.

    python benchmarks/bench_binding.py [--tokens 200000] [--paced 1000]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import rkllm_ext

ABI = Path(__file__).resolve().parent.parent / "tests" / "abi"
WAYS = ["c", "generate", "stream", "astream", "ctypes+queue"]

# The structs that ctypes needs are those of the ABI tests.
_CHILD = """
import asyncio, ctypes, json, queue, sys, time
sys.path.insert(0, sys.argv[1])
from layout import Input, InferParam, Param, Result

way, folder, count = sys.argv[2], sys.argv[3], int(sys.argv[4])
Callback = ctypes.CFUNCTYPE(None, ctypes.POINTER(Result), ctypes.c_void_p, ctypes.c_int)

def through_ctypes(callback, run):
    library = ctypes.CDLL(folder + "/librkllmrt.so")
    library.rkllm_createDefaultParam.restype = Param
    param, handle = library.rkllm_createDefaultParam(), ctypes.c_void_p()
    param.model_path, param.max_new_tokens = (folder + "/model.rkllm").encode(), count
    assert library.rkllm_init(ctypes.byref(handle), ctypes.byref(param), callback) == 0
    given = Input(input_type=0)
    given.prompt_input = b"hello"
    run(library, handle, ctypes.byref(given), ctypes.byref(InferParam()))

def c(clock):
    counter = ctypes.CDLL(folder + "/counter.so")
    def run(library, *arguments):
        clock()
        library.rkllm_run(*arguments, None)
    through_ctypes(counter.count, run)
    return ctypes.c_long.in_dll(counter, "tokens").value

def ctypes_queue(clock):
    pieces = queue.Queue()
    @Callback
    def put(result, userdata, state):
        pieces.put((result[0].text.decode(), result[0].token_id) if state < 2 else None)
    def run(library, *arguments):
        clock()
        assert library.rkllm_run_async(*arguments, None) == 0
        while pieces.get() is not None:
            counted[0] += 1
    counted = [0]
    through_ctypes(put, run)
    return counted[0]

def binding(clock):
    import numpy  # which generate() would import inside the measurement
    from rkllm_ext import LLM
    async def read(llm):
        return len([None async for piece in llm.astream("hello") if piece.text is not None])
    with LLM(folder + "/model.rkllm", max_new_tokens=count) as llm:
        clock()
        if way == "generate":
            return len(llm.generate("hello").token_ids)
        if way == "stream":
            return len([None for piece in llm.stream("hello") if piece.text is not None])
        return asyncio.run(read(llm))

started = [0.0, 0.0]
def clock():
    started[:] = time.perf_counter(), time.process_time()

tokens = {"c": c, "ctypes+queue": ctypes_queue}.get(way, binding)(clock)
print(json.dumps([tokens, time.perf_counter() - started[0], time.process_time() - started[1]]))
"""
_COUNTER = """
#include "rkllm.h"
long tokens;
void count(RKLLMResult* result, void* userdata, LLMCallState state);
void count(RKLLMResult* result, void* userdata, LLMCallState state) {
  (void)result; (void)userdata;
  if (state < RKLLM_RUN_FINISH) ++tokens;
}
"""


def build(folder: Path) -> None:
    """Compile the stand-in and the counting callback."""
    (folder / "model.rkllm").write_bytes(b"anything")
    (folder / "counter.c").write_text(_COUNTER)
    for source, name in ((ABI / "standin.c", "librkllmrt.so"), (folder / "counter.c", "counter.so")):
        command = [os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-lpthread"]
        command += [f"-I{rkllm_ext.get_include()}", str(source), "-o", str(folder / name)]
        subprocess.run(command, check=True)


def measure(folder: Path, way: str, tokens: int, delay_us: int) -> tuple[float, float]:
    """Return wall and processor time per token, microseconds."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "STANDIN_DELAY_US": str(delay_us)}
    command = [sys.executable, "-c", _CHILD, str(ABI), way, str(folder), str(tokens)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
    counted, wall, processor = json.loads(done.stdout)
    assert counted == tokens
    return 1e6 * wall / tokens, 1e6 * processor / tokens


@pytest.mark.bench
def test_every_way_delivers_every_token(tmp_path: Path) -> None:
    build(tmp_path)
    for way in WAYS:
        assert min(measure(tmp_path, way, 5000, 0)) > 0


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=200000, help="at full speed")
    parser.add_argument("--paced", type=int, default=1000, help="one each millisecond")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        build(Path(name))
        print(f"{'way':<14} {'full speed, us wall':>20} {'above C':>9} {'paced, us processor':>20} {'above C':>9}")
        floor = (0.0, 0.0)
        for way in WAYS:
            fast = min(measure(Path(name), way, options.tokens, 0)[0] for _ in range(3))
            paced = min(measure(Path(name), way, options.paced, 1000)[1] for _ in range(3))
            floor = (fast, paced) if way == "c" else floor
            print(f"{way:<14} {fast:>20.3f} {fast - floor[0]:>9.3f} {paced:>20.2f} {paced - floor[1]:>9.2f}")


if __name__ == "__main__":
    main()
