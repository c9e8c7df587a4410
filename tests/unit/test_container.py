# SPDX-License-Identifier: Apache-2.0
"""The GGUF reader refuses what is not sound, with a sentence, and never crashes."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import gguf as package
import numpy
import pytest
from gguf_bytes import ARRAY, BOOL, F32, I32, STRING, U8, U16, U32, U64, array, gguf, key, raw, sample, tensor, text

from rkllm_ext._rkllm import GGUFFile
from rkllm_ext.errors import ModelFileError

HUGE = 2**60


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


ONE = [tensor("t", [8])]
ATTACKS = {
    "2^60 tensors": (gguf(n_tensors=HUGE, n_keys=1) + bytes(19), "claims 1152921504606846976 tensors"),
    "2^60 keys": (gguf(n_keys=HUGE) + bytes(19), "claims 1152921504606846976 keys"),
    "more tensors than there are": (gguf([], ONE, bytes(96), n_tensors=2), "tensor number 1 has an empty name"),
    "key longer than the file": (gguf([struct.pack("<Q", 2**63) + bytes(40)]), "key number 0 ends 9223372036854775"),
    "key of 2^64 - 1 bytes": (gguf([b"\xff" * 8 + bytes(40)]), "key number 0 ends 18446744073709551575 bytes past"),
    "string longer than the file": (
        gguf([raw("a", STRING, struct.pack("<Q", HUGE))]),
        "key 'a' ends 1152921504606846976 bytes past the file",
    ),
    "array longer than the file": (
        gguf([array("a", U8, [1], count=2**63)]),
        "key 'a' claims 9223372036854775808 elements of at least 1 bytes, but 1 bytes are left",
    ),
    "array whose size wraps": (
        gguf([array("a", U64, [1], count=2**61 + 1)]),
        "key 'a' claims 2305843009213693953 elements of at least 8 bytes, but 8 bytes are left",
    ),
    "array of strings longer than the file": (gguf([array("a", STRING, ["x"], count=2**61 + 1)]), "'a' claims 2305843"),
    "string in an array longer than the file": (
        gguf([raw("a", ARRAY, struct.pack("<IQQ", STRING, 1, 2**62))]),
        "key 'a' ends 4611686018427387904 bytes past the file",
    ),
    "array of arrays": (
        gguf([raw("a", ARRAY, struct.pack("<IQIQ", ARRAY, 1, U8, 0))]),
        "key 'a' is an array of arrays, which is not supported",
    ),
    "unknown value type": (gguf([raw("a", 13, b"\0")]), "key 'a' has the unknown value type 13"),
    "unknown element type": (
        gguf([raw("a", ARRAY, struct.pack("<IQB", 99, 1, 0))]),
        "array of the unknown value type 99",
    ),
    "bool of 2": (gguf([raw("a", BOOL, b"\2")]), "key 'a' holds the bool 2"),
    "bool of 255 in an array": (
        gguf([raw("a", ARRAY, struct.pack("<IQBB", BOOL, 2, 1, 255))]),
        "key 'a' holds the bool 255, neither 0 nor 1",
    ),
    "key twice": (gguf([key("a", U8, 1), key("b", U8, 1), key("a", U16, 2)]), "key 'a' occurs twice"),
    "key that is not UTF-8": (gguf([key(b"a\xff", U8, 1)]), "key number 0 has a name that is not UTF-8"),
    "key with an overlong character": (gguf([key(b"a\xc0\xaf", U8, 1)]), "not UTF-8"),
    "key with a surrogate": (gguf([key(b"a\xed\xa0\x80", U8, 1)]), "not UTF-8"),
    "key with a NUL": (gguf([key(b"a\0b", U8, 1)]), "key number 0 has a name with a NUL byte"),
    "empty key": (gguf([key("", U32, 1)]), "key number 0 has an empty name"),
    "key of 65536 bytes": (gguf([key("a" * 65536, U8, 1)]), "has a name of 65536 bytes, more than 65535"),
    "alignment 0": (gguf([key("general.alignment", U32, 0)]), "'general.alignment' is 0; it must be a power of two"),
    "alignment 4": (gguf([key("general.alignment", U32, 4)]), "'general.alignment' is 4; it must be a power of two"),
    "alignment 48": (gguf([key("general.alignment", U32, 48)]), "is 48; it must be a power of two from 8 to 65536"),
    "alignment 2^31": (gguf([key("general.alignment", U32, 2**31)]), "is 2147483648; it must be a power of two"),
    "alignment -8": (gguf([key("general.alignment", I32, -8)]), "is -8; it must be a power of two"),
    "alignment as text": (gguf([key("general.alignment", STRING, "32")]), "is string, expected an integer"),
    "0 dimensions": (gguf([], [tensor("t", [], 0)], bytes(32)), "tensor 't' has 0 dimensions; 1 to 4 are possible"),
    "5 dimensions": (gguf([], [tensor("t", [1] * 5)], bytes(32)), "tensor 't' has 5 dimensions; 1 to 4 are possible"),
    "2^32 - 1 dimensions": (gguf([], [tensor("t", [8], n_dims=2**32 - 1)], bytes(32)), "has 4294967295 dimensions"),
    "dimension of 0": (gguf([], [tensor("t", [8, 0])], bytes(32)), "tensor 't' has the size 0 in dimension 1"),
    "product of dimensions wraps to 0": (gguf([], [tensor("t", [2**32, 2**32])], bytes(32)), "does not fit 64 bits"),
    "product of dimensions wraps to 8": (
        gguf([], [tensor("t", [2**61 + 1, 8], 24)], bytes(32)),
        "tensor 't' has dimensions whose product does not fit 64 bits",
    ),
    "bytes of the first row wrap": (gguf([], [tensor("t", [2**62 + 2])], bytes(32)), "does not fit 64 bits"),
    "unknown tensor type": (gguf([], [tensor("t", [8], 1000)], bytes(32)), "'t' has the unknown tensor type 1000"),
    "retired tensor type": (gguf([], [tensor("t", [8], 4)], bytes(32)), "tensor 't' has the unknown tensor type 4"),
    "row that is not whole blocks": (
        gguf([], [tensor("t", [33], 2)], bytes(64)),
        "tensor 't' has rows of 33 elements, not a multiple of 32, the block of Q4_0",
    ),
    "tensor past the file": (gguf([], [tensor("t", [40])], bytes(32)), "tensor 't' ends 128 bytes past the file"),
    "offset past the file": (gguf([], [tensor("t", [8], 0, 64)], bytes(32)), "tensor 't' ends 64 bytes past the file"),
    "offset that wraps": (
        gguf([], [tensor("t", [8], 0, 2**64 - 32)], bytes(32)),
        "tensor 't' has offset 18446744073709551584 and size 32, which do not fit 64 bits",
    ),
    "offset between alignments": (
        gguf([], [tensor("t", [8], 0, 8)], bytes(64)),
        "tensor 't' starts at offset 8, not a multiple of the alignment 32",
    ),
    "tensor twice": (gguf([], [*ONE, tensor("t", [8], 0, 32)], bytes(64)), "tensor 't' occurs twice"),
    "tensors at the same place": (
        gguf([], [*ONE, tensor("u", [8])], bytes(64)),
        "overlap by 32 bytes",
    ),
    "tensors that overlap": (
        gguf([], [tensor("u", [8], 0, 32), tensor("t", [9])], bytes(96)),
        "tensors 't' and 'u' overlap by 4 bytes",
    ),
    "tensor name that is not UTF-8": (gguf([], [tensor(b"\x80", [8])], bytes(32)), "tensor number 0 has a name that"),
    "version 1": (gguf(version=1), "the header has GGUF version 1; versions 2 and 3 are supported"),
    "version 4": (gguf(version=4), "the header has GGUF version 4; versions 2 and 3 are supported"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "the header is big-endian"),
    "safetensors": (struct.pack("<Q", 32) + b'{"a":{"dtype":"F32"}}', "this is a safetensors file"),
    "PyTorch": (b"PK\x03\x04" + bytes(60), "this is a PyTorch checkpoint"),
    "older GGML": (b"tjgg" + bytes(60), "older than GGUF"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "web page": (b"<!DOCTYPE html>", "web page"),
    "vendor's model": (b"RKLLM" + bytes(60), "whose format is closed: convert the original Hugging Face or GGUF model"),
    "something else": (b"hello", "is not a GGUF file"),
    "nothing": (b"", "is empty"),
}


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
