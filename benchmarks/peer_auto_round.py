# SPDX-License-Identifier: Apache-2.0
"""gdq beside auto-round: the same model, bits, group and calibration sequences, perplexity of both by the engine.

    python benchmarks/peer_auto_round.py MODEL_DIR --dataset texts.json --text FILE [--dtype w4a16_g32] [--steps 50]

Needs `auto-round` and `transformers`. MODEL_DIR is a Hugging Face folder. Both learn each block in the same number of
steps of 4 sequences, symmetric codes of 4 bits, on one thread; times are of the processor. auto-round's checkpoint is
imported as it is: its codes and scales stay. The embedding and the output matrix are rounded alike for both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import rkllm_ext
from rkllm_ext import _rkllm
from rkllm_ext.evaluate import perplexity
from rkllm_ext.quant.calibration import LENGTH, sequences
from rkllm_ext.quant.dataset import read_texts
from rkllm_ext.quant.formats import formats


@contextmanager
def timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    started = time.process_time()
    yield
    seconds[name] = time.process_time() - started


def calibration(model: Path, dataset: Path) -> list[np.ndarray]:
    """Return the sequences that gdq learns from, those of full length."""
    with closing(_rkllm.Handle(model, max_context_len=LENGTH)) as handle:
        found = sequences(handle, read_texts(dataset))
    return [ids for ids in found if len(ids) == len(found[0])]


def quantized_by_peer(source: Path, out: Path, group: int, steps: int, batch: int, ids: list[np.ndarray]) -> Path:
    """Write a GPTQ checkpoint with auto-round and return its folder."""
    import torch
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    samples = [{"input_ids": torch.from_numpy(each).long()[None]} for each in ids]
    rounder: Any = AutoRound(
        model, AutoTokenizer.from_pretrained(source), bits=4, group_size=group, sym=True, iters=steps,
        dataset=samples, nsamples=len(ids), seqlen=LENGTH, batch_size=batch,
        device_map="cpu", enable_torch_compile=False,
    )  # fmt: skip
    rounder.quantize_and_save(str(out), format="auto_gptq")
    return next(path.parent for path in sorted(out.rglob("config.json")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--dtype", default="w4a16_g32", help="of 4 bits with groups")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=16384)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    seconds = {"fp16": 0.0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rkllm_ext.convert(options.source, folder / "fp16.rkllm", "fp16")
        ids = calibration(folder / "fp16.rkllm", options.dataset)
        with timed("gdq", seconds):
            rkllm_ext.convert(
                options.source, folder / "gdq.rkllm", options.dtype,
                algorithm="gdq", steps=options.steps, dataset=options.dataset,
            )  # fmt: skip
        with timed("auto-round", seconds):
            peer = quantized_by_peer(
                options.source, folder / "peer", formats()[options.dtype].group, options.steps, 4, ids
            )
        rkllm_ext.convert(peer, folder / "auto-round.rkllm", options.dtype)
        print(f"{len(ids)} sequences of {len(ids[0])} tokens, {options.steps} steps of 4", flush=True)
        print("| | perplexity | tokens | processor, s |\n|---|--:|--:|--:|", flush=True)
        for each, spent in seconds.items():
            with rkllm_ext.LLM(folder / f"{each}.rkllm", max_context_len=512, n_threads=1) as llm:
                tokens = llm.tokenize(options.text.read_text(encoding="utf-8"), parse_special=False)[: options.tokens]
                found = perplexity(llm, tokens, 512)
            print(f"| {each} | {found.value:.4f} | {found.n_predicted} | {spent:.0f} |", flush=True)


if __name__ == "__main__":
    main()
