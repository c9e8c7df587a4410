# SPDX-License-Identifier: Apache-2.0
"""Conversions: every format of every model, the same bytes each time, a whole file or none."""

from __future__ import annotations

import doctest
import fcntl
import json
import os
import pty
import select
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, dequantize
from gguf.quants import quantize
from gguf_models import canonical_weights, write_gguf
from numpy.typing import NDArray
from reference import rounding, tiles
from safetensors.numpy import load_file, save_file
from safetensors_bytes import checkpoint

from rkllm_ext import _rkllm, convert
from rkllm_ext.errors import InvalidArgumentError, ModelFileError, UnsupportedModelError
from rkllm_ext.quant.formats import formats, offered_names


def contents(path: Path) -> tuple[dict[str, Any], dict[str, bytes], dict[str, NDArray[np.float32]]]:
    """Return the keys, the packed bytes and the weights of a converted model."""
    with _rkllm.GGUFFile(path) as file:
        values = dict(file.values)
        rows = [list(values[f"rkllm.tensor.{name}"]) for name in ("format", "rows", "cols")]
        packed = {name: bytes(tensor.data) for name, tensor in file.tensors.items()}
    weights = {}
    for (name, data), format, n_rows, n_cols in zip(packed.items(), *rows):
        if format:
            weights[name] = _rkllm.unpack(format, n_rows, n_cols, data)
        elif name != "checksums":
            weights[name] = np.frombuffer(data, "<f4")
    return values, packed, weights


@pytest.fixture
def copy(tiny_llama: Path, tmp_path: Path) -> Path:
    """Return a copy of the small checkpoint, float32, to be spoiled."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    with_float32 = {name: np.asarray(array, np.float32) for name, array in hf_weights(tiny_llama).items()}
    save_file(with_float32, folder / "model.safetensors")
    return folder


def hf_weights(folder: Path) -> dict[str, NDArray[Any]]:
    from rkllm_ext.readers import open_checkpoint

    with open_checkpoint(folder) as source:
        return {name: source.load(name) for name in source.tensor_names}


def spoil(folder: Path, name: str, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[name] = change(weights[name].copy())
    save_file(weights, folder / "model.safetensors")


# ---- what is in the file ----


@pytest.mark.parametrize("name", [name for name in offered_names() if formats()[name].group in (0, 32, 64)])
def test_every_fitting_format_holds_the_weights(tiny_llama: Path, tmp_path: Path, name: str) -> None:
    report = convert(tiny_llama, tmp_path / "m.rkllm", name)
    values, packed, weights = contents(tmp_path / "m.rkllm")
    assert report.file_bytes == (tmp_path / "m.rkllm").stat().st_size
    source = canonical_weights(tiny_llama)
    assert set(weights) == {*source, "rope_inv_freq.weight"}
    listed = dict(zip(packed, values["rkllm.tensor.format"]))
    for tensor, expected in source.items():
        if expected.ndim == 1:
            assert np.array_equal(weights[tensor], expected)
            continue
        format = formats()[listed[tensor]]
        if format.scale_bits:
            codes, scales = rounding.quantize(expected, format.bits, format.group, format.scale_bits)
            expected = tiles.weights(format.bits, format.group, codes, scales)
        else:
            expected = tiles.weights(format.bits, format.group, expected, None)
        assert np.array_equal(weights[tensor], expected), tensor
    assert report.n_parameters == sum(array.size for array in source.values())


def test_keys_say_what_the_model_is_and_where_it_came_from(tiny_llama: Path, tmp_path: Path) -> None:
    convert(tiny_llama, tmp_path / "m.rkllm", "w4a16_g32", platform="rk3576")
    values, _, weights = contents(tmp_path / "m.rkllm")
    expected = {
        "general.architecture": "rkllm",
        "general.type": "model",
        "general.alignment": 64,
        "rkllm.version": 1,
        "rkllm.format": "w4a16_g32",
        "rkllm.algorithm": "normal",
        "rkllm.platform": "rk3576",
        "rkllm.spec.n_layers": 2,
        "rkllm.spec.n_kv_heads": 2,
        "rkllm.spec.activation": "silu",
        "rkllm.spec.attn_scale": 0.25,
    }
    assert {key: values[key] for key in expected} == expected
    assert list(values["rkllm.required"]) == []
    assert list(values["rkllm.end_tokens"]) == [2]
    assert len(values["rkllm.source"]) == 64
    assert values["rkllm.producer"] == f"rkllm_ext {_rkllm.version()}"
    assert values["tokenizer.chat_template"].startswith("{% for message in messages %}")
    assert len(values["tokenizer.ggml.tokens"]) == 300
    assert np.array_equal(weights["rope_inv_freq.weight"][:2], np.float32([1, 1 / np.float32(10000 ** (2 / 16))]))


@pytest.mark.parametrize(("template", "expected"), [("{{ messages }}<|im_end|>", [0, 2]), ("{{ messages }}", [0])])
def test_the_end_of_turn_that_a_template_writes_is_an_end_token(
    copy: Path, tmp_path: Path, template: str, expected: list[int]
) -> None:
    (copy / "generation_config.json").write_text("{}")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "eos_token_id": 0}))
    config = json.loads((copy / "tokenizer_config.json").read_text())
    config.update(eos_token="<|endoftext|>", chat_template=template)
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    convert(copy, tmp_path / "m.rkllm", "w8a8")
    assert list(contents(tmp_path / "m.rkllm")[0]["rkllm.end_tokens"]) == expected


def test_the_class_of_qwen_brings_its_prompt_format(copy: Path, tmp_path: Path) -> None:
    config = json.loads((copy / "tokenizer_config.json").read_text())
    del config["chat_template"]
    first = "{% if messages[0]['role'] != 'system' %}<|im_start|>system"
    for kind, begins in (("QWenTokenizer", first), ("GPT2Tokenizer", None)):
        (copy / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": kind}))
        convert(copy, tmp_path / "m.rkllm", "w8a8")
        template = contents(tmp_path / "m.rkllm")[0].get("tokenizer.chat_template")
        assert template is None if begins is None else template.startswith(begins)


def test_end_tokens_come_from_all_places_that_name_them(copy: Path, tmp_path: Path) -> None:
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 0]}))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "eos_token_id": 7}))
    convert(copy, tmp_path / "m.rkllm", "w8a8")
    assert list(contents(tmp_path / "m.rkllm")[0]["rkllm.end_tokens"]) == [0, 2, 5, 7]


def test_an_end_token_outside_the_vocabulary_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": 300}))
    with pytest.raises(ModelFileError, match="end token 300 lies outside the vocabulary of 300 tokens"):
        convert(copy, tmp_path / "m.rkllm", "w8a8")


@pytest.mark.parametrize("file", ["chat_template.jinja", "chat_template.json"])
def test_a_chat_template_of_its_own_file_wins(copy: Path, tmp_path: Path, file: str) -> None:
    text = "{{ messages[0].content }}"
    (copy / file).write_text(text if file.endswith("jinja") else json.dumps({"chat_template": text}))
    convert(copy, tmp_path / "m.rkllm", "w8a8")
    assert contents(tmp_path / "m.rkllm")[0]["tokenizer.chat_template"] == text


def test_of_several_named_templates_the_default_one_is_taken(copy: Path, tmp_path: Path) -> None:
    config = json.loads((copy / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    convert(copy, tmp_path / "m.rkllm", "w8a8")
    assert contents(tmp_path / "m.rkllm")[0]["tokenizer.chat_template"] == "d"


def test_the_head_format_can_be_chosen(tiny_llama: Path, tmp_path: Path) -> None:
    convert(tiny_llama, tmp_path / "m.rkllm", "w8a8", head_format="fp16")
    values, packed, _ = contents(tmp_path / "m.rkllm")
    assert dict(zip(packed, values["rkllm.tensor.format"]))["token_embd.weight"] == "fp16"


# ---- the same source, the same bytes ----


@pytest.mark.parametrize("name", ["fp32", "w8a8", "w4a16_g32"])
def test_the_same_source_gives_the_same_bytes(tiny_llama: Path, tmp_path: Path, name: str) -> None:
    for out in ("a", "b"):
        convert(tiny_llama, tmp_path / out, name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_where_the_source_lies_does_not_matter(tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llama, tmp_path / "elsewhere")
    convert(tiny_llama, tmp_path / "a", "w8a8")
    convert(tmp_path / "elsewhere", tmp_path / "b", "w8a8")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("name", ["fp32", "fp16", "w8a8", "w4a16_g32"])
@pytest.mark.parametrize("stored", ["F16", "BF16"])
def test_numbers_of_16_bits_give_the_bytes_of_the_same_numbers_in_32(
    copy: Path, tmp_path: Path, stored: str, name: str
) -> None:
    narrow, wide = {}, {}
    for key, values in load_file(copy / "model.safetensors").items():
        narrow[key] = values.astype(np.float16) if stored == "F16" else (values.view(np.uint32) >> 16).astype(np.uint16)
        wide[key] = narrow[key].astype(np.float32)
        if stored == "BF16":
            wide[key] = (narrow[key].astype(np.uint32) << 16).view(np.float32)
    save_file(wide, copy / "model.safetensors")
    convert(copy, tmp_path / "wide.rkllm", name)
    (copy / "model.safetensors").write_bytes(checkpoint(narrow, stored))
    convert(copy, tmp_path / "narrow.rkllm", name)
    found, expected = (contents(tmp_path / f"{file}.rkllm")[1] for file in ("narrow", "wide"))
    assert {key for key in expected if found[key] != expected[key]} == {"checksums"}  # the source's digest differs


# ---- GGUF sources ----


def test_a_gguf_file_gives_the_weights_of_the_checkpoint_it_was_made_from(tiny_llama: Path, tmp_path: Path) -> None:
    write_gguf(tiny_llama, tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "a.rkllm", "fp32")
    convert(tiny_llama, tmp_path / "b.rkllm", "fp32")
    values, found, _ = contents(tmp_path / "a.rkllm")
    expected = contents(tmp_path / "b.rkllm")[1]
    assert {name: data for name, data in found.items() if name != "checksums"} == {
        name: data for name, data in expected.items() if name != "checksums"
    }
    assert values["general.name"] == "tiny"
    assert list(values["rkllm.end_tokens"]) == [0, 2]


def test_q4_0_goes_into_w4a16_g32_bit_for_bit(tiny_llama: Path, tmp_path: Path) -> None:
    q4_0 = GGMLQuantizationType.Q4_0
    write_gguf(tiny_llama, tmp_path / "m.gguf", q4_0)
    report = convert(tmp_path / "m.gguf", tmp_path / "m.rkllm", "w4a16_g32", head_format="w4a16_g32")
    assert report.lossless_matrices == 2 * 7 + 1
    _, packed, weights = contents(tmp_path / "m.rkllm")
    for name, expected in canonical_weights(tiny_llama).items():
        if expected.ndim == 1:
            continue
        raw = quantize(expected, q4_0)  # rows are quantized alone, so their order in the file does not matter
        assert np.array_equal(weights[name], dequantize(raw, q4_0)), name
        blocks = raw.reshape(len(expected), -1, 18)
        scales = blocks[:, :, :2].copy().view(np.float16).astype(np.float32)[:, :, 0]
        codes = np.concatenate([blocks[:, :, 2:] & 15, blocks[:, :, 2:] >> 4], axis=2)
        assert packed[name] == tiles.pack(4, 32, codes.reshape(expected.shape).astype(np.int8), scales), name


def test_q4_0_goes_through_floats_into_other_formats(tiny_llama: Path, tmp_path: Path) -> None:
    write_gguf(tiny_llama, tmp_path / "m.gguf", GGMLQuantizationType.Q4_0)
    report = convert(tmp_path / "m.gguf", tmp_path / "m.rkllm", "w4a16_g64")
    assert report.lossless_matrices == 0


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "Q5_0", "F16"])
def test_other_gguf_types_are_converted(tiny_llama: Path, tmp_path: Path, kind: str) -> None:
    write_gguf(tiny_llama, tmp_path / "m.gguf", GGMLQuantizationType[kind])
    convert(tmp_path / "m.gguf", tmp_path / "m.rkllm", "fp32")
    _, _, weights = contents(tmp_path / "m.rkllm")
    for name, expected in canonical_weights(tiny_llama).items():
        if expected.ndim == 2:
            stored = dequantize(quantize(expected, GGMLQuantizationType[kind]), GGMLQuantizationType[kind])
            assert np.array_equal(weights[name], stored), name


# ---- the error of each tensor ----


def test_the_report_measures_each_tensor_when_asked(tiny_llama: Path, tmp_path: Path) -> None:
    report = convert(tiny_llama, tmp_path / "m.rkllm", "w4a16_g32", measure=True)
    _, _, packed = contents(tmp_path / "m.rkllm")
    source = canonical_weights(tiny_llama)
    rows = {row["name"]: row for row in report.tensors}
    assert list(rows) == list(packed)
    for name, expected in source.items():
        row = rows[name]
        assert (row["rows"] if expected.ndim == 2 else 1, row["cols"]) == (1, *expected.shape)[-2:]
        if expected.ndim == 2:
            noise = np.square(packed[name] - expected, dtype=np.float64).sum()
            assert row["sqnr_db"] == pytest.approx(10 * np.log10(np.square(expected, dtype=np.float64).sum() / noise))
    assert rows["blk.0.ffn_up.weight"]["format"] == "w4a16_g32"
    assert rows["output_norm.weight"]["format"] == ""
    assert sum(row["bytes"] for row in rows.values()) < report.file_bytes
    assert "sqnr_db" not in convert(tiny_llama, tmp_path / "m.rkllm", "w4a16_g32").tensors[0]


# ---- what is refused ----


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_a_weight_that_is_not_finite_is_refused_and_named(copy: Path, tmp_path: Path, name: str, value: float) -> None:
    def put(array: NDArray[Any]) -> NDArray[Any]:
        array.flat[array.size // 2] = value
        return array

    spoil(copy, name, put)
    with pytest.raises(ModelFileError, match=rf"model: .*\({name}\): holds a NaN or an infinite weight"):
        convert(copy, tmp_path / "m.rkllm", "w8a8")
    assert os.listdir(tmp_path) == ["model"]


def test_a_weight_beyond_fp16_is_refused(copy: Path, tmp_path: Path) -> None:
    spoil(copy, "model.layers.1.mlp.up_proj.weight", lambda array: array * np.float32(1e8))
    with pytest.raises(ModelFileError, match=r"blk.1.ffn_up.weight \(.*\): holds .*, but fp16 ends at 65504; use fp32"):
        convert(copy, tmp_path / "m.rkllm", "fp16")
    convert(copy, tmp_path / "m.rkllm", "fp32")


def test_a_tensor_of_the_wrong_shape_is_refused(copy: Path, tmp_path: Path) -> None:
    spoil(copy, "model.norm.weight", lambda array: array[:-1])
    with pytest.raises(ModelFileError, match=r"model: .*model.norm.weight expected \[64\] found \[63\]"):
        convert(copy, tmp_path / "m.rkllm", "w8a8")
    assert os.listdir(tmp_path) == ["model"]


def test_an_unknown_family_is_refused(copy: Path, tmp_path: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "qwen4"}))
    with pytest.raises(UnsupportedModelError, match=r"model: .*'qwen4' is not supported \(nearest known: qwen, qwen"):
        convert(copy, tmp_path / "m.rkllm", "w8a8")


def test_a_file_of_the_source_is_never_replaced(tiny_llama: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_llama, source)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    (tmp_path / "link").symlink_to(source / "config.json")
    for target in (source / "config.json", source / "model.safetensors", tmp_path / "link"):
        with pytest.raises(InvalidArgumentError, match="is what is to be converted, and would be lost"):
            convert(source, target, "w8a8")
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    convert(source, source / "model.rkllm", "w8a8")  # beside them is a good place


def test_a_group_that_does_not_divide_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="64 input columns are no multiple of the group 128 of w8a8_g128"):
        convert(tiny_llama, tmp_path / "m.rkllm", "w8a8_g128")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"quantized_dtype": "w2a16"}, "the format 'w2a16' does not exist"),
        ({"algorithm": "magic"}, "the algorithm 'magic' does not exist; known: normal"),
        ({"platform": "rk3588"}, "rk3588 does not run w4a16_g32"),
        ({"npu_cores": 2}, "cpu has no NPU"),
        ({"head_format": "w3"}, "the format 'w3' does not exist"),
        ({"optimization_level": 2}, "optimization_level is 2; normal has 0 or 1"),
        ({"hybrid_rate": 1}, "hybrid_rate is 1; a number from 0 to below 1 is needed"),
        ({"dataset": "nowhere.json"}, "dataset nowhere.json: cannot be read: No such file"),
    ],
)
def test_wrong_arguments_are_refused(
    tiny_llama: Path, tmp_path: Path, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=sentence):
        convert(tiny_llama, tmp_path / "m.rkllm", **arguments)
    assert os.listdir(tmp_path) == []


def test_the_report_names_the_cores(tiny_llama: Path, tmp_path: Path) -> None:
    assert convert(tiny_llama, tmp_path / "m.rkllm", "w8a8", platform="rk3588").npu_cores == 3
    assert convert(tiny_llama, tmp_path / "m.rkllm", "w8a8", platform="rk3576", npu_cores=1).npu_cores == 1


def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused(copy: Path, tmp_path: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "vocab_size": 299}))
    spoil(copy, "model.embed_tokens.weight", lambda array: array[:299])
    with pytest.raises(ModelFileError, match="model: the tokenizer has 300 tokens, but the embedding has 299 rows"):
        convert(copy, tmp_path / "m.rkllm", "w8a8")


def test_the_example_of_the_documentation_runs(tiny_llama: Path, tmp_path: Path) -> None:
    names = {"convert": convert, "source": tiny_llama, "out": tmp_path / "m.rkllm"}
    test = doctest.DocTestParser().get_doctest(convert.__doc__ or "", names, "convert", None, 0)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


# ---- progress and interruption ----


def test_progress_rises_to_the_total(tiny_llama: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    convert(tiny_llama, tmp_path / "m.rkllm", "w8a8", progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]
    assert len(calls) > 20


def test_nothing_is_printed_where_there_is_no_terminal(
    tiny_llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    convert(tiny_llama, tmp_path / "m.rkllm", "w8a8", progress=True)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(tiny_llama: Path, tmp_path: Path) -> None:
    script = "import sys; from rkllm_ext import convert; convert(sys.argv[1], sys.argv[2], 'w8a8', progress=True)"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # a bar needs a width
    try:
        command = [sys.executable, "-c", script, str(tiny_llama), str(tmp_path / "m.rkllm")]
        subprocess.run(command, stderr=theirs, check=True)
        assert select.select([ours], [], [], 0)[0]
        assert b"converting to w8a8:" in os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)


def test_ctrl_c_leaves_the_old_file_and_nothing_else(tiny_llama: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.rkllm"
    target.write_bytes(b"old")

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(tiny_llama, target, "w8a8", progress=interrupt)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m.rkllm"]


# ---- genuine models ----


GENUINE = [
    *(f"reference/llama-{name}" for name in ("dynamic", "dynamic-bf16", "linear-sharded", "llama3")),
    *("reference/qwen2", "reference/qwen2-g512-bf16", "models/stories260K"),
    *(f"models/stories260K/gguf/stories260K-{kind}.gguf" for kind in ("f32", "f16", "q8_0", "q4_0")),
]


@pytest.mark.parametrize("model", GENUINE)
def test_genuine_models_convert_in_all_fitting_formats(shared: Path, tmp_path: Path, model: str) -> None:
    fitting = []
    for name in offered_names():
        try:
            report = convert(shared / model, tmp_path / "m.rkllm", name)
        except InvalidArgumentError as error:
            assert formats()[name].group > 0
            assert f"no multiple of the group {formats()[name].group} of {name}" in str(error)
            continue
        fitting.append(name)
        values, packed, _ = contents(tmp_path / "m.rkllm")
        assert report.n_tensors == len(packed) - 1
        assert values["rkllm.format"] == name
    assert {"fp32", "fp16", "w8a8", "w4a16"} <= set(fitting)
    if model.endswith("g512-bf16"):
        assert fitting == offered_names()
