# SPDX-License-Identifier: Apache-2.0
"""What does a token cost on its way to Python? Beside a C callback, and a ctypes callback that feeds a queue.Queue.

The model is tests/abi/standin.c, which computes nothing. "full speed": it sends as fast as it can, and the figure is
wall time per token. The others send one token each millisecond, as a model would. "paced": the figure is processor time
per token, which is what the binding takes away from the model's threads, without what is done once (the difference of
a long and a short run). "busy": another Python thread never rests;
"lagging": the reader sleeps 20 ms at every hundredth token (`generate` and `c` have no reader); the figure of both is
the wall time per token of the library's own loop. The C callback is the floor; the others stand above it.

    python benchmarks/bench_binding.py [--tokens 200000] [--paced 400]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

import rkllm_ext

ABI = Path(__file__).resolve().parent.parent / "tests" / "abi"
WAYS = ["c", "generate", "stream", "astream", "ctypes+queue"]

# The structs that ctypes needs are those of the ABI tests.
_CHILD = """
import asyncio, ctypes, json, queue, sys, threading, time
sys.path.insert(0, sys.argv[1])
from layout import Input, InferParam, Param, Result

way, folder, count, company = sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]
Callback = ctypes.CFUNCTYPE(None, ctypes.POINTER(Result), ctypes.c_void_p, ctypes.c_int)

def never_rest():
    while True:
        sum(range(1000))

def read(position):
    if company == "lagging" and position % 100 == 0:
        time.sleep(0.02)
    return 1

if company == "busy":
    threading.Thread(target=never_rest, daemon=True).start()

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
            counted[0] += read(counted[0])
    counted = [0]
    through_ctypes(put, run)
    return counted[0]

def binding(clock):
    import numpy  # which generate() would import inside the measurement
    from rkllm_ext import LLM
    async def read_all(llm):
        counted = 0
        async for piece in llm.astream("hello"):
            counted += read(counted)
        return counted
    with LLM(folder + "/model.rkllm", max_new_tokens=count) as llm:
        clock()
        if way == "generate":
            return len(llm.generate("hello").token_ids)
        if way == "stream":
            counted = 0
            for piece in llm.stream("hello"):
                counted += read(counted)
            return counted
        return asyncio.run(read_all(llm))

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


def measure(folder: Path, way: str, tokens: int, delay_us: int, company: str = "alone") -> dict[str, float]:
    """Return microseconds per token: wall and processor time of the program, wall time of the library's loop."""
    loop = folder / "loop"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "STANDIN_DELAY_US": str(delay_us)}
    environment["STANDIN_LOOP"] = str(loop)
    command = [sys.executable, "-c", _CHILD, str(ABI), way, str(folder), str(tokens), company]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
    counted, wall, processor = json.loads(done.stdout)
    assert counted == tokens
    times = {"wall": 1e6 * wall, "processor": 1e6 * processor, "loop": int(loop.read_text()) / 1000}
    return {name: time / tokens for name, time in times.items()}


@pytest.mark.bench
@pytest.mark.parametrize("company", ["alone", "busy", "lagging"])
def test_every_way_delivers_every_token(tmp_path: Path, company: str) -> None:
    build(tmp_path)
    for way in WAYS:
        assert min(measure(tmp_path, way, 200, 0, company).values()) > 0


def each_further_token(folder: Path, way: str, tokens: int) -> float:
    """Return the processor time of a paced token, microseconds, without that of what is done once."""
    short, long = (count * measure(folder, way, count, 1000)["processor"] for count in (tokens, 4 * tokens))
    return (long - short) / (3 * tokens)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=200000, help="at full speed")
    parser.add_argument("--paced", type=int, default=400, help="one each millisecond")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        columns: dict[str, Callable[[str], float]] = {
            "full speed, wall": lambda way: measure(folder, way, options.tokens, 0)["wall"],
            "paced, processor": lambda way: each_further_token(folder, way, options.paced),
            "busy, loop": lambda way: measure(folder, way, options.paced, 1000, "busy")["loop"],
            "lagging, loop": lambda way: measure(folder, way, options.paced, 1000, "lagging")["loop"],
        }
        print("microseconds per token above the C callback's, which are in the first row")
        print(f"{'':<14}" + "".join(f"{column:>19}" for column in columns))
        floor: dict[str, float] = {}
        for way in WAYS:
            times = {column: statistics.median(take(way) for _ in range(3)) for column, take in columns.items()}
            print(f"{way:<14}" + "".join(f"{time - floor.get(column, 0):>19.2f}" for column, time in times.items()))
            floor = floor or times


if __name__ == "__main__":
    main()
