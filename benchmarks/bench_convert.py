# SPDX-License-Identifier: Apache-2.0
"""How much memory does a conversion need, and how fast is it? A few tensors, whatever the depth of the model.

Random Llama checkpoints of growing depth are written and converted, each conversion in a process of its own, whose peak
of anonymous memory is read from the kernel: the pages of mapped files, which the kernel may drop, are not counted.

    python benchmarks/bench_convert.py [--dim 512] [--layers 2,8,32] [--dtype w4a16_g32]

With --source, a checkpoint is converted instead, and the speed is in bytes of its files, the time of the whole
process's threads beside it: what an idle machine needs lies between that time divided by its cores and the time itself.

    python benchmarks/bench_convert.py --source DIR [--dtype w4a16_g32] [--rounds 3]

With --peer, llama.cpp's quantizer (`llama-cpp-python`) takes turns with ours on an f16 GGUF file, with as many threads.

    python benchmarks/bench_convert.py --source MODEL-f16.gguf --peer Q4_0 [--dtype w4a16_g32] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rkllm_ext.readers import open_checkpoint

DATA = Path(__file__).resolve().parent.parent / "tests" / "data" / "tiny-llama"

# Samples RssAnon in a thread: VmHWM would count file pages, too.
_CHILD = """
import json, re, sys, threading, time
{imports}

def anonymous():
    with open("/proc/self/status") as file:
        return int(re.search(r"RssAnon:\\s+(\\d+)", file.read()).group(1)) * 1024

before = peak = anonymous()
done = threading.Event()
def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, anonymous())
thread = threading.Thread(target=watch)
thread.start()
wall, started = time.perf_counter(), time.process_time()
{work}
figures = {{"seconds": time.perf_counter() - wall, "processor": time.process_time() - started}}
done.set()
thread.join()
print(json.dumps({{"peak": peak - before, **figures}}))
"""
_OURS = _CHILD.format(
    imports="import gguf, safetensors\nfrom rkllm_ext.convert import convert", work="convert(*sys.argv[1:4])"
)
_PEER = _CHILD.format(
    imports="""
import ctypes, os
import llama_cpp
settings = llama_cpp.llama_model_quantize_default_params()
settings.ftype = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + sys.argv[3])
settings.nthread = os.cpu_count()
ignore = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(ignore, ctypes.c_void_p(0))
""",
    work="assert llama_cpp.llama_model_quantize(*map(str.encode, sys.argv[1:3]), ctypes.byref(settings)) == 0",
)


def write_checkpoint(folder: Path, dim: int, layers: int) -> int:
    """Write a random float32 checkpoint and return the bytes of its largest tensor."""
    config = json.loads((DATA / "config.json").read_text())
    vocab, ffn, kv = config["vocab_size"], 4 * dim, dim // 2
    config |= {"hidden_size": dim, "intermediate_size": ffn, "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((DATA / name).read_bytes())
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((ffn, dim), np.float32)
    shapes = {"q": (dim, dim), "k": (kv, dim), "v": (kv, dim), "o": (dim, dim)}
    tensors = {"model.embed_tokens.weight": rng.standard_normal((vocab, dim), np.float32)}
    tensors["model.norm.weight"] = np.ones(dim, np.float32)
    for i in range(layers):
        layer = f"model.layers.{i}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}{name}.weight"] = np.ones(dim, np.float32)
        for name, shape in shapes.items():
            tensors[f"{layer}self_attn.{name}_proj.weight"] = matrix[: shape[0]]
        for name in ("gate", "up"):
            tensors[f"{layer}mlp.{name}_proj.weight"] = matrix
        tensors[f"{layer}mlp.down_proj.weight"] = matrix.reshape(dim, ffn)
    save_file(tensors, folder / "model.safetensors")
    return max(array.nbytes for array in tensors.values())


def converted(source: Path, dtype: str, program: str = _OURS) -> dict[str, float]:
    """Return the figures of one conversion, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", program, str(source), str(Path(folder) / "out"), dtype]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def measure(dim: int, depths: list[int], dtype: str) -> Iterator[dict[str, float]]:
    """Yield, for each depth, the figures of one conversion; memory in multiples of the largest tensor."""
    for layers in depths:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            largest = write_checkpoint(folder, dim, layers)
            figures = converted(folder, dtype)
            size = (folder / "model.safetensors").stat().st_size
            yield {"layers": layers, "model": size, "largest": largest, "ratio": figures["peak"] / largest, **figures}


@pytest.mark.bench
@pytest.mark.parametrize("dtype", ["fp16", "w8a8", "w4a16_g32"])
def test_peak_memory_is_a_few_tensors_whatever_the_depth(dtype: str) -> None:
    shallow, deep = measure(512, [2, 16], dtype)
    assert deep["model"] > 7 * shallow["model"]
    assert deep["ratio"] < 3
    assert deep["ratio"] < shallow["ratio"] + 0.5


def speeds(source: Path, dtype: str, rounds: int) -> None:
    """Print the figures of a few conversions of one source."""
    with open_checkpoint(source) as checkpoint:
        size = checkpoint.total_bytes
    print(f"{source}: {size / 1e9:.3f} GB to {dtype}, {os.cpu_count()} cores")
    for _ in range(rounds):
        row = converted(source, dtype)
        print(
            f"{row['seconds']:.2f} s, {size / 1e9 / row['seconds']:.2f} GB/s, {row['processor']:.2f} s of processors, "
            f"peak {row['peak'] / 1e6:.0f} MB, load {os.getloadavg()[0]:.1f}"
        )


def beside_peer(source: Path, dtype: str, kind: str, rounds: int) -> None:
    """Print medians of both sides, which take turns, and their ratios; the first round does not count."""
    programs = {f"llama.cpp {kind}": (kind, _PEER), dtype: (dtype, _OURS)}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    for turn in range(rounds + 1):
        for name, (wanted, program) in programs.items():
            found = converted(source, wanted, program)
            if turn:
                rows[name].append(found)
    print(f"{source.name}: {source.stat().st_size / 1e9:.3f} GB, {rounds} rounds, load {os.getloadavg()[0]:.1f}")
    medians = [{key: statistics.median(row[key] for row in side) for key in side[0]} for side in rows.values()]
    for name, row in zip(rows, medians):
        print(f"{name:15} {row['seconds']:.2f} s, {row['processor']:.2f} s of processors, {row['peak'] / 1e6:.0f} MB")
    print("ours is", ", ".join(f"{peer / ours:.2f} x in {key}" for key, peer, ours in _ratios(*medians)))


def _ratios(peer: dict[str, float], ours: dict[str, float]) -> Iterator[tuple[str, float, float]]:
    for key in ("seconds", "processor", "peak"):
        yield key, peer[key], ours[key]


def main() -> None:
    """Print a table, or the figures of one source."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--layers", default="2,8,32")
    parser.add_argument("--dtype", default="w4a16_g32")
    parser.add_argument("--source", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", default="", help="a type of llama.cpp, as Q4_0")
    options = parser.parse_args()
    if options.peer:
        beside_peer(options.source, options.dtype, options.peer, options.rounds)
        return
    if options.source is not None:
        speeds(options.source, options.dtype, options.rounds)
        return
    print(f"{'layers':>6} {'model MB':>9} {'largest tensor MB':>18} {'peak MB':>8} {'peak/tensor':>12} {'seconds':>8}")
    for row in measure(options.dim, [int(part) for part in re.split(r"\D+", options.layers)], options.dtype):
        megabytes = [row[name] / 1e6 for name in ("model", "largest", "peak")]
        print(
            f"{row['layers']:>6} {megabytes[0]:>9.1f} {megabytes[1]:>18.1f} {megabytes[2]:>8.1f} "
            f"{row['ratio']:>12.1f} {row['seconds']:>8.2f}"
        )


if __name__ == "__main__":
    main()
