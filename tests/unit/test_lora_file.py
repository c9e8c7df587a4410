# SPDX-License-Identifier: Apache-2.0
"""An adapter file that is damaged, of another model or at odds with the model is refused with a sentence."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import random_pairs, write_peft

import rkllm_ext
from rkllm_ext import _rkllm
from rkllm_ext.errors import BusyError, InvalidArgumentError, ModelFileError, RKLLMError, UnsupportedModelError
from rkllm_ext.lora import convert_lora
from rkllm_ext.writer import Entry, ModelWriter

IDS = np.array([1, 2, 3], np.int32)
TARGETS = {"model.layers.0.self_attn.q_proj": (64, 64), "model.layers.1.mlp.down_proj": (64, 128)}


@pytest.fixture(scope="module")
def adapter(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    convert_lora(write_peft(folder / "peft", random_pairs(TARGETS, 4)), tiny_llama, folder / "a_lora.rkllm")
    return folder / "a_lora.rkllm"


@pytest.fixture(scope="module")
def llm(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[rkllm_ext.LLM]:
    path = tmp_path_factory.mktemp("model") / "tiny.rkllm"
    rkllm_ext.convert(tiny_llama, path, "w8a8")
    with rkllm_ext.LLM(path, max_context_len=64, temperature=0.0) as llm:
        yield llm


def load(llm: rkllm_ext.LLM, path: Path) -> None:
    """Load a file and forget it again."""
    llm.load_lora(path, "it")
    llm.release_lora("it")


def test_a_sound_file_is_loaded(llm: rkllm_ext.LLM, adapter: Path) -> None:
    load(llm, adapter)


def test_a_file_cut_anywhere_is_refused(llm: rkllm_ext.LLM, adapter: Path, tmp_path: Path) -> None:
    content, path = adapter.read_bytes(), tmp_path / "changed.rkllm"
    for length in [0, 4, 8, 24, *range(100, len(content), 777), len(content) - 64, len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError, match=r"changed\.rkllm"):
            load(llm, path)


def test_any_flipped_bit_is_noticed(llm: rkllm_ext.LLM, adapter: Path, tmp_path: Path) -> None:
    content, path, draw = bytearray(adapter.read_bytes()), tmp_path / "changed.rkllm", random.Random(8)
    with _rkllm.GGUFFile(adapter) as file:  # gaps between tensors belong to nobody
        owned = [at for tensor in file.tensors.values() for at in spans(content, bytes(tensor.data))]
    for position in draw.sample([*range(600), *owned], 300):
        content[position] ^= (bit := 1 << draw.randrange(8))
        path.write_bytes(content)
        with pytest.raises((ModelFileError, UnsupportedModelError), match=r"changed\.rkllm"):
            load(llm, path)
        content[position] ^= bit
    path.write_bytes(content)
    load(llm, path)


def spans(content: bytes | bytearray, part: bytes) -> range:
    start = content.index(part)
    return range(start, start + len(part))


def test_a_shape_that_no_format_can_hold_is_refused_by_name(
    llm: rkllm_ext.LLM, adapter: Path, tmp_path: Path
) -> None:
    content = bytearray(adapter.read_bytes())
    rows = content.index(b"rkllm.tensor.rows") + len(b"rkllm.tensor.rows") + 16  # types and count come first
    content[rows : rows + 4] = (2**32 - 256).to_bytes(4, "little")
    with _rkllm.GGUFFile(adapter) as file:
        header = spans(content, bytes(next(iter(file.tensors.values())).data)).start
    content[-8:] = _rkllm.checksum(bytes(content[:header])).to_bytes(8, "little")
    (tmp_path / "changed.rkllm").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"changed\.rkllm: tensor 'blk.*lora_a': a matrix of 4294967040 x"):
        load(llm, tmp_path / "changed.rkllm")


# ---- files that are whole but wrong --------------------------------------------------------------------------------

Rows = dict[str, tuple[Entry, bytes]]


def rebuilt(adapter: Path, out: Path, keys: dict[str, Any], change: Callable[[Rows], None] = lambda rows: None) -> Path:
    """Write the file again with other keys or tensors, and with checksums that fit. None takes a key away."""
    with _rkllm.GGUFFile(adapter) as file:
        derived = ("general.alignment", "rkllm.tensor.")
        values = {name: value for name, value in file.values.items() if not name.startswith(derived)}
        columns = zip(*(file.values[f"rkllm.tensor.{column}"] for column in ("format", "rows", "cols")))
        rows = {
            tensor.name: (Entry(tensor.name, format, int(n), int(k)), bytes(tensor.data))
            for tensor, (format, n, k) in zip(file.tensors.values(), columns)
            if tensor.name != "checksums"
        }
    change(rows)
    types = {str: "string", int: "u32", list: "[string]"}
    kept = {name: value for name, value in {**values, **keys}.items() if value is not None}
    typed = [(name, types[type(value)], value) for name, value in kept.items()]
    with ModelWriter(out, typed, [entry for entry, _ in rows.values()]) as writer:
        for _, data in rows.values():
            writer.write(data)
    return out


def with_matrix(name: str, values: np.ndarray, format: str = "fp32") -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        rows[name] = (Entry(name, format, *values.shape), bytes(_rkllm.pack(format, values.astype(np.float32))))

    return change


def quantized(rows: Rows) -> None:
    entry = Entry("blk.0.attn_q.lora_a", "w8a8", 4, 64)
    data = _rkllm.pack("w8a8", np.zeros((4, 64), np.int8), np.ones(4, np.float32))
    rows[entry.name] = (entry, bytes(data))


A, B = "blk.0.attn_q.lora_a", "blk.0.attn_q.lora_b"
BROKEN = np.full((4, 64), np.inf)


@pytest.mark.parametrize(
    ("keys", "change", "sentence"),
    [
        (
            {"rkllm.source": "0" * 64},
            None,
            "is an adapter of another model: it was converted with a checkpoint of SHA-256 00",
        ),
        ({"rkllm.source": None}, None, "rkllm.source"),
        ({"general.type": "model"}, None, "is of the type 'model', not 'adapter'"),
        ({"adapter.type": "ia3"}, None, "is an adapter of the type 'ia3'; 'lora' is supported"),
        ({"adapter.type": None}, None, "adapter.type"),
        ({"rkllm.version": 2}, None, "version 2 of the format, this library reads 1; convert the adapter again"),
        ({"rkllm.required": ["dora"]}, None, "needs the feature 'dora'"),
        ({}, lambda rows: rows.pop(B), f"tensor '{B}' is missing"),
        ({}, lambda rows: rows.pop(A), f"tensor '{B}' is not known"),
        ({}, lambda rows: rows.clear(), "the adapter changes no layer"),
        ({}, with_matrix("blk.2.attn_q.lora_a", np.ones((4, 64))), "the model has no linear layer 'blk.2.attn_q'"),
        (
            {},
            with_matrix("blk.0.attn_norm.lora_a", np.ones((4, 64))),
            "the model has no linear layer 'blk.0.attn_norm'",
        ),
        ({}, with_matrix(".lora_a", np.ones((4, 64))), "tensor '.lora_a' is not known"),
        ({}, with_matrix("blk.0.attn_q.weight", np.ones((4, 64))), "tensor 'blk.0.attn_q.weight' is not known"),
        (
            {},
            with_matrix(A, np.ones((4, 32))),
            "is 4 x 32, but the model's layer 'blk.0.attn_q' with rank 4 needs 4 x 64",
        ),
        (
            {},
            with_matrix(A, np.ones((5, 64))),
            f"'{B}' is 64 x 4, but the model's layer 'blk.0.attn_q' with rank 5 needs 64",
        ),
        (
            {},
            with_matrix(B, np.ones((32, 4))),
            "is 32 x 4, but the model's layer 'blk.0.attn_q' with rank 4 needs 64 x 4",
        ),
        ({}, with_matrix(A, BROKEN), f"tensor '{A}' has values that are not finite"),
        ({}, with_matrix(A, -BROKEN, "fp16"), f"tensor '{A}' has values that are not finite"),
        ({}, with_matrix(B, np.full((64, 4), np.nan)), f"tensor '{B}' has values that are not finite"),
        ({}, quantized, "has the format w8a8, but adapters are fp32 or fp16"),
    ],
)
def test_a_file_at_odds_with_the_model_is_refused(
    llm: rkllm_ext.LLM,
    adapter: Path,
    tmp_path: Path,
    keys: dict[str, Any],
    change: Callable[[Rows], None] | None,
    sentence: str,
) -> None:
    path = rebuilt(adapter, tmp_path / "odd.rkllm", keys, change or (lambda rows: None))
    before = llm.logits(IDS)
    with pytest.raises(RKLLMError, match=r"odd\.rkllm") as caught:
        load(llm, path)
    assert sentence in str(caught.value)
    assert np.array_equal(llm.logits(IDS), before)
    llm.load_lora(adapter, "it")  # the name is free
    llm.release_lora("it")


def test_the_rebuilt_file_itself_is_sound(llm: rkllm_ext.LLM, adapter: Path, tmp_path: Path) -> None:
    assert rebuilt(adapter, tmp_path / "same.rkllm", {}).read_bytes() == adapter.read_bytes()


def test_an_adapter_converted_with_another_checkpoint_is_refused(
    llm: rkllm_ext.LLM, adapter: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_llama, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rope_theta": 5000.0}))
    convert_lora(adapter.parent / "peft", other, tmp_path / "other_lora.rkllm")
    with pytest.raises(
        ModelFileError, match="convert the adapter again, with the checkpoint that the model was made of"
    ):
        load(llm, tmp_path / "other_lora.rkllm")


def test_one_adapter_serves_every_format_of_its_checkpoint(adapter: Path, tiny_llama: Path, tmp_path: Path) -> None:
    for dtype in ("fp32", "w4a16_g32"):
        rkllm_ext.convert(tiny_llama, tmp_path / "m.rkllm", dtype)
        with rkllm_ext.LLM(tmp_path / "m.rkllm", max_context_len=64) as llm:
            load(llm, adapter)


# ---- names ----------------------------------------------------------------------------------------------------------


def test_names_that_are_unknown_or_no_names_are_refused(llm: rkllm_ext.LLM, adapter: Path) -> None:
    llm.load_lora(adapter, "one")
    for call in (llm.generate, llm.logits, llm.hidden_states):
        with pytest.raises(InvalidArgumentError, match="no adapter 'two' is loaded; loaded: one"):
            call("Hello", lora="two")
        with pytest.raises(InvalidArgumentError, match="lora is 3; a str, or None for none, is needed"):
            call("Hello", lora=3)
    with pytest.raises(InvalidArgumentError, match="an adapter 'one' is loaded already"):
        llm.load_lora(adapter, "one")
    with pytest.raises(InvalidArgumentError, match="scale is nan; a finite number is needed"):
        llm.load_lora(adapter, "two", scale=float("nan"))
    llm.release_lora("one")
    with pytest.raises(InvalidArgumentError, match="loaded: none"):
        llm.release_lora("one")


def test_an_override_lasts_for_one_call(llm: rkllm_ext.LLM, adapter: Path) -> None:
    plain = llm.logits("Hello")
    llm.load_lora(adapter, "it")
    try:
        changed = llm.logits("Hello", lora="it")
        assert not np.array_equal(changed, plain)
        assert np.array_equal(llm.logits("Hello"), plain)
        tokens = llm.generate("Hello", max_new_tokens=1, repeat_penalty=1.0, ignore_eos=True, lora="it").token_ids
        assert tokens[0] == changed[-1].argmax()
        assert np.array_equal(llm.logits("Hello", lora=None), plain)
        assert "".join(piece.text for piece in llm.stream("Hello", max_new_tokens=5, lora="it")) == (
            llm.generate("Hello", max_new_tokens=5, lora="it").text
        )
    finally:
        llm.release_lora("it")
    assert np.array_equal(llm.logits("Hello"), plain)


def test_adapters_are_not_changed_during_a_run(tiny_model: Path, adapter: Path) -> None:
    with rkllm_ext.LLM(tiny_model, max_context_len=16384) as llm:
        with llm.stream("Hello", max_new_tokens=-1, ignore_eos=True) as stream:
            next(stream)
            with pytest.raises(BusyError):
                llm.load_lora(adapter, "it")
            with pytest.raises(BusyError):
                llm.release_lora("it")
        with pytest.raises(InvalidArgumentError, match="loaded: none"):
            llm.release_lora("it")
