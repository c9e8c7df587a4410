# SPDX-License-Identifier: Apache-2.0
"""The module functions of the binding: lists, packing, GGUF files, tokenizers, and the gate for errors."""

from __future__ import annotations

import array
import gc
import pickle
from pathlib import Path

import gguf
import numpy as np
import pytest

from rkllm_ext import _rkllm, errors
from rkllm_ext.errors import InvalidArgumentError, ModelFileError

FORMATS = {row.name: row for row in _rkllm.formats()}
ROWS, COLS = 24, 512


def codes_and_scales(row: _rkllm.Format) -> tuple[np.ndarray, np.ndarray | None]:
    random = np.random.default_rng(row.bits + row.group)
    if not row.scale_bits:
        values = random.standard_normal((ROWS, COLS)).astype(np.float16)
        return values.astype(np.float32), None
    low, high = (0, 16) if row.bits == 4 else (-127, 128)
    codes = random.integers(low, high, (ROWS, COLS)).astype(np.int8)
    scales = random.uniform(0.01, 1.0, (ROWS, COLS // row.group if row.group else 1)).astype(np.float16)
    return codes, scales.astype(np.float32)


def weights(row: _rkllm.Format, codes: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
    if scales is None:
        return codes
    zero = 8 if row.bits == 4 else 0
    return (codes.astype(np.float32) - zero) * np.repeat(scales, COLS // scales.shape[1], axis=1)


def test_lists_name_what_the_design_names() -> None:
    offered = [row.name for row in _rkllm.formats() if row.offered]
    assert offered[:3] == ["fp32", "fp16", "w8a8"]
    assert FORMATS["w4a16_g32"] == ("w4a16_g32", 4, 32, 16, 16, True)
    fields = {field.name: field for field in _rkllm.spec_fields()}
    assert fields["n_layers"].default is None
    assert fields["n_layers"].type == "u32"
    assert fields["activation"].default == "silu"
    assert _rkllm.isas()[0] == "scalar"
    assert _rkllm.active_isa() in _rkllm.isas()


@pytest.mark.parametrize("name", FORMATS)
def test_unpack_returns_what_was_packed(name: str) -> None:
    codes, scales = codes_and_scales(FORMATS[name])
    packed = _rkllm.pack(name, codes, scales)
    assert len(packed) == _rkllm.packed_size(name, ROWS, COLS)
    np.testing.assert_array_equal(_rkllm.unpack(name, ROWS, COLS, packed), weights(FORMATS[name], codes, scales))


@pytest.mark.parametrize("name", FORMATS)
def test_matmul_is_the_product_with_the_unpacked_weights(name: str) -> None:
    row = FORMATS[name]
    codes, scales = codes_and_scales(row)
    x = np.random.default_rng(5).standard_normal((3, COLS)).astype(np.float32)
    product = _rkllm.matmul(name, ROWS, COLS, _rkllm.pack(name, codes, scales), x, n_threads=2)
    exact = x.astype(np.float64) @ weights(row, codes, scales).astype(np.float64).T
    # The activations are rounded to 8 or 16 bits, or to none.
    bound = {8: 2e-2, 16: 1e-3, 32: 1e-5}[row.activation_bits] * np.abs(exact).max()
    assert product.shape == (3, ROWS)
    np.testing.assert_allclose(product, exact, rtol=0, atol=bound)


def test_what_does_not_fit_a_format_is_refused() -> None:
    codes, scales = codes_and_scales(FORMATS["w8a8_g128"])
    assert scales is not None
    with pytest.raises(InvalidArgumentError, match=r"w9.*does not exist.*w8a8"):
        _rkllm.packed_size("w9", 16, 32)
    with pytest.raises(InvalidArgumentError, match="rows is 0"):
        _rkllm.packed_size("w8a8", 0, 32)
    with pytest.raises(InvalidArgumentError, match=r"rows is 2.5; an integer"):
        _rkllm.packed_size("w8a8", 2.5, 32)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=r"codes has elements 'f'.*int8"):
        _rkllm.pack("w8a8_g128", codes.astype(np.float32), scales)
    with pytest.raises(InvalidArgumentError, match="codes has 1 dimensions"):
        _rkllm.pack("w8a8_g128", codes[0], scales)
    with pytest.raises(InvalidArgumentError, match=r"95 scales .* 96 are needed"):
        _rkllm.pack("w8a8_g128", codes, np.ascontiguousarray(scales.reshape(-1)[:-1]))
    with pytest.raises(InvalidArgumentError, match="has scales"):
        _rkllm.pack("w8a8_g128", codes)
    with pytest.raises(InvalidArgumentError, match="has no scales"):
        _rkllm.pack("fp32", codes.astype(np.float32), scales)
    with pytest.raises(InvalidArgumentError, match="not C-contiguous"):
        _rkllm.pack("w8a8_g128", codes[:, ::2], scales)
    packed = _rkllm.pack("w8a8_g128", codes, scales)
    with pytest.raises(InvalidArgumentError, match=f"{len(packed) - 1} bytes; {len(packed)} is the size"):
        _rkllm.unpack("w8a8_g128", ROWS, COLS, packed[:-1])
    with pytest.raises(InvalidArgumentError, match="rows of 511; the matrix has 512 columns"):
        _rkllm.matmul("w8a8_g128", ROWS, COLS, packed, np.zeros((1, 511), np.float32))


def test_a_code_outside_its_bits_is_refused() -> None:
    codes, scales = codes_and_scales(FORMATS["w4a16_g32"])
    codes[3, 7] = 16
    with pytest.raises(InvalidArgumentError):
        _rkllm.pack("w4a16_g32", codes, scales)


def checksum_in_numpy(data: bytes) -> int:
    mask = 2**64 - 1
    words = np.frombuffer(data + bytes(-len(data) % 64), "<u8").reshape(-1, 8)
    h = len(data)
    for column in range(8):
        a = b = 0
        for word in words[:, column]:
            a = (a + int(word)) & mask
            b = (b + a) & mask
        for part in (a, b):
            h = ((h ^ part) * 0x9E3779B97F4A7C15) & mask
            h = ((h << 29) | (h >> 35)) & mask
    return h


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1000])
def test_checksum_is_the_documented_one(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert _rkllm.checksum(data) == checksum_in_numpy(data)
    assert _rkllm.checksum(bytearray(data)) == _rkllm.checksum(memoryview(data))


# ---- GGUF files -----------------------------------------------------------------------------------------------------


@pytest.fixture()
def small_gguf(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("a.u32", 7)
    writer.add_float32("a.f32", 0.5)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "größe")
    writer.add_int64("a.i64", -(2**40))
    writer.add_array("a.texts", ["x", "", "ß"])
    writer.add_array("a.numbers", [1, 2, 3])
    writer.add_tensor("t.first", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("t.second", np.arange(5, dtype=np.int8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf_values_and_tensors_are_those_of_the_gguf_package(small_gguf: Path) -> None:
    with _rkllm.GGUFFile(small_gguf) as file:
        assert file.values["a.u32"] == 7
        assert file.values["a.f32"] == 0.5
        assert file.values["a.bool"] is True
        assert file.values["a.text"] == "größe"
        assert file.values["a.i64"] == -(2**40)
        assert file.values["a.texts"] == ["x", "", "ß"]
        assert list(file.values["a.numbers"]) == [1, 2, 3]
        assert "missing" not in file.values
        assert list(file.tensors) == ["t.first", "t.second"]
        first = file.tensors["t.first"]
        assert first.dims == (4, 3)
        assert first.data.readonly
        np.testing.assert_array_equal(np.frombuffer(first.data, np.float32), np.arange(12))


def test_a_view_of_a_tensor_outlives_the_file(small_gguf: Path) -> None:
    file = _rkllm.GGUFFile(small_gguf)
    view = np.frombuffer(file.tensors["t.first"].data, np.float32)
    file.close()
    file.close()
    assert len(file.tensors) == 0
    del file
    gc.collect()
    np.testing.assert_array_equal(view, np.arange(12))


def test_a_damaged_gguf_file_is_a_model_file_error(small_gguf: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(small_gguf.read_bytes()[:100])
    with pytest.raises(ModelFileError, match=r"cut\.gguf"):
        _rkllm.GGUFFile(cut)
    with pytest.raises(ModelFileError, match="missing"):
        _rkllm.GGUFFile(tmp_path / "missing.gguf")
    with pytest.raises(InvalidArgumentError, match="NUL"):
        _rkllm.GGUFFile("a\0b")


# ---- tokenizers -----------------------------------------------------------------------------------------------------


def test_tokenizer_returns_to_the_text(tiny_model: Path) -> None:
    with _rkllm.Tokenizer(tiny_model) as tokenizer:
        ids = tokenizer.encode("Hello wörld 猫")
        assert ids.dtype == np.int32
        assert ids.max() < tokenizer.vocab_size
        assert tokenizer.decode(ids) == "Hello wörld 猫"
        assert tokenizer.decode(list(ids)) == "Hello wörld 猫"
        assert tokenizer.decode(array.array("i", ids)) == "Hello wörld 猫"
        assert tokenizer.encode("Hello wörld 猫".encode()).tolist() == ids.tolist()
        assert tokenizer.encode("").tolist() == []
        assert tokenizer.decode([]) == ""


def test_special_tokens_are_parsed_unless_told_otherwise(tiny_model: Path) -> None:
    with _rkllm.Tokenizer(tiny_model) as tokenizer:
        special = tokenizer.token_id("<|im_start|>")
        assert special is not None
        assert tokenizer.encode("<|im_start|>").tolist() == [special]
        assert special not in tokenizer.encode("<|im_start|>", parse_special=False)
        assert tokenizer.decode([special]) == "<|im_start|>"
        assert tokenizer.decode([special], skip_special=True) == ""
        assert tokenizer.token_id("no such token") is None


def test_text_that_is_no_text_is_read_as_replacement_characters(tiny_model: Path) -> None:
    with _rkllm.Tokenizer(tiny_model) as tokenizer:
        assert tokenizer.decode(tokenizer.encode(b"a\xffb")) == "a\ufffdb"
        assert "\ufffd" in tokenizer.decode(tokenizer.encode("a\ud800b"))


def test_a_wrong_use_of_a_tokenizer_is_refused(tiny_model: Path) -> None:
    tokenizer = _rkllm.Tokenizer(tiny_model)
    with pytest.raises(InvalidArgumentError, match="text is a int"):
        tokenizer.encode(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="ids has elements 'l'"):
        tokenizer.decode(np.arange(3))
    with pytest.raises(InvalidArgumentError, match=r"id 1 is 300; the vocabulary is 0 ... 299"):
        tokenizer.decode([5, 300])
    with pytest.raises(InvalidArgumentError, match="id 0 is -1"):
        tokenizer.decode([-1])
    with pytest.raises(InvalidArgumentError, match="32 bits"):
        tokenizer.decode([2**40])
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(tokenizer)
    tokenizer.close()
    tokenizer.close()
    with pytest.raises(InvalidArgumentError, match="closed"):
        tokenizer.encode("x")


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_every_error_code_has_its_exception() -> None:
    rows = [line for line in Path(__file__).parents[2].joinpath("src/runtime/errors.def").read_text().splitlines()]
    names = [line.split(",")[2].strip() for line in rows if line.startswith("ERROR(")]
    assert len(names) >= 9
    for name in names:
        assert issubclass(getattr(errors, name), errors.RKLLMError)
