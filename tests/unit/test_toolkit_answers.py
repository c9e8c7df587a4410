# SPDX-License-Identifier: Apache-2.0
"""What the vendor toolkit's class computes on the PC: logits and answers, those of the exported file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rkllm_ext import LLM, convert
from rkllm_ext.api import RKLLM

IDS = [1, 44, 70, 12, 250, 3, 3, 90]


# ---- logits ----


@pytest.mark.parametrize(("dtype", "level"), [("w8a8", 0), ("w4a16_g32", 0), ("w4a16", 1)])
def test_logits_are_those_of_the_exported_file(loaded: RKLLM, tmp_path: Path, dtype: str, level: int) -> None:
    assert loaded.build(quantized_dtype=dtype, target_platform="cpu", optimization_level=level) == 0
    found = loaded.get_logits({"input_ids": np.array([IDS])})
    assert loaded.export_rkllm(tmp_path / "m.rkllm") == 0
    with LLM(tmp_path / "m.rkllm") as llm:
        expected = llm.logits(np.array(IDS, np.int32))
    assert found.shape == (1, len(IDS), 300)
    assert found.dtype == np.float32
    assert np.array_equal(found[0], expected)
    assert np.array_equal(loaded.get_logits({"input_ids": np.array(IDS)})[0], expected)
    assert np.array_equal(np.float32(loaded.get_logits({"input_ids": [IDS]})[0]), expected)


def test_before_a_build_logits_are_those_of_fp16_weights(loaded: RKLLM, tiny_llama: Path, tmp_path: Path) -> None:
    convert(tiny_llama, tmp_path / "m.rkllm", "fp16")
    with LLM(tmp_path / "m.rkllm") as llm:
        expected = llm.logits(np.array(IDS, np.int32))
    assert np.array_equal(loaded.get_logits({"input_ids": np.array([IDS])})[0], expected)


def test_longer_inputs_than_the_usual_context_are_taken_up_to_the_models(
    loaded: RKLLM, tiny_llama: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "long"
    shutil.copytree(tiny_llama, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4200}))
    assert loaded.load_huggingface(folder) == 0
    assert loaded.get_logits({"input_ids": np.ones((1, 10), np.int64)}).shape == (1, 10, 300)
    assert loaded.get_logits({"input_ids": np.ones((1, 4150), np.int64)}).shape == (1, 4150, 300)
    assert loaded.get_logits({"input_ids": np.ones((1, 4201), np.int64)}) is None
    assert "4201" in loaded.last_error
    assert loaded.get_logits({"input_ids": np.ones((1, 10), np.int64)}).shape == (1, 10, 300)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (None, 'inputs must be a mapping with "input_ids"'),
        ([1, 2], 'inputs must be a mapping with "input_ids"'),
        ({"ids": [1]}, 'inputs must be a mapping with "input_ids"'),
        (
            {"input_ids": np.ones((2, 3), np.int64)},
            "input_ids of shape [2, 3] and type int64; integers of shape [1, n]",
        ),
        ({"input_ids": np.ones((1, 3))}, "input_ids of shape [1, 3] and type float64; integers"),
        ({"input_ids": np.ones((1, 0), np.int64)}, "input_ids of shape [1, 0]"),
        ({"input_ids": "text"}, "input_ids of shape []"),
        ({"input_ids": [[1, 2], [3]]}, "integers of shape [1, n] are needed"),
        ({"input_ids": [[1, 300]]}, "token 1 of the input is 300, outside the vocabulary of 0 to 299"),
        ({"input_ids": [[1, -1]]}, "input_ids holds -1 ... 1, which are no token ids"),
        ({"input_ids": [[1, 2**40]]}, "which are no token ids"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1, 0]]}, "attention_mask must be 2 ones"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, "attention_mask must be 2 ones"),
    ],
)
def test_inputs_without_logits_are_refused(loaded: RKLLM, inputs: Any, sentence: str) -> None:
    assert loaded.build(optimization_level=0) == 0
    assert loaded.get_logits(inputs) is None
    assert loaded.last_error
    assert sentence in loaded.last_error


def test_an_attention_mask_of_ones_changes_nothing(loaded: RKLLM) -> None:
    assert loaded.build(optimization_level=0) == 0
    plain = loaded.get_logits({"input_ids": np.array([IDS])})
    masked = loaded.get_logits({"input_ids": np.array([IDS]), "attention_mask": np.ones((1, len(IDS)), np.int64)})
    assert np.array_equal(plain, masked)


def test_without_a_model_there_are_no_logits_and_no_answer() -> None:
    model = RKLLM()
    assert model.get_logits({"input_ids": [[1]]}) is None
    assert model.chat_model("hello", {}) is None
    assert model.last_error == "no model is loaded; call load_huggingface() or load_gguf() first"


def test_torch_tensors_come_back_as_torch_tensors(loaded: RKLLM) -> None:
    torch = pytest.importorskip("torch")
    assert loaded.build(optimization_level=0) == 0
    ids = torch.tensor([IDS])
    found = loaded.get_logits({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.float32
    assert found.device == ids.device
    assert tuple(found.shape) == (1, len(IDS), 300)
    assert np.array_equal(found.numpy(), loaded.get_logits({"input_ids": np.array([IDS])}))


def test_the_perplexity_script_of_the_manual_runs(loaded: RKLLM) -> None:
    torch = pytest.importorskip("torch")
    from rkllm_ext.evaluate import perplexity

    assert loaded.build(optimization_level=0) == 0
    text = np.random.default_rng(0).integers(0, 300, (1, 150))

    class Encodings:
        input_ids = torch.from_numpy(text)

    max_length, losses = 48, []
    encodings = Encodings()
    for begin in range(0, encodings.input_ids.size(1), max_length):
        batch = encodings.input_ids[:, begin : begin + max_length]
        logits = loaded.get_logits({"input_ids": batch})
        assert logits is not None
        shift_logits = logits[:, :-1, :]
        shift_labels = batch[:, 1:].to(logits.device)
        loss = torch.nn.CrossEntropyLoss(reduction="sum").to(logits.device)(
            shift_logits.view(-1, shift_logits.size(-1)), shift_labels.view(-1)
        )
        losses.append(loss.float())
    found = torch.exp(torch.stack(losses).sum() / (150 - len(losses))).item()
    llm = loaded._model(1)
    assert llm.tokenize("", add_bos=True).size == 0
    assert found == pytest.approx(perplexity(llm, text[0].astype(np.int32), max_length).value, rel=1e-5)


# ---- answers ----


def test_text_is_answered_as_it_is_and_a_list_in_the_chat_template(loaded: RKLLM, tmp_path: Path) -> None:
    assert loaded.build(optimization_level=0) == 0
    assert loaded.export_rkllm(tmp_path / "m.rkllm") == 0
    messages = [{"role": "user", "content": "hello"}]
    with LLM(tmp_path / "m.rkllm", max_new_tokens=8, top_k=1) as llm:
        prompt, conversation = llm.generate("hello"), llm.chat(messages)
        lengths = llm.count_tokens("hello"), llm.count_tokens(messages)
    for given, expected, n_prompt in zip(("hello", messages), (prompt, conversation), lengths):
        args = {"max_length": n_prompt + 8, "top_k": 1, "top_p": 0.8, "temperature": 0.8}
        assert loaded.chat_model(given, {**args, "do_sample": True, "repetition_penalty": 1.1}) == expected.text
    greedy = {"max_length": lengths[0] + 8, "do_sample": False, "temperature": 1.0}
    assert loaded.chat_model("hello", greedy) == prompt.text


@pytest.mark.parametrize(
    ("messages", "args", "sentence"),
    [
        ("hello", {"max_length": 1}, "max_length is 1, but the prompt alone has"),
        ("hello", {"max_length": "long"}, "max_length is 'long'; a number of tokens is needed"),
        ("hello", {"beams": 4}, "unknown arguments beams; known: max_length, top_k"),
        ("hello", {"temperature": "hot"}, "temperature"),
        ([{"role": "user"}], {}, "message 0 (user) needs a content"),
        (5, {}, "messages must be a list"),
        ([], {}, "messages must be a list"),
    ],
)
def test_chats_that_cannot_be_are_refused(loaded: RKLLM, messages: Any, args: dict[str, Any], sentence: str) -> None:
    assert loaded.chat_model(messages, args) is None
    assert loaded.last_error
    assert sentence in loaded.last_error
