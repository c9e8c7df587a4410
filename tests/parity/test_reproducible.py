# SPDX-License-Identifier: Apache-2.0
"""The same bits whatever computes them: threads, chunks of a prompt, decode against prefill, instruction sets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from adapters import random_pairs, write_peft
from models import FORMATS, SHARED, Converter, logits_do_not_depend_on_threads_or_chunks, some_ids

import rkllm_ext
from rkllm_ext import _rkllm
from rkllm_ext.lora import convert_lora

#: Checkpoints by the formats that fit their dimensions.
SOURCES = {
    "tiny": ("", [name for name in FORMATS if "_g" not in name or name.endswith(("_g32", "_g64"))]),
    "stories260K": ("models/stories260K", ["fp32", "fp16", "w8a8", "w4a16"]),
    "dynamic": ("reference/llama-dynamic", ["fp32", "w8a8", "w4a16_g32"]),
    "internlm2": ("reference/internlm2", ["fp32", "w8a8_g128"]),
    "phi3": ("reference/phi3", ["fp32"]),
    "longrope": ("reference/phi3-longrope", ["fp32"]),
    "gemma2": ("reference/gemma2", ["fp32", "w4a16_g32"]),
    "minicpm": ("reference/minicpm", ["w8a8"]),
    "phi": ("reference/phi", ["fp32", "w8a8"]),
    "chatglm3": ("reference/chatglm3", ["fp32"]),
    "minicpm3": ("reference/minicpm3", ["fp32", "w8a8", "w4a16_g32"]),
    "minicpm3-longext": ("reference/minicpm3-longext", ["fp32"]),
    "qwen": ("reference/qwen", ["fp32", "w8a8"]),
    "wide": ("reference/qwen2-g512-bf16", FORMATS),
}
CASES = [(source, dtype) for source, (_, formats) in SOURCES.items() for dtype in formats]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def model(request: pytest.FixtureRequest, tiny_llama: Path, converted: Converter) -> Path:
    source, dtype = request.param
    if source == "tiny":
        return converted(tiny_llama, dtype)
    if not SHARED.is_dir():
        pytest.skip("needs the shared data beside the repository")
    return converted(SHARED / SOURCES[source][0], dtype)


def test_logits_do_not_depend_on_threads_or_chunks(model: Path) -> None:
    logits_do_not_depend_on_threads_or_chunks(model)


def test_decoding_gives_the_bits_of_a_prefill(model: Path) -> None:
    """Each greedy token is the best one of a prefill over everything before it."""
    with rkllm_ext.LLM(model, max_context_len=128, temperature=0.0, repeat_penalty=1.0) as llm:
        ids = some_ids(llm, 21)
        answer = llm.generate(ids, max_new_tokens=40, ignore_eos=True)
        logits = llm.logits(np.concatenate([ids, answer.token_ids]))
        assert logits[len(ids) - 1 : -1].argmax(axis=1).tolist() == answer.token_ids.tolist()


def test_a_shorter_prompt_gives_a_prefix_of_the_logits(model: Path) -> None:
    with rkllm_ext.LLM(model, max_context_len=128) as llm:
        ids = some_ids(llm, 100)
        expected = llm.logits(ids)
        for n in (1, 15, 16, 33):
            assert np.array_equal(llm.logits(ids[:n]), expected[:n])


PROGRAM = """
import hashlib, json, sys
import numpy as np
import rkllm_ext
from rkllm_ext import _rkllm
sums = {}
for case in sys.argv[1:]:
    path, activations, adapter = case.split("@")
    with rkllm_ext.LLM(path, max_context_len=80, activations=activations or None) as llm:
        assert llm.info.isa == _rkllm.active_isa()
        lora = "it" if adapter else None
        if lora:
            llm.load_lora(adapter, lora)
        ids = np.random.default_rng(4).integers(0, llm.info.vocab_size, 70).astype(np.int32)
        answer = llm.generate(ids[:30], seed=5, temperature=1.0, max_new_tokens=20, ignore_eos=True, lora=lora)
        sums[case] = hashlib.sha256(llm.logits(ids, lora=lora).tobytes() + answer.token_ids.tobytes()).hexdigest()
print(json.dumps([_rkllm.active_isa(), sums]))
"""


def run_with_isa(isa: str, cases: list[str]) -> subprocess.CompletedProcess[str]:
    """Run cases of a model, the kind of activations and an adapter, the last two empty where there is none."""
    command = [sys.executable, "-c", PROGRAM, *cases]
    return subprocess.run(command, env={**os.environ, "RKLLM_EXT_ISA": isa}, capture_output=True, text=True)


def test_logits_and_draws_do_not_depend_on_the_instruction_set(
    tiny_llama: Path, converted: Converter, tmp_path: Path
) -> None:
    targets = {"model.layers.0.self_attn.q_proj": (64, 64), "model.layers.1.mlp.down_proj": (64, 128)}
    adapter = tmp_path / "adapter.rkllm"
    write_peft(tmp_path / "adapter", random_pairs(targets, 5))
    convert_lora(tmp_path / "adapter", tiny_llama, adapter)
    paths = [converted(tiny_llama, dtype) for dtype in SOURCES["tiny"][1]]
    cases = [f"{path}@@{adapter}" for path in paths]
    if SHARED.is_dir():
        paths += [converted(SHARED / SOURCES["wide"][0], dtype) for dtype in FORMATS]
    cases += [f"{path}@@" for path in paths]
    narrow = [case.replace("@@", "@int8@") for case in cases if "w4a16" in case]
    assert any(case.endswith("@") for case in narrow) and any(not case.endswith("@") for case in narrow)
    results = {}
    for isa in _rkllm.isas():
        done = run_with_isa(isa, cases + narrow)
        assert done.returncode == 0, done.stderr
        ran, results[isa] = json.loads(done.stdout)
        assert ran == isa
        assert len(set(results[isa].values())) == len(cases + narrow)
    for isa in results:
        assert results[isa] == results["scalar"], isa


def test_an_unknown_instruction_set_is_an_error(tiny_llama: Path, converted: Converter) -> None:
    done = run_with_isa("sse9", [f"{converted(tiny_llama, 'fp32')}@@"])
    assert done.returncode != 0
    assert "RKLLM_EXT_ISA is 'sse9', but this processor runs scalar" in done.stderr
