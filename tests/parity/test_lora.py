# SPDX-License-Identifier: Apache-2.0
"""A model with a LoRA adapter computes what PEFT computes with the genuine code, and what merged weights compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import merged, random_pairs, write_gguf, write_peft
from llama_oracle import logits as oracle_logits
from models import REFERENCES, SHARED, Converter

import rkllm_ext
from rkllm_ext.lora import convert_lora
from rkllm_ext.readers import open_checkpoint

MEASURED = 1e-4  # what the engine reaches; the reference data asks for 1e-3
FOLDERS = [name for name in ("llama-mha-bin", "qwen2") if name in REFERENCES]


@pytest.fixture(params=FOLDERS)
def reference(request: pytest.FixtureRequest, converted: Converter, tmp_path: Path) -> Any:
    if not SHARED.is_dir():
        pytest.skip("needs the shared data beside the repository")
    folder = SHARED / "reference" / request.param
    convert_lora(folder / "lora_adapter", folder, tmp_path / "lora.rkllm")
    with rkllm_ext.LLM(converted(folder, "fp32"), max_context_len=700, temperature=0.0, repeat_penalty=1.0) as llm:
        llm.load_lora(tmp_path / "lora.rkllm", "it")
        yield llm, np.load(folder / "lora_adapter" / "expected_lora.npz"), np.load(folder / "expected.npz")


def test_logits_are_those_of_peft(reference: Any) -> None:
    llm, data, _ = reference
    for i in range(4):
        logits = llm.logits(data[f"ids_{i}"].astype(np.int32), lora="it")
        assert np.abs(logits[data[f"pos_{i}"]] - data[f"logits_{i}"]).max() < MEASURED, f"sequence {i}"
    whole = llm.logits(data["ids_2"].astype(np.int32), lora="it")
    assert np.abs(whole - data["logits_merged_2"]).max() < MEASURED


def test_greedy_tokens_are_those_of_peft(reference: Any) -> None:
    llm, data, _ = reference
    prompt = data["greedy_prompt_0"].astype(np.int32)
    answer = llm.generate(prompt, lora="it", max_new_tokens=len(data["greedy_ids_0"]), ignore_eos=True)
    assert answer.token_ids.tolist() == data["greedy_ids_0"].tolist()


def test_the_model_itself_is_as_before_beside_a_loaded_adapter(reference: Any) -> None:
    llm, _, plain = reference
    llm.logits(plain["ids_2"].astype(np.int32), lora="it")
    logits = llm.logits(plain["ids_2"].astype(np.int32))
    assert np.abs(logits - plain["logits_2"]).max() < MEASURED


# ---- a small model and the numpy oracle ----------------------------------------------------------------------------

IDS = np.random.default_rng(2).integers(0, 300, 90).astype(np.int32)
TARGETS = {
    "model.layers.0.self_attn.q_proj": (64, 64),
    "model.layers.0.self_attn.k_proj": (32, 64),
    "model.layers.1.self_attn.v_proj": (32, 64),
    "model.layers.1.self_attn.o_proj": (64, 64),
    "model.layers.0.mlp.gate_proj": (128, 64),
    "model.layers.1.mlp.up_proj": (128, 64),
    "model.layers.1.mlp.down_proj": (64, 128),
}


@pytest.fixture(scope="module")
def adapters(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return two adapters of the small model, one of them a GGUF file as well."""
    folder = tmp_path_factory.mktemp("adapters")
    first, second = random_pairs(TARGETS, 5), random_pairs({**TARGETS, "lm_head": (300, 64)}, 20, seed=2)
    write_peft(folder / "first", first, lora_alpha=8)
    write_peft(folder / "second", second, use_rslora=True)
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    names |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    heads = {"q_proj": 4, "k_proj": 2}
    as_gguf = {}
    for module, (a, b) in first.items():
        layer, part = module.split(".")[2], module.rpartition(".")[2]
        if part in heads:  # llama.cpp's order of rotated rows
            b = b.reshape(heads[part], 2, -1, b.shape[1]).swapaxes(1, 2).reshape(b.shape)
        as_gguf[f"blk.{layer}.{names[part]}"] = (a, b)
    write_gguf(folder / "third.gguf", as_gguf, 8.0)
    sources = {"first": folder / "first", "second": folder / "second", "third": folder / "third.gguf"}
    for name, source in sources.items():
        convert_lora(source, tiny_llama, folder / f"{name}.rkllm")
    return {name: folder / f"{name}.rkllm" for name in sources}


@pytest.fixture
def llm(tiny_llama: Path, converted: Converter, adapters: dict[str, Path]) -> Any:
    with rkllm_ext.LLM(converted(tiny_llama, "fp32"), max_context_len=128, temperature=0.0) as llm:
        for name, path in adapters.items():
            llm.load_lora(path, name)
        yield llm


def oracle(folder: Path, pairs: dict[str, Any], scale: float) -> np.ndarray:
    with open_checkpoint(folder) as checkpoint:

        def load(name: str) -> np.ndarray:
            weight = checkpoint.load(name)
            pair = pairs.get(name[: -len(".weight")])
            return weight if pair is None else merged(weight, pair, scale)

        return oracle_logits(checkpoint.config, load, checkpoint.tensor_names, IDS)


def test_the_engine_agrees_with_the_oracle_on_merged_weights(llm: Any, tiny_llama: Path) -> None:
    first = random_pairs(TARGETS, 5)
    assert np.abs(llm.logits(IDS, lora="first") - oracle(tiny_llama, first, 8 / 5)).max() < MEASURED


def test_the_scale_of_loading_is_a_factor(llm: Any, tiny_llama: Path, adapters: dict[str, Path]) -> None:
    for name, scale in (("half", 0.5), ("against", -1.0)):
        llm.load_lora(adapters["first"], name, scale)
        wanted = oracle(tiny_llama, random_pairs(TARGETS, 5), scale * 8 / 5)
        assert np.abs(llm.logits(IDS, lora=name) - wanted).max() < MEASURED
    llm.load_lora(adapters["first"], "nothing", 0.0)
    assert np.array_equal(llm.logits(IDS, lora="nothing"), llm.logits(IDS))


def test_a_gguf_adapter_gives_the_bits_of_the_peft_one(llm: Any) -> None:
    assert np.array_equal(llm.logits(IDS, lora="third"), llm.logits(IDS, lora="first"))


@pytest.mark.parametrize(
    ("dtype", "activations"),
    [("fp32", None), ("fp16", None), ("w8a8", None), ("w4a16_g32", None), ("w4a16", "int8"), ("w4a16_g32", "int8")],
)
def test_bits_depend_on_neither_threads_nor_chunks_nor_the_length_of_the_prompt(
    tiny_llama: Path, converted: Converter, adapters: dict[str, Path], dtype: str, activations: str | None
) -> None:
    settings = {"max_context_len": 128, "activations": activations}
    found = []
    for n_threads, chunk in ((1, 64), (3, 64), (2, 1), (4, 7), (1, 300)):
        with rkllm_ext.LLM(converted(tiny_llama, dtype), n_threads=n_threads, **settings) as llm:
            llm._handle.set_options({"prefill_chunk": chunk})
            llm.load_lora(adapters["second"], "it")
            found.append(llm.logits(IDS, lora="it"))
            assert np.array_equal(llm.logits(IDS[:40], lora="it"), found[0][:40])
    assert all(np.array_equal(each, found[0]) for each in found)


def test_adapters_are_switched_from_run_to_run(llm: Any) -> None:
    def answer(**settings: Any) -> list[int]:
        return llm.generate(IDS[:20], max_new_tokens=12, ignore_eos=True, **settings).token_ids.tolist()

    plain, first, second = answer(), answer(lora="first"), answer(lora="second")
    assert len({tuple(plain), tuple(first), tuple(second)}) == 3
    logits = llm.logits(IDS, lora="second")
    for _ in range(2):
        assert (answer(lora="second"), answer(), answer(lora="first")) == (second, plain, first)
        assert np.array_equal(llm.logits(IDS, lora="second"), logits)
    assert first[0] == llm.logits(IDS[:20], lora="first")[-1].argmax()


def test_a_session_with_an_adapter_has_the_logits_of_one_pass(llm: Any) -> None:
    with llm.session(lora="first") as one, llm.session() as plain, llm.session(lora="second") as two:
        for session in (one, plain, two):
            session.prefill(IDS[:10])
        for token in IDS[10:20]:
            rkllm_ext.step_together([one, plain, two], [int(token)] * 3)
        for session, lora in ((one, "first"), (plain, None), (two, "second")):
            assert np.array_equal(np.asarray(session.logits), llm.logits(IDS[:20], lora=lora)[-1])


def test_an_adapter_adds_to_products_with_8_bit_activations_what_it_adds_to_others(
    tiny_llama: Path, converted: Converter, adapters: dict[str, Path]
) -> None:
    changes = {}
    for activations in ("auto", "int8"):
        path = converted(tiny_llama, "w4a16_g32")
        with rkllm_ext.LLM(path, max_context_len=128, activations=activations) as llm:
            llm.load_lora(adapters["first"], "it")
            changes[activations] = llm.logits(IDS, lora="it") - llm.logits(IDS)
    wide, narrow = changes["auto"], changes["int8"]
    assert 0 < np.abs(narrow - wide).max() < 0.05 * np.abs(wide).max()


def test_sessions_with_8_bit_activations_and_adapters_have_the_logits_of_one_pass(
    tiny_llama: Path, converted: Converter, adapters: dict[str, Path]
) -> None:
    with rkllm_ext.LLM(converted(tiny_llama, "w4a16_g32"), max_context_len=128, activations="int8") as llm:
        llm.load_lora(adapters["first"], "it")
        with llm.session(lora="it") as one, llm.session() as plain:
            one.prefill(IDS[:10])
            plain.prefill(IDS[:10])
            for token in IDS[10:20]:
                rkllm_ext.step_together([one, plain], [int(token)] * 2)
            assert np.array_equal(np.asarray(one.logits), llm.logits(IDS[:20], lora="it")[-1])
            assert np.array_equal(np.asarray(plain.logits), llm.logits(IDS[:20])[-1])


def test_hidden_states_are_those_behind_the_adapter(llm: Any, tiny_llama: Path) -> None:
    with open_checkpoint(tiny_llama) as checkpoint:
        table = checkpoint.load("model.embed_tokens.weight").astype(np.float64)
    hidden = llm.hidden_states(IDS, lora="first")
    assert np.abs(hidden @ table.T - llm.logits(IDS, lora="first")).max() < MEASURED
    assert not np.array_equal(hidden, llm.hidden_states(IDS))


def test_an_adapter_in_fp16_differs_by_its_rounding_only(
    llm: Any, tiny_llama: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    convert_lora(adapters["first"].with_suffix(""), tiny_llama, tmp_path / "half.rkllm", dtype="fp16")
    llm.load_lora(tmp_path / "half.rkllm", "half")
    exact = llm.logits(IDS, lora="first")
    difference = np.abs(llm.logits(IDS, lora="half") - exact).max()
    assert 0 < difference < 0.01 * np.abs(exact - llm.logits(IDS)).max()
