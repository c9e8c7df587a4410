# SPDX-License-Identifier: Apache-2.0
"""The vendor toolkit's class: its calls, arguments and return codes, and never an exception."""

from __future__ import annotations

import doctest
import gc
import inspect
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import random_pairs, write_peft
from adapters import write_gguf as write_adapter
from gguf import GGMLQuantizationType, dequantize
from gguf_models import write_gguf
from safetensors.numpy import save_file

import rkllm_ext.api
from rkllm_ext import LLM, _rkllm, convert, toolkit
from rkllm_ext.api import RKLLM
from rkllm_ext.lora import convert_lora

IDS = [1, 44, 70, 12, 250, 3, 3, 90]


pytestmark = pytest.mark.usefixtures("own_temporary_folder")


# ---- the vendor's signatures ----


def test_signatures_are_the_vendors() -> None:
    parameters = {
        name: list(inspect.signature(getattr(RKLLM, name)).parameters.values())[1:]
        for name in ("load_huggingface", "load_gguf", "build", "export_rkllm", "get_logits", "chat_model")
    }
    names = {call: [each.name for each in row] for call, row in parameters.items()}
    assert names["load_huggingface"] == ["model", "model_lora", "device"]
    assert names["load_gguf"] == ["model"]
    assert {each.name: each.default for each in parameters["build"]} == {
        "do_quantization": True,
        "optimization_level": 1,
        "quantized_dtype": "w8a8",
        "quantized_algorithm": "normal",
        "num_npu_core": None,
        "extra_qparams": None,
        "dataset": None,
        "hybrid_rate": 0,
        "target_platform": "rk3588",
    }
    assert names["export_rkllm"] == ["export_path"]
    assert names["get_logits"] == ["inputs"]
    assert names["chat_model"] == ["messages", "args"]
    assert rkllm_ext.api.RKLLM is toolkit.RKLLM


def test_a_script_of_the_vendor_runs_with_its_import_changed(tiny_llama: Path, tmp_path: Path) -> None:
    data = tmp_path / "data_quant.json"
    data.write_text(json.dumps([{"input": "Human: hi\nAssistant: ", "target": "hello"}]))
    script = """
from rkllm_ext.api import RKLLM
import sys

llm = RKLLM()
ret = llm.load_huggingface(model=sys.argv[1], model_lora=None, device='cpu')
if ret != 0:
    print('Load model failed!')
    exit(ret)
ret = llm.build(do_quantization=True, optimization_level=1, quantized_dtype='w8a8', quantized_algorithm='normal',
                target_platform='rk3588', num_npu_core=3, extra_qparams=None, dataset=sys.argv[2])
if ret != 0:
    print('Build model failed!')
    exit(ret)
ret = llm.export_rkllm(sys.argv[3])
if ret != 0:
    print('Export model failed!')
    exit(ret)
"""
    out = tmp_path / "qwen.rkllm"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny_llama), str(data), str(out)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    assert "huggingface model, family llama, 2 layers" in lines[0]
    assert all(line.startswith(("I rkllm: ", "W rkllm: ")) for line in lines)
    with LLM(out) as llm:
        assert llm.info.format == "w8a8"


def test_the_example_of_the_documentation_runs(tiny_llama: Path, tmp_path: Path) -> None:
    names = {"RKLLM": RKLLM, "source": tiny_llama, "out": tmp_path / "m.rkllm"}
    test = doctest.DocTestParser().get_doctest(RKLLM.__doc__ or "", names, "RKLLM", None, 0)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


# ---- loading ----


def test_loading_logs_what_was_found(tiny_llama: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "rkllm_ext.toolkit"):
        assert RKLLM().load_huggingface(tiny_llama) == 0
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith(f"{tiny_llama}: huggingface model, family llama, 2 layers, 0.1 M parameters in ")
    assert said.endswith("byte_bpe tokenizer of 300 tokens, with a chat template")


def test_a_failure_is_minus_one_and_one_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tiny_llama: Path
) -> None:
    model = RKLLM()
    assert model.load_huggingface(tmp_path / "nowhere") == -1
    assert model.last_error == (
        f"{tmp_path}/nowhere: there is no such file or folder; give a GGUF file, a Hugging Face folder or "
        "hf:<repository>"
    )
    assert [record.getMessage() for record in caplog.records] == [f"load_huggingface: {model.last_error}"]
    assert model.load_huggingface(tiny_llama) == 0
    assert model.last_error == ""


@pytest.mark.parametrize("given", [None, 5, "", "{tmp}", b"\xff", ["a"]])
def test_what_is_no_model_is_refused(tmp_path: Path, given: Any) -> None:
    model = RKLLM()
    given = str(tmp_path) if given == "{tmp}" else given
    for load in (model.load_huggingface, model.load_gguf):
        assert load(given) == -1
        assert model.last_error
        assert "\n" not in model.last_error


def test_a_damaged_checkpoint_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    model = RKLLM()
    assert model.load_huggingface(folder) == -1
    assert "model.safetensors" in model.last_error
    (folder / "m.gguf").write_bytes(b"GGUF")
    assert model.load_huggingface(tiny_llama) == 0
    assert model.load_gguf(folder / "m.gguf") == -1
    assert "m.gguf" in model.last_error
    assert model.build() == -1
    assert model.last_error == "no model is loaded; call load_huggingface() or load_gguf() first"


def test_each_kind_of_model_has_its_own_call(tiny_llama: Path, tmp_path: Path) -> None:
    write_gguf(tiny_llama, tmp_path / "m.gguf")
    model = RKLLM()
    assert model.load_gguf(tiny_llama) == -1
    assert model.last_error.endswith("is a huggingface model; use load_huggingface()")
    assert model.load_huggingface(tmp_path / "m.gguf") == -1
    assert model.last_error.endswith("is a gguf model; use load_gguf()")
    assert model.load_gguf(tmp_path / "m.gguf") == 0


def test_an_unknown_device_is_refused(tiny_llama: Path) -> None:
    model = RKLLM()
    assert model.load_huggingface(tiny_llama, None, "tpu") == -1
    assert model.last_error == "the device 'tpu' does not exist; known: cpu, cuda"


def test_a_q4_0_file_with_a_q6_k_output_matrix_just_works(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wide"
    folder.mkdir()
    rng = np.random.default_rng(3)
    config = json.loads((tiny_llama / "config.json").read_text())
    heads, kv_heads, vocab = config["num_attention_heads"], config["num_key_value_heads"], config["vocab_size"]
    dim, head_dim = 256, 256 // heads  # Q6_K has blocks of 256
    config |= {"hidden_size": dim, "intermediate_size": dim, "head_dim": head_dim}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_llama / name, folder)
    tensors = {"model.embed_tokens.weight": (vocab, dim), "model.norm.weight": (dim,)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        tensors |= {f"{layer}{name}_layernorm.weight": (dim,) for name in ("input", "post_attention")}
        tensors |= {f"{layer}mlp.{name}_proj.weight": (dim, dim) for name in ("gate", "up", "down")}
        rows = {"q": dim, "k": kv_heads * head_dim, "v": kv_heads * head_dim, "o": dim}
        tensors |= {f"{layer}self_attn.{name}_proj.weight": (count, dim) for name, count in rows.items()}
    weights = {name: (0.1 * rng.standard_normal(shape)).astype(np.float32) for name, shape in tensors.items()}
    save_file(weights, folder / "model.safetensors")
    q6_k = GGMLQuantizationType.Q6_K
    blocks = rng.integers(0, 256, (vocab, 210), np.uint8)
    blocks[:, 208:] = np.full((vocab, 1), 1e-4, np.float16).view(np.uint8)
    write_gguf(folder, tmp_path / "m.gguf", GGMLQuantizationType.Q4_0, {"output.weight": (blocks, q6_k)})

    model = RKLLM()
    assert model.load_gguf(str(tmp_path / "m.gguf")) == 0, model.last_error
    assert model.build(quantized_dtype="w4a16_g32", target_platform="rk3576", optimization_level=0) == 0
    assert model.export_rkllm(str(tmp_path / "m.rkllm")) == 0
    with _rkllm.GGUFFile(tmp_path / "m.rkllm") as file:
        names = list(file.tensors)
        formats = dict(zip(names, file.values["rkllm.tensor.format"]))
        packed = bytes(file.tensors["output.weight"].data)
    assert formats["blk.0.ffn_up.weight"] == "w4a16_g32"
    head = _rkllm.unpack(formats["output.weight"], vocab, dim, packed)
    expected = dequantize(blocks, q6_k)
    assert np.abs(head - expected).max() < 0.01 * np.abs(expected).max()


# ---- building ----


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"quantized_dtype": "w4a16"},
            "rk3588 does not run w4a16; it runs fp16, w8a8, w8a8_g128, w8a8_g256, w8a8_g512",
        ),
        ({"quantized_dtype": "w8a8_g128", "target_platform": "rk3576"}, "rk3576 does not run w8a8_g128; it runs"),
        ({"target_platform": "rk3562"}, "the platform 'rk3562' does not exist; known: rk3588, rk3576, cpu"),
        ({"num_npu_core": 4}, "num_npu_core is 4, but rk3588 has 1 to 3"),
        ({"num_npu_core": 3, "target_platform": "rk3576"}, "num_npu_core is 3, but rk3576 has 1 to 2"),
        ({"num_npu_core": 0}, "num_npu_core is 0, but rk3588 has 1 to 3"),
        ({"num_npu_core": "three"}, "num_npu_core is 'three', but rk3588 has 1 to 3"),
        ({"quantized_dtype": "w8a8_g128"}, "its 64 input columns are no multiple of the group 128 of w8a8_g128"),
        ({"quantized_dtype": "int4"}, "the format 'int4' does not exist"),
        ({"quantized_dtype": None}, "the format None does not exist"),
        ({"quantized_algorithm": "awq"}, "the algorithm 'awq' does not exist"),
        ({"optimization_level": 7}, "optimization_level is 7"),
        ({"hybrid_rate": 1.5}, "hybrid_rate is 1.5"),
        ({"hybrid_rate": "much"}, "hybrid_rate is 'much'"),
        ({"dataset": "nowhere.json"}, "dataset nowhere.json: cannot be read"),
        ({"dataset": 5}, "dataset is 5; the path of a JSON file is needed"),
    ],
)
def test_wrong_arguments_of_build_are_refused(loaded: RKLLM, arguments: dict[str, Any], sentence: str) -> None:
    assert loaded.build(**arguments) == -1
    assert sentence in loaded.last_error


@pytest.mark.parametrize(
    ("platform", "dtype", "cores"),
    [
        ("rk3588", "w8a8", 1),
        ("RK3588", "w8a8", None),
        ("rk3576", "w8a8", 2),
        ("rk3576", "w4a16_g32", 1),
        ("rk3576", "w4a16", None),
        ("cpu", "w4a16_g64", None),
    ],
)
def test_types_that_a_platform_runs_are_built(
    loaded: RKLLM, tmp_path: Path, platform: str, dtype: str, cores: int | None
) -> None:
    arguments = {"target_platform": platform, "quantized_dtype": dtype, "num_npu_core": cores}
    assert loaded.build(optimization_level=0, **arguments) == 0, loaded.last_error
    assert loaded.export_rkllm(tmp_path / "m.rkllm") == 0
    with _rkllm.GGUFFile(tmp_path / "m.rkllm") as file:
        assert file.values["rkllm.format"] == dtype
        assert file.values["rkllm.platform"] == platform.lower()


@pytest.mark.parametrize("with_dataset", [False, True])
def test_calibrating_with_the_built_in_text_is_said(
    loaded: RKLLM, tmp_path: Path, caplog: pytest.LogCaptureFixture, with_dataset: bool
) -> None:
    dataset = None
    if with_dataset:
        dataset = tmp_path / "data.json"
        dataset.write_text(json.dumps([{"input": "the mill by the river " * 40, "target": "and past the mill " * 40}]))
    assert loaded.build(optimization_level=1, dataset=dataset) == 0, loaded.last_error
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert ["built-in text" in line for line in said] == ([] if with_dataset else [True])


def test_without_quantization_weights_are_fp16(loaded: RKLLM, tmp_path: Path) -> None:
    assert loaded.build(do_quantization=False, quantized_dtype="w4a16") == 0
    assert loaded.export_rkllm(tmp_path / "m.rkllm") == 0
    with LLM(tmp_path / "m.rkllm") as llm:
        assert llm.info.format == "fp16"


def test_a_weight_that_is_not_finite_fails_the_build(tiny_llama: Path, tmp_path: Path) -> None:
    from rkllm_ext.readers import open_checkpoint

    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    with open_checkpoint(tiny_llama) as checkpoint:
        weights = {name: checkpoint.load(name) for name in checkpoint.tensor_names}
    weights["model.layers.1.mlp.up_proj.weight"][3, 3] = np.nan
    save_file(weights, folder / "model.safetensors")
    model = RKLLM()
    assert model.load_huggingface(folder) == 0
    assert model.build(optimization_level=0) == -1
    assert "blk.1.ffn_up.weight (model.layers.1.mlp.up_proj.weight): holds a NaN" in model.last_error


# ---- exporting ----


def test_the_exported_file_is_the_one_that_convert_makes(loaded: RKLLM, tiny_llama: Path, tmp_path: Path) -> None:
    assert loaded.build(quantized_dtype="w8a8", target_platform="rk3588", optimization_level=0) == 0
    for name in ("a.rkllm", "b.rkllm"):
        assert loaded.export_rkllm(tmp_path / name) == 0
    convert(tiny_llama, tmp_path / "c.rkllm", "w8a8", platform="rk3588")
    expected = (tmp_path / "c.rkllm").read_bytes()
    assert (tmp_path / "a.rkllm").read_bytes() == expected
    assert (tmp_path / "b.rkllm").read_bytes() == expected


def test_an_export_to_another_file_system_is_a_copy(
    loaded: RKLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    assert loaded.build(optimization_level=0) == 0
    assert loaded.export_rkllm(tmp_path / "a.rkllm") == 0
    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "b.rkllm").write_bytes(b"old")
    assert loaded.export_rkllm(tmp_path / "b.rkllm") == 0
    assert (tmp_path / "b.rkllm").read_bytes() == (tmp_path / "a.rkllm").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_an_export_that_fails_leaves_the_old_file(
    loaded: RKLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    assert loaded.build(optimization_level=0) == 0
    (tmp_path / "m.rkllm").write_bytes(b"old")
    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copyfile", full)
    assert loaded.export_rkllm(tmp_path / "m.rkllm") == -1
    assert loaded.last_error == f"{tmp_path}/m.rkllm: cannot be written: No space left on device; nothing was changed"
    assert (tmp_path / "m.rkllm").read_bytes() == b"old"
    assert not list(tmp_path.glob(".*"))


def test_exports_that_cannot_be_are_refused(loaded: RKLLM, tmp_path: Path) -> None:
    assert RKLLM().export_rkllm(tmp_path / "m.rkllm") == -1
    assert loaded.export_rkllm(tmp_path / "m.rkllm") == -1
    assert loaded.last_error == "nothing is built; call build() first"
    assert loaded.build(optimization_level=0) == 0
    assert loaded.export_rkllm(tmp_path) == -1
    assert "is a folder; name a file to write" in loaded.last_error
    assert loaded.export_rkllm(None) == -1
    source = loaded._read[0]
    assert loaded.export_rkllm(source) == -1
    assert loaded.last_error == f"{source}: is what is to be converted, and would be lost; name another file"


def test_a_build_that_fails_leaves_nothing_to_export(loaded: RKLLM, tmp_path: Path) -> None:
    assert loaded.build(optimization_level=0) == 0
    assert loaded.build(quantized_dtype="w4a16") == -1
    assert loaded.export_rkllm(tmp_path / "m.rkllm") == -1


def test_nothing_is_left_in_the_temporary_folder(
    loaded: RKLLM, own_temporary_folder: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    assert loaded.build(optimization_level=0) == 0
    assert loaded.build(quantized_dtype="w4a16", target_platform="cpu", optimization_level=0) == 0
    assert len(list(own_temporary_folder.iterdir())) == 1
    assert loaded.get_logits({"input_ids": [IDS]}) is not None
    assert loaded.load_huggingface(tiny_llama) == 0
    assert list(own_temporary_folder.iterdir()) == []
    other = RKLLM()
    assert other.load_huggingface(tiny_llama) == 0
    assert other.build(optimization_level=0) == 0
    del other
    gc.collect()
    assert list(own_temporary_folder.iterdir()) == []


@pytest.mark.slow
def test_gdq_leaves_its_parameters_to_export_again_from(loaded: RKLLM, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    data = tmp_path / "data.json"
    data.write_text(json.dumps([{"input": "the mill by the river " * 40, "target": "and past the mill " * 40}]))
    arguments = {"quantized_dtype": "w4a16_g32", "quantized_algorithm": "gdq", "target_platform": "rk3576"}
    arguments["dataset"] = str(data)
    assert loaded.build(**arguments) == 0, loaded.last_error
    assert loaded.export_rkllm(tmp_path / "first.rkllm") == 0
    learned = (tmp_path / "gdq.qparams").rename(tmp_path / "learned.qparams")
    assert loaded.build(extra_qparams=learned, **arguments) == 0, loaded.last_error
    assert loaded.export_rkllm(tmp_path / "second.rkllm") == 0
    assert (tmp_path / "first.rkllm").read_bytes() == (tmp_path / "second.rkllm").read_bytes()
    assert not (tmp_path / "gdq.qparams").exists()
    assert loaded.build(extra_qparams=learned, target_platform="rk3588") == -1
    assert "extra_qparams belongs to the algorithm gdq" in loaded.last_error


# ---- adapters ----

PAIRS = {"model.layers.0.self_attn.o_proj": (64, 64), "model.layers.1.mlp.down_proj": (64, 128)}


def test_an_adapter_is_exported_beside_the_model(tiny_llama: Path, tmp_path: Path) -> None:
    adapter = write_peft(tmp_path / "adapter", random_pairs(PAIRS, rank=4), lora_alpha=8)
    model = RKLLM()
    assert model.load_huggingface(str(tiny_llama), model_lora=str(adapter)) == 0
    assert model.build(optimization_level=0) == 0
    assert model.export_rkllm(str(tmp_path / "m.rkllm")) == 0
    convert_lora(adapter, tiny_llama, tmp_path / "expected.rkllm", dtype="fp16")
    assert (tmp_path / "m_lora.rkllm").read_bytes() == (tmp_path / "expected.rkllm").read_bytes()
    assert model.load_huggingface(tiny_llama) == 0
    assert model.build(optimization_level=0) == 0
    assert model.export_rkllm(tmp_path / "n.rkllm") == 0
    assert not (tmp_path / "n_lora.rkllm").exists()


def test_a_gguf_adapter_goes_with_the_model_that_was_loaded_before(tiny_llama: Path, tmp_path: Path) -> None:
    pairs = random_pairs(PAIRS, rank=4)
    names = {"self_attn.o_proj": "attn_output", "mlp.down_proj": "ffn_down"}
    renamed = {}
    for name, pair in pairs.items():
        layer, _, rest = name.removeprefix("model.layers.").partition(".")
        renamed[f"blk.{layer}.{names[rest]}"] = pair
    adapter = write_adapter(tmp_path / "a.gguf", renamed, 8.0)
    model = RKLLM()
    assert model.load_gguf(adapter) == -1
    assert "no model is loaded" in model.last_error
    assert model.load_huggingface(tiny_llama) == 0
    assert model.load_gguf(adapter) == 0
    assert model.build(optimization_level=0) == 0
    assert model.export_rkllm(tmp_path / "m.rkllm") == 0
    convert_lora(adapter, tiny_llama, tmp_path / "expected.rkllm", dtype="fp16")
    assert (tmp_path / "m_lora.rkllm").read_bytes() == (tmp_path / "expected.rkllm").read_bytes()


def test_an_adapter_that_does_not_fit_fails(tiny_llama: Path, tmp_path: Path) -> None:
    model = RKLLM()
    assert model.load_huggingface(tiny_llama, model_lora=tmp_path) == -1
    assert "holds no adapter" in model.last_error
    wrong = write_peft(tmp_path / "adapter", random_pairs({"model.layers.7.mlp.up_proj": (128, 64)}, rank=4))
    assert model.load_huggingface(tiny_llama, model_lora=wrong) == 0
    assert model.build() == -1
    assert "layers.7" in model.last_error


def test_a_loaded_adapter_takes_part_in_logits_and_answers(tiny_llama: Path, tmp_path: Path) -> None:
    pairs = {name: (a, 20 * b) for name, (a, b) in random_pairs(PAIRS, rank=4).items()}
    adapter = write_peft(tmp_path / "adapter", pairs, lora_alpha=8)
    asked = {"max_length": 40, "do_sample": False}
    plain, model = RKLLM(), RKLLM()
    assert plain.load_huggingface(tiny_llama) == 0
    assert model.load_huggingface(tiny_llama, model_lora=adapter) == 0
    for each in (plain, model):
        assert each.build(optimization_level=0) == 0
    assert model.export_rkllm(tmp_path / "m.rkllm") == 0
    with LLM(tmp_path / "m.rkllm", top_k=1) as llm:
        llm.load_lora(tmp_path / "m_lora.rkllm", "its")
        expected = llm.logits(np.array(IDS, np.int32), lora="its")
        answer = llm.generate("Once upon", lora="its", max_new_tokens=40 - llm.count_tokens("Once upon"))
    found = model.get_logits({"input_ids": np.array([IDS])})
    assert np.array_equal(found[0], expected)
    assert not np.array_equal(found, plain.get_logits({"input_ids": np.array([IDS])}))
    assert model.chat_model("Once upon", asked) == answer.text
    assert plain.chat_model("Once upon", asked) != answer.text
