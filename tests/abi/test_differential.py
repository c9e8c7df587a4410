# SPDX-License-Identifier: Apache-2.0
"""The binding and a plain ctypes client, side by side: the same inputs give the same tokens, texts and states."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import random_pairs, write_peft
from client import ERROR, FINISH, HIDDEN, NORMAL, WAITING, Client, Run

import rkllm_ext
from rkllm_ext import LLM, Multimodal

CONTEXT = 256
TAGS = {"img_start": "<<", "img_end": ">>", "img_content": "."}
SAMPLING = {"top_k": 20, "top_p": 0.95, "temperature": 1.3, "repeat_penalty": 1.2, "frequency_penalty": 0.25}
PROMPTS = ["Once upon a time", "é", "<|im_start|>user\nhello<|im_end|>\n", "日本語 text 🙂 and more", "x" * 100]
IDS = [1, 299, 7, 7, 250, 33]


@pytest.fixture(scope="module")
def adapter(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    pairs = random_pairs({"model.layers.0.self_attn.q_proj": (64, 64), "model.layers.1.mlp.down_proj": (64, 128)}, 4)
    source = write_peft(folder / "peft", pairs)
    rkllm_ext.convert_lora(source, tiny_llama, folder / "a_lora.rkllm")
    return folder / "a_lora.rkllm"


@pytest.fixture(scope="module")
def model(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.rkllm"
    rkllm_ext.convert(tiny_llama, path, "w8a8")
    return path


@pytest.fixture(scope="module")
def llm(model: Path, adapter: Path) -> Iterator[LLM]:
    with LLM(model, max_context_len=CONTEXT, max_new_tokens=40, skip_special_token=False, **TAGS) as binding:
        binding.load_lora(adapter, "a", 0.75)
        yield binding


@pytest.fixture(scope="module")
def client(model: Path, adapter: Path) -> Iterator[Client]:
    tags = {name: text.encode() for name, text in TAGS.items()}
    with Client(model, max_context_len=CONTEXT, max_new_tokens=40, **tags) as plain:
        plain.load_lora(adapter, "a", 0.75)
        yield plain


def vectors(n: int, seed: int = 1) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((n, 64)) * 0.2).astype(np.float32)


def run_both(llm: LLM, client: Client, kind: str, given: tuple[Any, ...], seed: int, **how: Any) -> Run:
    """Run one input on both with a seed, compare token by token, and return what the client saw."""
    for name, value in SAMPLING.items():
        client.option(name, value)
    client.option("seed", seed)
    # The binding's defaults beside the vendor's interface: what a run has in common with the one before is kept.
    client.option("reuse_prefix", 1)
    plain = getattr(client, kind)(*given, **how)
    x = {"prompt": lambda text: text, "tokens": lambda ids: np.array(ids, np.int32), "embeddings": lambda rows: rows,
         "image": Multimodal}[kind](*given)  # fmt: skip
    pieces = list(llm.stream(x, seed=seed, **SAMPLING, **how))
    assert plain.code == 0
    assert [state for state in (event.state for event in plain.events) if state not in (NORMAL, WAITING)] == [FINISH]
    assert plain.events[-1].state == FINISH
    assert all(not event.text for event in plain.events if event.state == WAITING)
    ids = [event.token_id for event in plain.tokens]
    assert ids == [piece.token_id for piece in pieces if piece.token_id >= 0][: len(ids)]
    # A character that never became whole is U+FFFD with FINISH; the binding leaves that one out.
    text = "".join(event.text for event in plain.events[:-1]) + plain.events[-1].text.replace("\ufffd", "")
    assert text == "".join(piece.text for piece in pieces)
    for event, piece in zip(plain.tokens, pieces):
        assert (event.text, event.token_id) == (piece.text, piece.token_id)
    return plain


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_are_answered_alike(llm: LLM, client: Client, prompt: str, seed: int) -> None:
    assert run_both(llm, client, "prompt", (prompt,), seed).tokens


@pytest.mark.parametrize("seed", [3, 4])
def test_tokens_and_embeddings_are_answered_alike(llm: LLM, client: Client, seed: int) -> None:
    run_both(llm, client, "tokens", (IDS,), seed)
    run_both(llm, client, "embeddings", (vectors(9),), seed)


@pytest.mark.parametrize("prompt", ["see <image> here", "<image>"])
def test_images_are_answered_alike(llm: LLM, client: Client, prompt: str) -> None:
    one = run_both(llm, client, "image", (prompt, vectors(5)), 5)
    other = run_both(llm, client, "image", (prompt, vectors(5, seed=2)), 5)
    assert one.events != other.events


def test_an_adapter_answers_alike_and_otherwise(llm: LLM, client: Client) -> None:
    base = run_both(llm, client, "tokens", (IDS,), 6)
    adapted = run_both(llm, client, "tokens", (IDS,), 6, lora="a")
    assert base.events != adapted.events
    assert run_both(llm, client, "tokens", (IDS,), 6).events == base.events


def test_a_saved_prompt_answers_alike(llm: LLM, client: Client, tmp_path: Path) -> None:
    ids, longer = IDS * 8, IDS * 8 + [5, 6]
    of_client, of_binding = tmp_path / "client.bin", tmp_path / "binding.bin"
    assert client.tokens(ids, save=of_client).code == 0
    llm.save_prompt_cache(np.array(ids, np.int32), of_binding)
    assert of_client.read_bytes() == of_binding.read_bytes()
    client.load_prompt_cache(of_binding)
    llm.load_prompt_cache(of_client)
    run_both(llm, client, "tokens", (longer,), 7)
    assert client.library.rkllm_release_prompt_cache(client.handle) == 0
    llm.release_prompt_cache()


def test_waiting_comes_with_an_empty_text_in_both(llm: LLM, client: Client) -> None:
    waiting = 0
    for seed in range(10, 20):
        run = run_both(llm, client, "tokens", (IDS,), seed)
        waiting += sum(event.state == WAITING for event in run.events)
    assert waiting > 0


@pytest.mark.parametrize("lora", [None, "a"])
def test_hidden_states_are_the_same_bits(llm: LLM, client: Client, lora: str | None) -> None:
    how = {} if lora is None else {"lora": lora}
    for kind, given, x in [
        ("prompt", (PROMPTS[2],), PROMPTS[2]),
        ("tokens", (IDS,), np.array(IDS, np.int32)),
        ("embeddings", (vectors(70),), vectors(70)),
        ("image", ("a <image> b", vectors(4)), Multimodal("a <image> b", vectors(4))),
    ]:
        run = getattr(client, kind)(*given, mode=1, **how)
        assert (run.code, [event.state for event in run.events]) == (0, [HIDDEN, FINISH])
        assert run.hidden is not None
        assert np.array_equal(run.hidden, llm.hidden_states(x, **how))


def test_failures_have_the_same_sentence(llm: LLM, client: Client) -> None:
    for kind, given, x in [
        ("tokens", ([1, 300],), np.array([1, 300], np.int32)),
        ("tokens", (IDS * 100,), np.array(IDS * 100, np.int32)),
        ("embeddings", (np.full((2, 64), np.inf, np.float32),), np.full((2, 64), np.inf, np.float32)),
        ("image", ("no place", vectors(3)), Multimodal("no place", vectors(3))),
    ]:
        run = getattr(client, kind)(*given)
        assert run.code < 0 and [event.state for event in run.events] == [ERROR]
        with pytest.raises(rkllm_ext.RKLLMError) as caught:
            llm.generate(x)
        assert str(caught.value) == client.error(client.handle)
    run = client.tokens(IDS, lora="nobody")
    assert run.code < 0 and run.events == []  # refused before it began
    with pytest.raises(rkllm_ext.InvalidArgumentError) as caught:
        llm.generate(np.array(IDS, np.int32), lora="nobody")
    assert str(caught.value) == client.error(client.handle)
