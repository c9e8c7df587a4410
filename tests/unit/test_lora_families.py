# SPDX-License-Identifier: Apache-2.0
"""A model with an adapter computes what the model of merged weights does: fused, permuted and latent layers, too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from adapters import Pair, merged, random_pairs, write_gguf, write_peft
from family_configs import MODELS, Shapes
from safetensors.numpy import save_file

import rkllm_ext
from rkllm_ext.arch import find_family, locate_all, resolve
from rkllm_ext.lora import convert_lora

VOCABULARY = 300  # of the tokenizer in tests/data
SCALE = 1.5
IDS = np.random.default_rng(4).integers(0, VOCABULARY, 40).astype(np.int32)
Weights = dict[str, np.ndarray]
# The engine wants wider heads where heads are normed.
FAMILIES = sorted(
    name for name, (_, shapes) in MODELS.items() if "model.layers.0.self_attn.q_norm.weight" not in shapes
)


def shapes_of(family: str) -> Shapes:
    return {name: tuple(VOCABULARY if n == 50 else n for n in shape) for name, shape in MODELS[family][1].items()}


def random_weights(family: str) -> Weights:
    draw = np.random.default_rng(3)
    weights = {}
    for name, shape in shapes_of(family).items():
        values = draw.standard_normal(shape) * (0.3 if len(shape) == 2 else 0.1)
        weights[name] = (values + ("norm" in name and name.endswith("weight"))).astype(np.float32)
    return weights


def write_checkpoint(folder: Path, family: str, weights: Weights, tokenizer: Path) -> Path:
    folder.mkdir()
    config = {key: VOCABULARY if value == 50 else value for key, value in MODELS[family][0].items()}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)
    save_file(weights, folder / "model.safetensors")
    return folder


def modules(family: str) -> dict[str, tuple[int, int]]:
    """Return the linear layers of a family's checkpoint as PEFT names them, with the shapes of their weights."""
    return {
        name[: -len(".weight")]: (shape[0], shape[1])
        for name, shape in shapes_of(family).items()
        if len(shape) == 2 and not name.endswith(("embed_tokens.weight", "embeddings.weight", "wte.weight"))
    }


@contextmanager
def loaded(checkpoint: Path, adapter: Path | None = None, dtype: str = "fp32") -> Iterator[rkllm_ext.LLM]:
    rkllm_ext.convert(checkpoint, checkpoint / f"{dtype}.rkllm", dtype)
    with rkllm_ext.LLM(checkpoint / f"{dtype}.rkllm", max_context_len=64, temperature=0.0) as llm:
        if adapter is not None:
            convert_lora(adapter, checkpoint, checkpoint / "lora.rkllm")
            llm.load_lora(checkpoint / "lora.rkllm", "it")
        yield llm


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_of_all_layers_is_the_merged_model(family: str, tiny_llama: Path, tmp_path: Path) -> None:
    weights, pairs = random_weights(family), random_pairs(modules(family), 3)
    whole = {
        name: merged(value, pairs[name[: -len(".weight")]], SCALE) if name[: -len(".weight")] in pairs else value
        for name, value in weights.items()
    }
    checkpoint = write_checkpoint(tmp_path / "base", family, weights, tiny_llama)
    with loaded(write_checkpoint(tmp_path / "merged", family, whole, tiny_llama)) as llm:
        expected = llm.logits(IDS)
    adapter = write_peft(tmp_path / "adapter", pairs, lora_alpha=SCALE * 3)
    with loaded(checkpoint, adapter) as llm:
        found, plain = llm.logits(IDS, lora="it"), llm.logits(IDS)
        size = np.abs(expected).max()
        assert np.abs(found - expected).max() < 2e-5 * size
        assert np.abs(plain - expected).max() > 0.1 * size
        greedy = llm.generate(IDS[:20], lora="it", max_new_tokens=8, ignore_eos=True, repeat_penalty=1.0).token_ids
        llm._handle.set_options({"prefill_chunk": 3, "n_threads": 3})
        assert np.array_equal(llm.logits(IDS, lora="it"), found)
        sequence = np.concatenate([IDS[:20], greedy[:-1]])
        assert llm.logits(sequence, lora="it")[19:].argmax(axis=1).tolist() == greedy.tolist()


@pytest.mark.parametrize("family", ["internlm2", "phi", "phi3", "chatglm3", "minicpm3"])
def test_a_gguf_adapter_gives_the_bits_of_the_peft_one(family: str, tiny_llama: Path, tmp_path: Path) -> None:
    pairs = random_pairs(modules(family), 3)
    checkpoint = write_checkpoint(tmp_path / "base", family, random_weights(family), tiny_llama)
    with loaded(checkpoint, write_peft(tmp_path / "adapter", pairs, lora_alpha=4.5)) as llm:
        expected = llm.logits(IDS, lora="it")
        architecture = find_family(json.loads((checkpoint / "config.json").read_text()), "huggingface").gguf_types[0]
        path = write_gguf(tmp_path / "adapter.gguf", as_gguf(family, pairs), 4.5, architecture)
        convert_lora(path, checkpoint, tmp_path / "gguf.rkllm")
        llm.load_lora(tmp_path / "gguf.rkllm", "gguf")
        assert np.array_equal(llm.logits(IDS, lora="gguf"), expected)


def as_gguf(family: str, pairs: dict[str, Pair]) -> dict[str, Pair]:
    """Return the pairs as llama.cpp's converter names and orders them."""
    config, shapes = MODELS[family][0], MODELS[family][1]
    spec, tensors = resolve(config, "huggingface", shapes)
    found = find_family(config, "huggingface")
    as_hf, there = (locate_all(found, kind, spec) for kind in ("huggingface", "gguf"))
    result: dict[str, Pair] = {}
    for name in as_hf:
        if name not in tensors or len(tensors[name].shape) != 2 or name == "token_embd.weight":
            continue
        (hf,), (gguf,) = (list(each[name].source.wants(each[name].shape)) for each in (as_hf, there))
        a, b = pairs[hf[: -len(".weight")]]
        if family == "internlm2" and name.endswith(("attn_q.weight", "attn_k.weight", "attn_v.weight")):
            b = as_hf[name].source.build(lambda _, b=b: b)  # split there, and rotated in pairs
            if not name.endswith("attn_v.weight"):
                b = b.reshape(-1, 2, 2, b.shape[1]).swapaxes(1, 2).reshape(b.shape)
        result[gguf[: -len(".weight")]] = (a, b)
    return result
