# SPDX-License-Identifier: Apache-2.0
"""Families without reference data: the engine in fp32 against `transformers` on small random checkpoints made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
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

    def __init__(self, name: str, folder: Path, **changes: Any) -> None:
        kind, particular = MODELS[name]
        torch.manual_seed(len(name))
        config = getattr(transformers, kind)(**{**SIZES, **particular, **changes})
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


def engine_logits(path: Path) -> np.ndarray:
    with rkllm_ext.LLM(path, max_context_len=LENGTH) as llm:
        return llm.logits(some_ids(LENGTH))


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
    assert np.abs(engine_logits(tmp_path / "changed.rkllm") - made.logits(some_ids(LENGTH))).max() > 100 * MEASURED


@pytest.mark.parametrize("name", PUBLISHED)
def test_configurations_as_published_give_the_same_bits(name: str, tmp_path: Path) -> None:
    made = Made(name, tmp_path)
    absent, instead = PUBLISHED[name]
    config = json.loads((made.folder / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in absent}
    (made.folder / "config.json").write_text(json.dumps({**config, **instead}))
    rkllm_ext.convert(made.folder, tmp_path / "published.rkllm", "fp32")
    assert np.array_equal(*(engine_logits(path) for path in (made.path, tmp_path / "published.rkllm")))


#: Model -> key/values of a GGUF file beside those that all have.
GGUF_KEYS: dict[str, dict[str, float]] = {
    "qwen3": {"attention.key_length": 32, "rope.freq_base": 1000000.0},
    "smollm3": {"rope.freq_base": 5000000.0, "rope.dimension_count": 16},
    "gemma3": {"attention.key_length": 32, "attention.sliding_window": 40, "rope.freq_base": 1000000.0},
}

#: Names of layer tensors in GGUF files and in checkpoints.
GGUF_LAYER = {
    "attn_norm": "input_layernorm",
    **{f"attn_{each}": f"self_attn.{each}_proj" for each in "qkv"},
    **{f"attn_{each}_norm": f"self_attn.{each}_norm" for each in "qk"},
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    **{f"ffn_{each}": f"mlp.{each}_proj" for each in ("gate", "up", "down")},
}
GGUF_GEMMA = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def write_gguf(made: Made, name: str, out: Path) -> None:
    """Write the checkpoint as llama.cpp's converter lays it out."""
    arch, config = name.partition("-")[0], made.model.config
    stored = {key: value.detach().numpy() for key, value in made.model.state_dict().items()}
    tensors = {
        "token_embd.weight": stored["model.embed_tokens.weight"],
        "output_norm.weight": stored["model.norm.weight"],
    }
    if not config.tie_word_embeddings:
        tensors["output.weight"] = stored["lm_head.weight"]
    layer = {**GGUF_LAYER, **GGUF_GEMMA} if arch == "gemma3" else GGUF_LAYER
    for i in range(config.num_hidden_layers):
        for part, hf in layer.items():
            if f"model.layers.{i}.{hf}.weight" in stored:
                tensors[f"blk.{i}.{part}.weight"] = stored[f"model.layers.{i}.{hf}.weight"]
    writer = gguf.GGUFWriter(out, arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    for key, value in GGUF_KEYS[name].items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(f"{arch}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["a", "b", "ab", *(f"<{i}>" for i in range(3, VOCAB))])
    writer.add_token_types([1] * VOCAB)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(1)
    for key, weights in tensors.items():
        if arch == "gemma3" and weights.ndim == 1:
            weights = weights + np.float32(1)
        if arch == "smollm3" and key.endswith(("attn_q.weight", "attn_k.weight")):  # rows of a head in rotary pairs
            weights = weights.reshape(-1, 2, 8, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)
        writer.add_tensor(key, np.ascontiguousarray(weights))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("name", GGUF_KEYS)
def test_a_gguf_file_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    said = {"query_pre_attn_scalar": 32} if name == "gemma3" else {}  # such files do not: it is the width of a head
    made = Made(name, tmp_path, **said)
    write_gguf(made, name, tmp_path / "model.gguf")
    rkllm_ext.convert(tmp_path / "model.gguf", tmp_path / "from_gguf.rkllm", "fp32")
    assert np.array_equal(*(engine_logits(path) for path in (made.path, tmp_path / "from_gguf.rkllm")))


@pytest.mark.parametrize("original", [64, 512])
def test_minicpm4_is_llama_with_longrope_and_scaled_weights(original: int, tmp_path: Path) -> None:
    """`transformers` has no MiniCPM, but a LLaMA in which the three scalings are multiplied into the weights."""
    rope = {**longrope(8, 10000.0), "original_max_position_embeddings": original}
    made = Made("smollm2", tmp_path, tie_word_embeddings=False, rope_parameters=rope)
    config = json.loads((made.folder / "config.json").read_text())
    scales = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16}
    (made.folder / "config.json").write_text(json.dumps({**config, **scales, "model_type": "minicpm"}))
    rkllm_ext.convert(made.folder, tmp_path / "minicpm.rkllm", "fp32")
    with torch.no_grad():
        for name, weights in made.model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weights *= 1.4 / SIZES["num_hidden_layers"] ** 0.5
        made.model.model.embed_tokens.weight *= 12
        made.model.lm_head.weight *= 16 / SIZES["hidden_size"]
    assert np.abs(engine_logits(tmp_path / "minicpm.rkllm") - made.logits(some_ids(LENGTH))).max() < MEASURED
