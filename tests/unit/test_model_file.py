# SPDX-License-Identifier: Apache-2.0
"""A .rkllm file that is cut, altered, of another version or at odds with itself is refused with a sentence."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import rkllm_ext
from rkllm_ext import _rkllm
from rkllm_ext.errors import ModelFileError, RKLLMError, UnsupportedModelError
from rkllm_ext.readers import open_checkpoint
from rkllm_ext.writer import Entry, ModelWriter


@pytest.fixture(scope="module")
def model(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.rkllm"
    rkllm_ext.convert(tiny_llama, path, "w4a16_g32")
    return path


Write = Callable[[bytes], Path]


@pytest.fixture
def written(tmp_path: Path) -> Write:
    def write(content: bytes) -> Path:
        path = tmp_path / "changed.rkllm"
        path.write_bytes(content)
        return path

    return write


def open_and_close(path: Path) -> None:
    rkllm_ext.LLM(path, max_context_len=32).close()


def test_a_sound_file_is_opened(model: Path) -> None:
    open_and_close(model)


def test_a_file_cut_anywhere_is_refused(model: Path, written: Write) -> None:
    content = model.read_bytes()
    lengths = [0, 1, 3, 4, 8, 23, 24, *range(100, len(content), 1777), len(content) - 64, len(content) - 1]
    for length in lengths:
        with pytest.raises(ModelFileError, match=r"changed\.rkllm"):
            open_and_close(written(content[:length]))


def test_any_flipped_bit_is_noticed(model: Path, written: Write) -> None:
    """In the header, in weights, in scales, in padding that a tensor owns, in the checksums themselves."""
    content = bytearray(model.read_bytes())
    draw = random.Random(6)
    # Bytes that fill the gaps between tensors belong to nobody; flips there change nothing that is read.
    owned = owned_bytes(model)
    for position in draw.sample(owned, 400):
        bit = 1 << draw.randrange(8)
        content[position] ^= bit
        with pytest.raises((ModelFileError, UnsupportedModelError), match=r"changed\.rkllm"):
            open_and_close(written(bytes(content)))
        content[position] ^= bit
    open_and_close(written(bytes(content)))


def owned_bytes(path: Path) -> list[int]:
    reader = gguf.GGUFReader(path)
    positions = list(range(min(int(tensor.data_offset) for tensor in reader.tensors)))
    for tensor in reader.tensors:
        positions += range(int(tensor.data_offset), int(tensor.data_offset) + int(tensor.n_bytes))
    return positions


def test_bytes_behind_the_end_are_refused_or_ignored(model: Path, written: Write) -> None:
    try:
        open_and_close(written(model.read_bytes() + b"\0" * 64))
    except ModelFileError as error:
        assert "changed.rkllm" in str(error)


# ---- files that are whole but wrong --------------------------------------------------------------------------------


DERIVED = ("general.alignment", "rkllm.tensor.")  # keys that the writer makes from the tensors


def rebuilt(model: Path, out: Path, keys: dict[str, Any] | None = None, drop: str = "", add: bool = False) -> Path:
    """Write the file again with other keys or tensors, and with checksums that fit. None takes a key away."""
    with _rkllm.GGUFFile(model) as file:
        values = {name: value for name, value in file.values.items() if not name.startswith(DERIVED)}
        values.update(keys or {})
        columns = [file.values[f"rkllm.tensor.{column}"] for column in ("format", "rows", "cols")]
        rows = dict(zip(file.tensors, zip(*columns)))
        kept = {name: row for name, row in rows.items() if name not in (drop, "checksums")}
        entries = [Entry(name, format, int(n), int(k)) for name, (format, n, k) in kept.items()]
        content = [bytes(file.tensors[entry.name].data) for entry in entries]
        if add:
            entries.append(Entry("surplus.weight", "", 1, 4))
            content.append(bytes(16))
        typed = [(name, type_of(value), value) for name, value in values.items() if value is not None]
        with ModelWriter(out, typed, entries) as writer:
            for data in content:
                writer.write(data)
    return out


def type_of(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return {"float32": "[f32]", "uint32": "[u32]", "int32": "[i32]", "bool": "[bool]"}[value.dtype.name]
    if isinstance(value, list):
        return "[u32]" if value and isinstance(value[0], int) else "[string]"
    return {bool: "bool", str: "string", float: "f32", int: "u32"}[type(value)]


def test_the_rebuilt_file_itself_is_sound(model: Path, tmp_path: Path) -> None:
    open_and_close(rebuilt(model, tmp_path / "same.rkllm"))


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"rkllm.version": 2}, "version 2 of the format, this library reads 1"),
        ({"rkllm.version": None}, "rkllm.version"),
        ({"rkllm.required": ["time_travel"]}, "needs the feature 'time_travel'"),
        ({"rkllm.spec.time_travel": 1}, "needs the feature 'time_travel'"),
        ({"rkllm.spec.n_layers": None}, "rkllm.spec.n_layers"),
        ({"rkllm.spec.n_layers": 0}, "rkllm.spec.n_layers is 0"),
        ({"rkllm.spec.n_layers": 3}, "tensor 'blk.2."),
        ({"rkllm.spec.n_layers": 1}, "tensor 'blk.1."),
        ({"rkllm.spec.n_layers": 2**31}, "n_layers"),
        ({"rkllm.spec.n_kv_heads": 3}, "3 key heads"),
        ({"rkllm.spec.head_dim": 32}, "but the spec needs"),
        ({"rkllm.spec.rope_dim": 15}, "rope_dim is 15, which is odd"),
        ({"rkllm.spec.dim": 128}, "is 300 x 64, but the spec needs 300 x 128"),
        ({"rkllm.spec.vocab_size": 299}, "but the spec needs 299 x 64"),
        ({"rkllm.spec.activation": "sin"}, "the activation 'sin'"),
        ({"rkllm.spec.norm_eps": 2.0}, "norm_eps"),
        ({"rkllm.spec.max_context": "long"}, "rkllm.spec.max_context"),
        ({"general.type": "adapter"}, "is of the type 'adapter', not 'model'"),
        ({"rkllm.end_tokens": [300]}, "rkllm.end_tokens has an id outside the vocabulary"),
        ({"rkllm.format": None}, "rkllm.format"),
    ],
)
def test_a_file_at_odds_with_itself_is_refused(
    model: Path, tmp_path: Path, keys: dict[str, Any], sentence: str
) -> None:
    path = rebuilt(model, tmp_path / "odd.rkllm", keys)
    with pytest.raises((ModelFileError, UnsupportedModelError), match=r"odd\.rkllm") as caught:
        open_and_close(path)
    assert sentence in str(caught.value)


def test_a_missing_tensor_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"tensor 'blk\.1\.ffn_up\.weight' is missing"):
        open_and_close(rebuilt(model, tmp_path / "less.rkllm", drop="blk.1.ffn_up.weight"))


def test_a_tensor_that_nobody_knows_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"tensor 'surplus\.weight' is not known"):
        open_and_close(rebuilt(model, tmp_path / "more.rkllm", add=True))


def test_a_gguf_model_that_was_not_converted_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "source.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelFileError, match=r"'llama', not a \.rkllm model; convert it: rkllm-ext convert"):
        open_and_close(path)


def test_a_refused_file_leaves_the_process_able_to_open_another(model: Path, written: Write) -> None:
    for _ in range(20):
        with pytest.raises(RKLLMError):
            open_and_close(written(model.read_bytes()[:-100]))
    with rkllm_ext.LLM(model, max_context_len=32) as llm:
        assert len(llm.generate("hello", max_new_tokens=3, ignore_eos=True).token_ids) == 3


def test_a_replaced_file_is_not_mistaken_for_the_open_one(model: Path, tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.rkllm"
    path.write_bytes(model.read_bytes())
    with rkllm_ext.LLM(path, max_context_len=32) as old:
        rkllm_ext.convert(tiny_llama, path, "w8a8")
        with rkllm_ext.LLM(path, max_context_len=32) as new:
            assert (old.info.format, new.info.format) == ("w4a16_g32", "w8a8")
            assert np.isfinite(old.logits("hello")).all()


def test_the_small_model_is_what_these_tests_take_it_for(tiny_llama: Path) -> None:
    with open_checkpoint(tiny_llama) as checkpoint:
        assert (checkpoint.config["num_hidden_layers"], checkpoint.config["vocab_size"]) == (2, 300)
