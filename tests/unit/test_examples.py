# SPDX-License-Identifier: Apache-2.0
"""The examples of the docstrings of the package's front run as they are written."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import gguf
import pytest
from adapters import random_pairs, write_peft

import rkllm_ext
from rkllm_ext import _rkllm


@pytest.mark.parametrize("name", ["", ".llm", ".stream", ".astream", ".options"])
def test_examples_of_a_module(name: str, tiny_model: Path, tmp_path: Path) -> None:
    module = importlib.import_module(f"rkllm_ext{name}")
    adapter = write_peft(tmp_path / "adapter", random_pairs({"model.layers.0.self_attn.q_proj": (64, 64)}, rank=4))
    rkllm_ext.convert_lora(adapter, tiny_model.parent / "checkpoint", tmp_path / "a_lora.rkllm")
    paths = {"model_path": tiny_model, "adapter_path": tmp_path / "a_lora.rkllm", "cache_path": tmp_path / "cache"}
    paths["session_path"] = tmp_path / "session"
    names = {**paths, "LLM": rkllm_ext.LLM, **vars(module)}
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner()
    found = [test for test in finder.find(module, name, globs=names) if test.examples]
    for test in found:
        runner.run(test)
    assert found
    assert runner.failures == 0


@pytest.mark.parametrize("name", ["GGUFFile", "Tokenizer"])
def test_examples_of_the_binding(name: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.rkllm").symlink_to(tiny_model)
    writer = gguf.GGUFWriter("model.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    text = getattr(_rkllm, name).__doc__
    test = doctest.DocTestParser().get_doctest(text, dict(vars(_rkllm)), name, None, 0)
    runner = doctest.DocTestRunner()
    runner.run(test)
    assert test.examples
    assert runner.failures == 0
