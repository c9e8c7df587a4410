# SPDX-License-Identifier: Apache-2.0
"""How fast beside llama.cpp?  python benchmarks/peer_llama_cpp.py [smollm2-135m qwen2-0.5b ...] [--threads 1,2]

Needs `llama-cpp-python`, built from source for this processor. Both sides read the same GGUF file (ours converts it),
with random weights in the shape of a real model, since speed does not depend on the values; they take turns in one
run, and each figure is a ratio of medians. Decode is a pass for one token, prefill one for a prompt, both up to the
logits of the last position, without sampling. The last column of decode is what this engine reads of its weights per
second, as a share of what the same threads read at most in plain loops before and after the turns.

`--anew` writes all files once more before they are measured, both sides' in the same way, in pieces of 4 MB: Linux then
keeps them in huge pages, as far as it can, so that the figures do not depend on how the files came into its memory.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

import rkllm_ext
from rkllm_ext import _rkllm

TYPES = {
    "q4_0": (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q8_0, "w4a16_g32"),
    "q8_0": (GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q8_0, "w8a8"),
    "f16": (GGMLQuantizationType.F16, GGMLQuantizationType.F16, "fp16"),
}
ACTIVATIONS = {"q4_0-int8": "int8"}  # the files of the type before the hyphen, run with others than the format's


@dataclass(frozen=True)
class Shape:
    """The numbers of a published model."""

    arch: str
    layers: int
    dim: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    tied: bool
    biases: bool


SHAPES = {
    "smollm2-135m": Shape("llama", 30, 576, 9, 3, 1536, 49152, True, False),
    "qwen2-0.5b": Shape("qwen2", 24, 896, 14, 2, 4864, 151936, True, True),
    "tinyllama-1.1b": Shape("llama", 22, 2048, 32, 4, 5632, 32000, False, False),
    "qwen2-1.5b": Shape("qwen2", 28, 1536, 12, 2, 8960, 151936, True, True),
}


def write_model(shape: Shape, kind: str, path: Path) -> None:
    """Write a GGUF file of a shape; its rows repeat, so that it is made quickly."""
    weights, embedding, _ = TYPES[kind]
    random = np.random.default_rng(0)
    writer = GGUFWriter(path, shape.arch)
    writer.add_block_count(shape.layers)
    writer.add_embedding_length(shape.dim)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_context_length(8192)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm" if shape.arch == "llama" else "qwen2")
    writer.add_token_list([*letters, "ab", *(f"<{i}>" for i in range(shape.vocab - len(letters) - 1))])
    writer.add_token_types([1] * shape.vocab)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)

    def matrix(name: str, rows: int, cols: int, wanted: GGMLQuantizationType) -> None:
        some = quantize((random.standard_normal((16, cols)) * 0.05).astype(np.float32), wanted)
        writer.add_tensor(name, np.tile(some, (rows // 16 + 1, 1))[:rows], raw_dtype=wanted)

    def vector(name: str, n: int) -> None:
        writer.add_tensor(name, np.ones(n, np.float32))

    kv = shape.dim // shape.heads * shape.kv_heads
    matrix("token_embd.weight", shape.vocab, shape.dim, embedding)
    vector("output_norm.weight", shape.dim)
    if not shape.tied:
        matrix("output.weight", shape.vocab, shape.dim, embedding)
    for i in range(shape.layers):
        for name, rows, cols in [
            ("attn_q", shape.dim, shape.dim),
            ("attn_k", kv, shape.dim),
            ("attn_v", kv, shape.dim),
            ("attn_output", shape.dim, shape.dim),
            ("ffn_gate", shape.ffn, shape.dim),
            ("ffn_up", shape.ffn, shape.dim),
            ("ffn_down", shape.dim, shape.ffn),
        ]:
            matrix(f"blk.{i}.{name}.weight", rows, cols, weights)
            if shape.biases and name in ("attn_q", "attn_k", "attn_v"):
                vector(f"blk.{i}.{name}.bias", rows)
        vector(f"blk.{i}.attn_norm.weight", shape.dim)
        vector(f"blk.{i}.ffn_norm.weight", shape.dim)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def prepare(name: str, kind: str, folder: Path) -> tuple[Path, Path]:
    """Make the files of both sides where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    gguf, ours = (folder / f"{name}-{kind}.{suffix}" for suffix in ("gguf", "rkllm"))
    if not gguf.exists():
        write_model(SHAPES[name], kind, gguf)
    if not ours.exists():
        rkllm_ext.convert(gguf, ours, TYPES[kind][2])
    return gguf, ours


class Peer:
    """llama.cpp with one context."""

    def __init__(self, path: Path, n_threads: int, context: int) -> None:
        from llama_cpp import Llama, llama_cpp

        self.api: Any = llama_cpp
        self.llama: Any = Llama(
            str(path),
            n_ctx=context,
            n_batch=512,
            n_ubatch=512,
            n_threads=n_threads,
            n_threads_batch=n_threads,
            verbose=False,
        )

    def run(self, ids: np.ndarray, anew: bool) -> float:
        api, context = self.api, self.llama.ctx
        if anew:
            api.llama_memory_clear(api.llama_get_memory(context), True)
        start = time.perf_counter()
        for at in range(0, len(ids), 512):
            part = np.ascontiguousarray(ids[at : at + 512])
            batch = api.llama_batch_get_one(part.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)), len(part))
            if api.llama_decode(context, batch) != 0:
                raise SystemExit("llama.cpp: llama_decode failed")
        api.llama_get_logits_ith(context, -1)  # waits for the result
        return time.perf_counter() - start

    def close(self) -> None:
        self.llama.close()


class Ours:
    """This engine with one session."""

    def __init__(self, path: Path, n_threads: int, context: int, activations: str | None = None) -> None:
        self.llm = rkllm_ext.LLM(path, n_threads=n_threads, max_context_len=context, activations=activations)
        self.session = self.llm.session()

    def run(self, ids: np.ndarray, anew: bool) -> float:
        if anew:
            self.session.truncate(0)
        start = time.perf_counter()
        if anew:
            self.session.prefill(ids)
        else:
            for token in ids:
                self.session.step(int(token))
        return time.perf_counter() - start

    def close(self) -> None:
        self.session.close()
        self.llm.close()


def write_anew(path: Path) -> None:
    """Replace a file by a copy that was written in large pieces."""
    copy = path.with_suffix(".copy")
    with path.open("rb") as source, copy.open("wb", buffering=0) as target:
        while piece := source.read(4 << 20):
            target.write(piece)
    copy.replace(path)


def median_seconds(sides: list[Any], repeats: int, work: Callable[[Any], float]) -> list[float]:
    """Return the median of each side, which take turns; the first turn does not count."""
    seconds: list[list[float]] = [[] for _ in sides]
    for repeat in range(repeats + 1):
        for side, list_ in zip(sides, seconds):
            taken = work(side)
            if repeat > 0:
                list_.append(taken)
    return [statistics.median(list_) for list_ in seconds]


def compare(name: str, kind: str, n_threads: int, arguments: argparse.Namespace, written: set[Path]) -> None:
    """Print one row for each question of a model, a type and a number of threads; written: files written anew."""
    files = prepare(name, kind.split("-")[0], arguments.folder)
    for path in set(files) - written if arguments.anew else ():
        write_anew(path)
        written.add(path)
    gguf, ours = files
    context = max(*arguments.contexts, *arguments.prompts) + arguments.decoded * (arguments.repeats + 2)
    sides = [Peer(gguf, n_threads, context), Ours(ours, n_threads, context, ACTIVATIONS.get(kind))]
    random = np.random.default_rng(1)
    try:
        for n in arguments.prompts:
            prompt = random.integers(100, 1000, n).astype(np.int32)
            seconds = median_seconds(sides, arguments.repeats, functools.partial(prefill, prompt))
            print_row(name, kind, n_threads, f"prefill {n}", n, seconds)
        for n in arguments.contexts:
            for side in sides:
                side.run(random.integers(100, 1000, n).astype(np.int32), True)
            most_gbs = _rkllm.limits(n_threads)[0]
            seconds = median_seconds(sides, arguments.repeats, functools.partial(decode, arguments.decoded))
            most_gbs = max(most_gbs, _rkllm.limits(n_threads)[0])
            share = sides[1].llm.info.weight_bytes / 1e9 / seconds[1] / most_gbs
            print_row(
                name, kind, n_threads, f"decode at {n}", 1, seconds, f"{100 * share:7.0f} % of {most_gbs:.0f} GB/s"
            )
    finally:
        for side in sides:
            side.close()


def prefill(ids: np.ndarray, side: Any) -> float:
    return side.run(ids, True)


def decode(n: int, side: Any) -> float:
    return sum(side.run(np.array([500], np.int32), False) for _ in range(n)) / n


def print_row(
    name: str, kind: str, n_threads: int, question: str, tokens: int, seconds: list[float], remark: str = ""
) -> None:
    peer, ours = (tokens / s for s in seconds)
    row = f"{name:15} {kind:9} {n_threads:2d} {question:15} {peer:10.1f} {ours:10.1f} {ours / peer:7.2f}"
    print(row + remark, flush=True)


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=["smollm2-135m", "qwen2-0.5b"], help=", ".join(SHAPES))
    parser.add_argument("--types", default="q4_0,q4_0-int8,q8_0,f16")
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--prompts", type=numbers, default=[128, 512, 2048])
    parser.add_argument("--contexts", type=numbers, default=[16, 1024])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--decoded", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path("peer-models"), help="where the files are kept")
    parser.add_argument("--anew", action="store_true", help="write the files once more, before they are measured")
    arguments = parser.parse_args()
    print(f"rkllm_ext {rkllm_ext.__version__} ({_rkllm.active_isa()}) against llama.cpp; tokens per second, medians")
    print(f"{'model':15} {'type':9} {'th':2} {'question':15} {'llama.cpp':>10} {'rkllm_ext':>10} {'ratio':>7}")
    written: set[Path] = set()
    for name in arguments.models:
        for kind in arguments.types.split(","):
            for n_threads in arguments.threads:
                compare(name, kind, n_threads, arguments, written)


if __name__ == "__main__":
    main()
