# SPDX-License-Identifier: Apache-2.0
"""The GGUF reader refuses what is not sound, with a sentence, and never crashes."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import gguf as package
import numpy
import pytest
from gguf_bytes import F32, STRING, U8, U32, array, gguf, key, sample, tensor, text
from hostile_gguf import ATTACKS

from rkllm_ext._rkllm import GGUFFile
from rkllm_ext.errors import ModelFileError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def refusal(path: Path, content: bytes) -> str:
    """Return the sentence with which a file is refused, without its path."""
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        GGUFFile(str(path))
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ")
    return sentence[len(f"{path}: ") :]


def read_everything(path: Path) -> int:
    """Open a file, touch each byte of its tensors and return how many there are."""
    with GGUFFile(str(path)) as file:
        assert all(isinstance(name, str) for name in file.values)
        return sum(len(bytes(found.data)) for found in file.tensors.values())


def test_a_sound_file_is_read_as_it_was_written(model: Path) -> None:
    model.write_bytes(sample())
    with GGUFFile(str(model)) as file:
        assert file.values["general.architecture"] == "sample"
        assert [file.values[f"number.{kind}"] for kind in (0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12)] == [1] * 11
        assert list(file.values["list.numbers"]) == [3, -4, 5]
        assert list(file.values["list.texts"]) == ["", "a", "日本"]
        assert list(file.values["list.flags"]) == [True, False]
        assert list(file.values["list.empty"]) == []
        assert [(found.name, found.type, tuple(found.dims)) for found in file.tensors.values()] == [
            ("one", 0, (8,)),
            ("two", 2, (32, 2)),
            ("three", 1, (2, 2, 2, 2)),
        ]
        assert struct.unpack("<8f", file.tensors["one"].data) == tuple(range(8))
        assert bytes(file.tensors["two"].data) == bytes(range(36))
        assert file.tensors["one"].data.readonly


def test_what_the_gguf_package_writes_is_read_alike(model: Path) -> None:
    writer = package.GGUFWriter(str(model), "sample")
    writer.add_uint32("a.number", 7)
    writer.add_array("a.list", ["x", "y"])
    writer.add_tensor("first", numpy.arange(6, dtype=numpy.float32).reshape(2, 3))
    writer.add_tensor("second", numpy.arange(4, dtype=numpy.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUFFile(str(model)) as file:
        assert file.values["a.number"] == 7
        assert list(file.values["a.list"]) == ["x", "y"]
        assert tuple(file.tensors["first"].dims) == (3, 2)
        assert numpy.frombuffer(file.tensors["second"].data, "<f2").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("version", [2, 3])
def test_versions_2_and_3_are_read(model: Path, version: int) -> None:
    model.write_bytes(gguf([key("a", U32, 1)], version=version))
    assert GGUFFile(str(model)).values["a"] == 1


def test_every_tensor_type_has_the_size_that_the_gguf_package_gives_it(model: Path) -> None:
    sizes = package.constants.GGML_QUANT_SIZES
    for kind, (block, n_bytes) in sizes.items():
        description = tensor("t", [block * 2, 3], int(kind))
        model.write_bytes(gguf([], [description], bytes(6 * n_bytes)))
        assert len(GGUFFile(str(model)).tensors["t"].data) == 6 * n_bytes
        assert "'t' ends 1 bytes past the file" in refusal(model, gguf([], [description], bytes(6 * n_bytes - 1)))


def test_a_file_cut_anywhere_is_refused(model: Path) -> None:
    whole = sample()
    for length in range(len(whole)):
        assert refusal(model, whole[:length]), length
    model.write_bytes(whole)
    assert read_everything(model) == 32 + 36 + 32


def test_any_flipped_bit_of_the_header_gives_a_file_or_a_sentence(model: Path) -> None:
    whole = sample()
    header = len(whole) - 128
    refused = 0
    with model.open("wb") as file:
        for bit in range(header * 8):
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            file.seek(0)
            file.write(changed)
            file.flush()
            try:
                assert read_everything(model) <= len(whole)
            except ModelFileError as error:
                refused += 1
                assert str(error).startswith(f"{model}: ")
    assert refused > header  # most bits of counts, lengths, types and offsets matter


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_file_is_refused_with_its_sentence(model: Path, attack: str) -> None:
    content, sentence = ATTACKS[attack]
    assert sentence in refusal(model, content)


def test_a_vendor_model_is_recognised_by_its_name(tmp_path: Path) -> None:
    assert "vendor's toolkit" in refusal(tmp_path / "qwen.rkllm", b"\x01\x02\x03\x04")


def test_control_characters_and_long_names_do_not_reach_a_sentence(model: Path) -> None:
    sentence = refusal(model, gguf([key("\x1b[31m" + "é" * 500, U8, 1)] * 2))
    assert "\x1b" not in sentence
    assert len(sentence) < 200
    assert "...' occurs twice" in sentence


def test_what_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    for path, sentence in [
        (tmp_path, "is a directory"),
        (pipe, "is not a regular file"),
        (tmp_path / "absent.gguf", "there is no such file"),
    ]:
        with pytest.raises(ModelFileError, match=sentence):
            GGUFFile(str(path))


def test_strings_that_are_not_utf8_survive_as_values(model: Path) -> None:
    model.write_bytes(gguf([key("a", STRING, b"\xff\xfe"), array("b", STRING, [b"\x80"])]))
    values = GGUFFile(str(model)).values
    assert values["a"].encode("utf-8", "surrogateescape") == b"\xff\xfe"
    assert values["b"][0].encode("utf-8", "surrogateescape") == b"\x80"


def test_an_array_that_claims_one_string_more_than_there_are_is_refused(model: Path) -> None:
    content = gguf([array("a", STRING, ["x"] * 1000, count=1001)]) + text("y")[:7]
    assert "key 'a' ends 1 bytes past the file" in refusal(model, content)


def test_larger_alignments_place_the_data(model: Path) -> None:
    keys = [key("general.alignment", U32, 4096)]
    model.write_bytes(gguf(keys, [tensor("t", [1])], struct.pack("<f", 2.5), alignment=4096))
    assert struct.unpack("<f", GGUFFile(str(model)).tensors["t"].data) == (2.5,)


def test_real_models_are_read_like_the_gguf_package_reads_them(shared: Path) -> None:
    for path in sorted((shared / "models" / "stories260K" / "gguf").glob("*.gguf")):
        expected = package.GGUFReader(str(path))
        with GGUFFile(str(path)) as file:
            assert list(file.tensors) == [found.name for found in expected.tensors]
            for found in expected.tensors:
                assert bytes(file.tensors[found.name].data) == found.data.tobytes()
            assert set(file.values) == {name for name in expected.fields if not name.startswith("GGUF.")}


def test_f32_values_are_exact(model: Path) -> None:
    model.write_bytes(gguf([key("a", F32, 0.1)]))
    assert GGUFFile(str(model)).values["a"] == struct.unpack("<f", struct.pack("<f", 0.1))[0]
