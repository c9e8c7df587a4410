# SPDX-License-Identifier: Apache-2.0
"""Families without reference data: the engine in fp32 against `transformers` on small random checkpoints made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rkllm_ext

torch = pytest.importorskip("torch", reason="the oracle is not installed: pip install '.[oracle]'")
transformers = pytest.importorskip("transformers", reason="the oracle is not installed: pip install '.[oracle]'")

torch.set_num_threads(1)

MEASURED = 5e-5  # of logits up to 6; differences up to 1.7e-5 were found
VOCAB, LENGTH = 320, 200

#: Sizes that every model shares, unless it says otherwise. Windows are shorter than the sequences.
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


def longrope(n: int, base: float) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "rope_theta": base,
        "short_factor": [1.0 + 0.1 * i for i in range(n)],
        "long_factor": [2.0 + 0.7 * i for i in range(n)],
        "original_max_position_embeddings": 64,
    }


#: Model -> class of its configuration, and what is particular in it.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "smollm2": ("LlamaConfig", {"tie_word_embeddings": True, "rope_theta": 100000.0}),
    "mistral": ("MistralConfig", {"sliding_window": 48}),
    "mistral-wide-heads": ("MistralConfig", {"sliding_window": None, "head_dim": 32}),
    "qwen3": ("Qwen3Config", {"head_dim": 32, "rope_theta": 1000000.0}),
    "qwen3-tied-biased": ("Qwen3Config", {"head_dim": 16, "tie_word_embeddings": True, "attention_bias": True}),
    "smollm3": ("SmolLM3Config", {"num_hidden_layers": 6, "rope_theta": 5000000.0}),
    "smollm3-list": ("SmolLM3Config", {"no_rope_layers": [1, 0, 1, 0], "tie_word_embeddings": False}),
    "gemma3": (
        "Gemma3TextConfig",
        {"num_hidden_layers": 7, "head_dim": 32, "sliding_window": 40, "query_pre_attn_scalar": 24},
    ),
    "gemma3-scaled": (
        "Gemma3TextConfig",
        {
            "head_dim": 16,
            "sliding_window": 64,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "final_logit_softcapping": 5.0,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 500000.0, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
            },
        },
    ),
    "phi3.5": (
        "Phi3Config",
        {
            "num_key_value_heads": 4,
            "sliding_window": 80,
            "original_max_position_embeddings": 64,
            "rope_parameters": longrope(8, 10000.0),
        },
    ),
    "phi4": ("Phi3Config", {"sliding_window": 100, "num_key_value_heads": 1}),
    "phi4-mini": (
        "Phi3Config",
        {
            "tie_word_embeddings": True,
            "original_max_position_embeddings": 64,
            "rope_parameters": {**longrope(6, 10000.0), "partial_rotary_factor": 0.75},
        },
    ),
}

#: Model -> the part of config.json that `transformers` 5 writes in another way than published checkpoints have it: what
#: to leave out, and what stands there instead.
PUBLISHED: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "mistral": (("rope_parameters",), {"rope_theta": 10000.0}),
    "qwen3": (("rope_parameters", "layer_types"), {"rope_theta": 1000000.0, "rope_scaling": None}),
    "smollm3": (("rope_parameters", "no_rope_layers", "layer_types"), {"rope_theta": 5000000.0}),
    "gemma3": (
        ("rope_parameters", "layer_types"),
        {"rope_theta": 1000000, "rope_local_base_freq": 10000, "sliding_window_pattern": 6},
    ),
    "gemma3-scaled": (
        ("rope_parameters", "layer_types"),
        {
            "rope_theta": 500000.0,
            "rope_local_base_freq": 5000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "sliding_window_pattern": 2,
        },
    ),
    "phi4-mini": (
        ("rope_parameters",),
        {
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.75,
            "rope_scaling": {key: value for key, value in longrope(6, 0).items() if "factor" in key}
            | {"type": "longrope"},
        },
    ),
}


def numbers_as_tokens() -> dict[str, Any]:
    """Return a tokenizer.json in which token 17 is the text <17>."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "model": {"type": "BPE", "vocab": {f"<{i}>": i for i in range(VOCAB)}, "merges": []},
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
    }


class Made:
    """A random checkpoint: the model of `transformers`, its folder, and the `.rkllm` file converted from it."""

    def __init__(self, name: str, folder: Path) -> None:
        kind, particular = MODELS[name]
        torch.manual_seed(len(name))
        config = getattr(transformers, kind)(**{**SIZES, **particular})
        config._attn_implementation = "eager"
        self.model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for name, weights in self.model.named_parameters():
                # Large enough that attention is uneven and every norm and bias counts.
                center = 0.0 if weights.ndim == 2 or name.endswith("bias") or "gemma" in kind.lower() else 1.0
                weights.normal_(center, 0.2 if weights.ndim == 1 else 0.15)
        self.folder = folder / "checkpoint"
        self.model.save_pretrained(self.folder)
        (self.folder / "tokenizer.json").write_text(json.dumps(numbers_as_tokens()))
        self.path = folder / "model.rkllm"
        rkllm_ext.convert(self.folder, self.path, "fp32")

    def logits(self, ids: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found: np.ndarray = self.model(torch.tensor(ids[None].astype(np.int64))).logits[0].numpy()
        return found


@pytest.fixture(scope="module", params=MODELS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(request.param, tmp_path_factory.mktemp(request.param))


def some_ids(n: int) -> np.ndarray:
    return np.random.default_rng(6).integers(2, VOCAB, n).astype(np.int32)


def test_logits_are_those_of_transformers(made: Made) -> None:
    with rkllm_ext.LLM(made.path, max_context_len=LENGTH) as llm:
        for n in (1, 33, LENGTH):
            expected = made.logits(some_ids(n))
            assert expected.std() > 0.1
            assert np.abs(llm.logits(some_ids(n)) - expected).max() < MEASURED


def test_greedy_tokens_are_those_of_transformers(made: Made) -> None:
    """The prompt is shorter than every window and original length; prompt and answer are longer."""
    prompt = some_ids(30)
    expected = prompt.tolist()
    for _ in range(90):
        expected.append(int(made.logits(np.array(expected))[-1].argmax()))
    with rkllm_ext.LLM(made.path, max_context_len=LENGTH, temperature=0.0, repeat_penalty=1.0) as llm:
        answer = llm.generate(prompt, max_new_tokens=90, ignore_eos=True).token_ids
    assert answer.tolist() == expected[30:]


@pytest.mark.parametrize("dtype", ["fp32", "w8a8"])
def test_logits_do_not_depend_on_threads_or_chunks(made: Made, dtype: str, tmp_path: Path) -> None:
    path = made.path
    if dtype != "fp32":
        path = tmp_path / "model.rkllm"
        rkllm_ext.convert(made.folder, path, dtype)
    with rkllm_ext.LLM(path, max_context_len=LENGTH, n_threads=1) as llm:
        expected = llm.logits(some_ids(LENGTH))
        for threads, chunk in [(1, 1), (2, 7), (4, 64), (2, LENGTH)]:
            llm._handle.set_options({"n_threads": threads, "prefill_chunk": chunk})
            assert np.array_equal(llm.logits(some_ids(LENGTH)), expected), f"{threads} threads, chunks of {chunk}"


#: Model, and a change of its configuration that must not go unnoticed.
CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("mistral", {"sliding_window": 49}),
    ("mistral", {"sliding_window": None}),
    ("smollm3", {"no_rope_layers": [1] * 6}),
    ("gemma3", {"layer_types": ["sliding_attention"] * 7}),
    ("gemma3-scaled", {"rope_parameters": {"full_attention": {"rope_theta": 500000.0}}}),
    ("phi4-mini", {"rope_parameters": {**longrope(4, 10000.0), "partial_rotary_factor": 0.5}}),
    ("phi3.5", {"rope_parameters": {"rope_theta": 10000.0}}),
]


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_what_is_particular_in_a_model_counts(name: str, change: dict[str, Any], tmp_path: Path) -> None:
    """The comparisons above would not hold with another configuration."""
    made = Made(name, tmp_path)
    config = json.loads((made.folder / "config.json").read_text())
    (made.folder / "config.json").write_text(json.dumps({**config, **change}))
    rkllm_ext.convert(made.folder, tmp_path / "changed.rkllm", "fp32")
    with rkllm_ext.LLM(tmp_path / "changed.rkllm", max_context_len=LENGTH) as llm:
        assert np.abs(llm.logits(some_ids(LENGTH)) - made.logits(some_ids(LENGTH))).max() > 100 * MEASURED


@pytest.mark.parametrize("name", PUBLISHED)
def test_configurations_as_published_give_the_same_bits(name: str, tmp_path: Path) -> None:
    made = Made(name, tmp_path)
    absent, instead = PUBLISHED[name]
    config = json.loads((made.folder / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in absent}
    (made.folder / "config.json").write_text(json.dumps({**config, **instead}))
    rkllm_ext.convert(made.folder, tmp_path / "published.rkllm", "fp32")
    logits = []
    for path in (made.path, tmp_path / "published.rkllm"):
        with rkllm_ext.LLM(path, max_context_len=LENGTH) as llm:
            logits.append(llm.logits(some_ids(LENGTH)))
    assert np.array_equal(*logits)
