# SPDX-License-Identifier: Apache-2.0
"""Source models are found, read one tensor at a time, and told apart from what is not a source model."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import gguf as package
import numpy as np
import pytest
from gguf_bytes import STRING, U32, gguf, key, tensor
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors_bytes import folder, row, safetensors

from rkllm_ext.errors import ModelFileError
from rkllm_ext.readers import gguf as gguf_reader
from rkllm_ext.readers import open_checkpoint

FLOATS = np.arange(8, dtype=np.float32) / 3


def one_tensor(dtype: str = "F32", data: bytes = FLOATS.tobytes(), shape: tuple[int, ...] = (2, 4)) -> bytes:
    return safetensors({"a": row(list(shape), 0, len(data), dtype)}, data)


def refusal(path: Path, kind: type[Exception] = ModelFileError) -> str:
    """Return the sentence with which a source is refused when it is opened or read."""
    with pytest.raises(kind) as caught, open_checkpoint(path) as source:
        for name in source.tensor_names:
            source.load(name)
    return str(caught.value)


# ---- the small model of the repository ----


def test_the_tiny_model_is_what_its_generator_makes(repo: Path, tiny_llama: Path, tmp_path: Path) -> None:
    make = runpy.run_path(str(repo / "tests" / "data" / "make_tiny_llama.py"))["make"]
    make(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in tiny_llama.iterdir())
    for path in tiny_llama.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_hugging_face_directory_is_read(tiny_llama: Path) -> None:
    with open_checkpoint(str(tiny_llama)) as source:
        assert source.kind == "huggingface"
        assert source.path == tiny_llama
        assert source.config["model_type"] == "llama"
        assert len(source.tensor_names) == 20
        assert source.shape("model.layers.1.mlp.down_proj.weight") == (64, 128)
        assert source.dtype("model.norm.weight") == "BF16"
        weights = source.load("model.embed_tokens.weight")
        assert (weights.dtype, weights.shape) == (np.float32, (300, 64))
        assert np.array_equal(weights * 128, np.round(weights * 128))
        assert (weights.min(), weights.max()) == (-0.25, 0.25)
        assert source.load_codes("model.embed_tokens.weight") is None


# ---- safetensors ----


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_what_the_safetensors_package_writes_is_read_alike(tmp_path: Path, dtype: str) -> None:
    random = np.random.default_rng(1)
    arrays = {name: random.standard_normal(shape).astype(dtype) for name, shape in {"m": (3, 5), "v": (7,)}.items()}
    save_file(arrays, str(folder(tmp_path, {}) / "model.safetensors"))
    with open_checkpoint(tmp_path) as source:
        assert sorted(source.tensor_names) == ["m", "v"]
        for name, expected in arrays.items():
            assert source.shape(name) == expected.shape
            assert np.array_equal(source.load(name), expected.astype(np.float32))


def test_bfloat16_is_widened_exactly_not_a_number_and_infinities_included(tmp_path: Path) -> None:
    upper = np.array([0x3F80, 0xC000, 0x0001, 0x7F80, 0xFF80, 0x7FC0, 0x8000, 0x3DCD], "<u2")
    folder(tmp_path, {"model.safetensors": one_tensor("BF16", upper.tobytes(), (8,))})
    loaded = open_checkpoint(tmp_path).load("a")
    assert np.array_equal(loaded.view(np.uint32), upper.astype(np.uint32) << 16)


def test_a_scalar_and_an_empty_tensor_are_read(tmp_path: Path) -> None:
    header = {"empty": row([0, 3], 0, 0), "scalar": row([], 0, 4)}
    folder(tmp_path, {"model.safetensors": safetensors(header, np.float32(2.5).tobytes())})
    with open_checkpoint(tmp_path) as source:
        assert source.load("empty").shape == (0, 3)
        assert source.load("scalar").tolist() == 2.5


def test_reading_one_tensor_does_not_read_the_others(tmp_path: Path) -> None:
    import tracemalloc

    big = 1 << 31
    content = safetensors({"small": row([8], 0, 32), "big": row([big // 4], 32, 32 + big)}, FLOATS.tobytes())
    path = folder(tmp_path, {"model.safetensors": content}) / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(len(content) + big)  # a hole: it takes no space
    tracemalloc.start()
    try:
        assert np.array_equal(open_checkpoint(tmp_path).load("small"), FLOATS)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    index = {"metadata": {}, "weight_map": {"b": "m-2-of-2.st", "a": "m-1-of-2.st"}}
    shards = {
        "m-1-of-2.st": {"a": row([8], 0, 32), "unlisted": row([0], 32, 32)},
        "m-2-of-2.st": {"b": row([8], 0, 32)},
    }
    folder(tmp_path, {"model.safetensors.index.json": index})
    for number, (name, header) in enumerate(shards.items()):
        (tmp_path / name).write_bytes(safetensors(header, (FLOATS + number).tobytes()))
    with open_checkpoint(tmp_path) as source:
        assert source.tensor_names == ["b", "a"]
        assert np.array_equal(source.load("a"), FLOATS)
        assert np.array_equal(source.load("b"), FLOATS + 1)
        assert set(source.files) == {"config.json", "model.safetensors.index.json", *shards}

    (tmp_path / "m-1-of-2.st").write_bytes(one_tensor().replace(b'"a"', b'"z"'))
    assert "m-1-of-2.st: tensor 'a', which model.safetensors.index.json places here, is missing" in refusal(tmp_path)
    (tmp_path / "m-1-of-2.st").unlink()
    assert refusal(tmp_path).endswith("shard m-1-of-2.st with tensor 'a' is missing; download it again")


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ({"weight_map": {"a": "../elsewhere.safetensors"}}, "'../elsewhere.safetensors', which is not a file name"),
        ({"weight_map": {"a": "/etc/passwd"}}, "tensor 'a' is placed in '/etc/passwd', which is not a file name"),
        ({"weight_map": {"a": ".."}}, "shard .. with tensor 'a' is missing"),
        ({"weight_map": {"a": 3}}, "tensor 'a' is placed in 3, which is not a file name"),
        ({"weight_map": {}}, "has no 'weight_map'"),
        ({"weight_map": ["a"]}, "has no 'weight_map'"),
        ("[]", "model.safetensors.index.json is a JSON list, expected an object"),
        ("{", "model.safetensors.index.json is not JSON at line 1, column 2"),
    ],
)
def test_a_bad_index_is_refused(tmp_path: Path, index: dict[str, object] | str, sentence: str) -> None:
    assert sentence in refusal(folder(tmp_path, {"model.safetensors.index.json": index}))


HOSTILE = {
    "header of 2^60 bytes": (safetensors({}, b"x" * 35, length=2**60), "claims a header of 1152921504606846976 bytes"),
    "header longer than the file": (safetensors({}, length=3), "claims a header of 3 bytes in a file of 10"),
    "shorter than a length": (b"abc", "in a file of 3: it is cut or not a safetensors file"),
    "not UTF-8": (safetensors(b'{"\xff":1}'), "model.safetensors: the header is not UTF-8 at byte 2"),
    "not JSON": (safetensors(b'{"a":'), "the header is not JSON at line 1, column 6"),
    "deeply nested": (safetensors(b"[" * 100_000), "the header is not"),
    "not an object": (safetensors([]), "the header is a JSON list, expected an object"),
    "no rows": (safetensors({"a": 5}), "model.safetensors: tensor 'a' lacks a dtype, a shape or two data_offsets"),
    "one offset": (safetensors({"a": {"dtype": "F32", "shape": [], "data_offsets": [0]}}), "two data_offsets"),
    "negative shape": (safetensors({"a": row([-2, -4], 0, 32)}, bytes(32)), "has dtype 'F32', shape [-2, -4]"),
    "fractional offset": (safetensors({"a": row([8], 0, 32.0)}, bytes(32)), "tensor 'a' has dtype"),  # type: ignore[arg-type]
    "true as a size": (safetensors({"a": row([True], 0, 4)}, bytes(4)), "tensor 'a' has dtype"),
    "cut data": (one_tensor()[:-5], "model.safetensors: tensor 'a' ends 5 bytes past the file; download it again"),
    "offset of 2^63": (safetensors({"a": row([8], 2**63, 2**63 + 32)}, bytes(32)), "tensor 'a' ends 9223372036854775"),
    "shape of 2^80 elements": (safetensors({"a": row([2**40, 2**40], 0, 32)}, bytes(32)), "but has 32"),
    "shape and size disagree": (safetensors({"a": row([9], 0, 32)}, bytes(32)), "[9] needs 36 bytes, but has 32"),
    "offsets reversed": (safetensors({"a": row([8], 32, 0)}, bytes(32)), "tensor 'a' of shape [8] needs 32 bytes"),
    "overlap": (safetensors({"a": row([4], 0, 16), "b": row([4], 8, 24)}, bytes(24)), "not a valid safetensors file"),
    "hole": (safetensors({"a": row([4], 0, 16), "b": row([4], 24, 40)}, bytes(40)), "not a valid safetensors file"),
    "bytes behind the data": (one_tensor() + b"x", "is not a valid safetensors file"),
    "unknown type": (one_tensor("F33"), "is not a valid safetensors file"),
    "integers": (one_tensor("I32"), "model.safetensors: tensor 'a' is of type I32; F64, F32, F16, BF16 can be read"),
    "tensor twice": (
        safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{}}', bytes(4)),
        "model.safetensors: the header has the key 'a' twice",
    ),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_safetensors_file_is_refused_with_its_sentence(tmp_path: Path, attack: str) -> None:
    content, sentence = HOSTILE[attack]
    assert sentence in refusal(folder(tmp_path, {"model.safetensors": content}))


def test_a_safetensors_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = one_tensor()
    for length in range(len(whole)):
        assert "model.safetensors" in refusal(folder(tmp_path, {"model.safetensors": whole[:length]})), length


def test_any_flipped_bit_of_a_safetensors_header_gives_tensors_or_a_sentence(tmp_path: Path) -> None:
    whole = one_tensor()
    opened = 0
    for bit in range((len(whole) - 32) * 8):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        folder(tmp_path, {"model.safetensors": bytes(changed)})
        try:
            source = open_checkpoint(tmp_path)
            assert all(source.load(name).size == 8 for name in source.tensor_names)
            opened += 1
        except ModelFileError as error:
            assert "model.safetensors" in str(error)
    assert opened > 0  # the tensor's name may change


def test_a_file_that_is_cut_after_opening_is_noticed(tmp_path: Path) -> None:
    folder(tmp_path, {"model.safetensors": one_tensor()})
    source = open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(one_tensor()[:-4])
    with pytest.raises(ModelFileError, match="tensor 'a' has 7 of 8 elements left"):
        source.load("a")


def test_an_absent_tensor_is_named(tmp_path: Path, tiny_llama: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf([], [tensor("t", [8])], bytes(32)))
    for path in (tiny_llama, tmp_path / "m.gguf"):
        with open_checkpoint(path) as source:
            for call in (source.load, source.shape, source.dtype, source.load_codes):
                with pytest.raises(ModelFileError, match=r"tensor 'lm_head\.weight' is not in the"):
                    call("lm_head.weight")


# ---- GGUF ----


def q4_0_blocks(rows: int, cols: int) -> tuple[np.ndarray, np.ndarray, bytes]:
    """Return random codes, scales and the blocks that hold them, element by element as the format says."""
    random = np.random.default_rng(7)
    codes = random.integers(0, 16, (rows, cols), dtype=np.uint8)
    scales = random.standard_normal((rows, cols // 32)).astype(np.float16)
    blocks = b""
    for i in range(rows):
        for k in range(cols // 32):
            block = codes[i, 32 * k : 32 * k + 32]
            blocks += scales[i, k].tobytes() + bytes(int(block[j]) | int(block[j + 16]) << 4 for j in range(16))
    return codes, scales, blocks


@pytest.mark.parametrize("size", [(1, 32), (3, 64), (16, 96)])
def test_q4_0_comes_as_the_codes_and_scales_that_the_file_holds(tmp_path: Path, size: tuple[int, int]) -> None:
    codes, scales, blocks = q4_0_blocks(*size)
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([key("a", U32, 1)], [tensor("w", [size[1], size[0]], 2)], blocks))
    with open_checkpoint(path) as source:
        found = source.load_codes("w")
        weights = source.load("w")
    assert found is not None
    assert (found[0].dtype, found[1].dtype) == (np.uint8, np.float16)
    assert np.array_equal(found[0], codes)
    assert np.array_equal(found[1], scales)
    exact = np.repeat(scales.astype(np.float32), 32, axis=1) * (codes.astype(np.float32) - 8)
    assert np.array_equal(weights, exact)


@pytest.mark.parametrize("at_once", [1, 1 << 20])  # weights: each row by itself, or the whole tensor
def test_every_type_that_the_gguf_package_dequantizes_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(gguf_reader, "_AT_ONCE", at_once)
    random = np.random.default_rng(3)
    path = tmp_path / "m.gguf"
    read = []
    for kind, (block, n_bytes) in package.constants.GGML_QUANT_SIZES.items():
        rows = random.integers(0, 256, (5, 2 * n_bytes), dtype=np.uint8)
        path.write_bytes(gguf([], [tensor("w", [2 * block, 5], int(kind))], rows.tobytes()))
        with open_checkpoint(path) as source, np.errstate(all="ignore"):
            assert source.dtype("w") == kind.name
            try:
                expected = package.quants.dequantize(rows, kind) if kind.name not in ("F32", "F16", "F64") else None
            except NotImplementedError:
                assert f"tensor 'w' is of type {kind.name}, which holds no weights" in refusal(path)
                continue
            if expected is None:
                expected = rows.view(f"f{n_bytes}").astype(np.float32)
            loaded = source.load("w")
        read.append(kind.name)
        assert (loaded.dtype, loaded.shape) == (np.float32, (5, 2 * block))
        assert np.array_equal(loaded, expected, equal_nan=True), kind.name
    assert {"F32", "F16", "F64", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q6_K"} <= set(read)


def test_gguf_shapes_have_the_slowest_dimension_first_and_keys_are_the_config(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    values = np.arange(24, dtype="<f4")
    keys = [key("general.architecture", STRING, "llama"), key("llama.block_count", U32, 2)]
    path.write_bytes(gguf(keys, [tensor("w", [4, 3, 2])], values.tobytes()))
    with open_checkpoint(path) as source:
        assert source.kind == "gguf"
        assert source.config == {"general.architecture": "llama", "llama.block_count": 2}
        assert source.shape("w") == (2, 3, 4)
        loaded = source.load("w")
        assert source.load_codes("w") is None
    assert np.array_equal(loaded, values.reshape(2, 3, 4))  # after closing
    loaded[0, 0, 0] = 1  # it is the caller's


def test_a_damaged_gguf_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([], [tensor("w", [8])], bytes(31)))
    assert refusal(path) == f"{path}: tensor 'w' ends 1 bytes past the file"


# ---- finding the model ----


def test_a_directory_with_one_gguf_is_that_gguf(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf([key("a", U32, 1)]))
    assert open_checkpoint(tmp_path).kind == "gguf"
    folder(tmp_path, {})  # config.json beside it, but no safetensors
    assert open_checkpoint(tmp_path).kind == "gguf"
    (tmp_path / "n.gguf").write_bytes(gguf([key("a", U32, 1)]))
    assert "holds 2 GGUF files (m.gguf, n.gguf); give one of them" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"notes.txt": "x"}, "holds config.json, but no weights; expected model.safetensors"),
        ({"model-1-of-2.safetensors": b""}, "holds model-1-of-2.safetensors, but neither model.safetensors nor"),
        ({"config.json": "{", "model.safetensors": one_tensor()}, "config.json is not JSON at line 1, column 2"),
        ({"config.json": "[1]", "model.safetensors": one_tensor()}, "config.json is a JSON list, expected an object"),
        ({"config.json": b"\xff", "model.safetensors": one_tensor()}, "config.json is not UTF-8 at byte 0"),
        ({"config.json": '{"a":1,"a":2}', "model.safetensors": one_tensor()}, "config.json has the key 'a' twice"),
        ({"config.json": "", "model.safetensors": one_tensor()}, "config.json is not JSON at line 1"),
    ],
)
def test_an_incomplete_directory_says_what_is_missing(tmp_path: Path, files: dict[str, bytes], sentence: str) -> None:
    assert sentence in refusal(folder(tmp_path, files))


def test_what_is_no_source_model_is_told_so(tmp_path: Path) -> None:
    assert "there is no such file or directory" in refusal(tmp_path / "absent")
    assert "holds nothing; expected a GGUF file or a directory" in refusal(tmp_path)
    for name, sentence in {
        "a.rkllm": "is a converted model already",
        "a.safetensors": "give the directory that holds it and config.json",
        "a.txt": "is not a GGUF file",
    }.items():
        (tmp_path / name).write_bytes(b"something")
        assert sentence in refusal(tmp_path / name)
    assert "holds a.rkllm, a.safetensors, a.txt; expected a GGUF file" in refusal(tmp_path)


def test_a_side_file_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    (tmp_path / "model.safetensors").write_bytes(one_tensor())
    assert "config.json: cannot be read" in refusal(tmp_path)


# ---- fingerprints ----


def test_a_fingerprint_is_of_the_content_and_not_of_the_place(tiny_llama: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_llama, tmp_path / "copy"))
    steps: list[int] = []
    first = open_checkpoint(tiny_llama).fingerprint(steps.append)
    assert len(first) == 64
    assert sum(steps) == open_checkpoint(tiny_llama).total_bytes
    (copy / "README.md").write_text("not read by a conversion")
    assert open_checkpoint(copy).fingerprint() == first
    (copy / "tokenizer_config.json").write_text("{}")
    changed = open_checkpoint(copy).fingerprint()
    assert changed != first
    (copy / "tokenizer_config.json").unlink()
    assert open_checkpoint(copy).fingerprint() not in (first, changed)


def test_a_gguf_fingerprint_does_not_depend_on_the_name(tmp_path: Path) -> None:
    for name, value in {"a.gguf": 1, "b.gguf": 1, "c.gguf": 2}.items():
        (tmp_path / name).write_bytes(gguf([key("a", U32, value)]))
    a, b, c = (open_checkpoint(tmp_path / name).fingerprint() for name in ("a.gguf", "b.gguf", "c.gguf"))
    assert a == b != c


def test_importing_the_readers_pulls_in_no_file_library() -> None:
    code = (
        "import sys, rkllm_ext.readers; "
        "print([name for name in ('torch', 'gguf', 'safetensors', 'rkllm_ext._rkllm') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---- genuine files ----


def test_reference_checkpoints_of_every_type_are_read_like_the_safetensors_package_reads_them(shared: Path) -> None:
    types = set()
    for path in sorted((shared / "reference").iterdir()):
        if not list(path.glob("*.safetensors")) if path.is_dir() else True:
            continue
        with open_checkpoint(path) as source:
            for file in path.glob("*.safetensors"):
                with safe_open(str(file), framework="numpy") as expected:
                    for name in expected.keys():  # noqa: SIM118
                        types.add(source.dtype(name))
                        assert source.shape(name) == tuple(expected.get_slice(name).get_shape())
                        if source.dtype(name) != "BF16":
                            assert np.array_equal(source.load(name), expected.get_tensor(name).astype(np.float32))
    assert types == {"F32", "F16", "BF16"}


def test_a_gguf_holds_the_weights_of_the_directory_it_was_made_from(shared: Path) -> None:
    model = shared / "models" / "stories260K"
    with open_checkpoint(model) as plain, open_checkpoint(model / "gguf" / "stories260K-f32.gguf") as packed:
        assert np.array_equal(packed.load("blk.2.ffn_down.weight"), plain.load("model.layers.2.mlp.down_proj.weight"))
        assert np.array_equal(packed.load("token_embd.weight"), plain.load("model.embed_tokens.weight"))
