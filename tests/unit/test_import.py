# SPDX-License-Identifier: Apache-2.0
"""Importing the package is cheap, and its names are where they are expected."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import rkllm_ext

HEAVY = ["numpy", "gguf", "torch", "jinja2", "safetensors", "tqdm", "click", "asyncio", "rkllm_ext.readers"]


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


def test_import_pulls_in_nothing_heavy() -> None:
    result = run("import sys, rkllm_ext; print(*sys.modules)")
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    assert "rkllm_ext" in loaded
    assert loaded.isdisjoint([*HEAVY, "rkllm_ext._rkllm"])


def test_the_binding_pulls_in_no_numpy() -> None:
    result = run("import sys, rkllm_ext.llm; rkllm_ext.Tokenizer; print(*sys.modules)")
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    assert "rkllm_ext._rkllm" in loaded
    assert loaded.isdisjoint({"numpy", "gguf", "torch", "jinja2", "rkllm_ext.readers", "rkllm_ext.convert"})


@pytest.mark.parametrize("name", rkllm_ext.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(rkllm_ext, name) is not None
    assert name in dir(rkllm_ext)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        rkllm_ext.no_such_name  # noqa: B018


@pytest.mark.parametrize("first", ["import rkllm_ext.convert", "import rkllm_ext; rkllm_ext.convert"])
def test_convert_is_the_function_whatever_was_imported_first(first: str) -> None:
    result = run(f"{first}; import rkllm_ext.convert, rkllm_ext; print(callable(rkllm_ext.convert))")
    assert result.stdout.strip() == "True", result.stderr


def test_version_is_that_of_the_library() -> None:
    binding = importlib.import_module("rkllm_ext._rkllm")
    assert rkllm_ext.__version__ == binding.version()


def test_the_library_in_use_is_the_packages_own() -> None:
    binding = importlib.import_module("rkllm_ext._rkllm")
    assert binding.is_extended()
    assert Path(binding.library_path()).samefile(rkllm_ext.library_path())


def test_an_unbuilt_tree_says_which_command_builds_it(repo: Path, tmp_path: Path) -> None:
    package = tmp_path / "rkllm_ext"
    package.mkdir()
    for source in (repo / "src" / "rkllm_ext").glob("*.py"):
        (package / source.name).write_bytes(source.read_bytes())
    # -S: without site-packages there is no built module to be found
    code = "import sys; sys.path.insert(0, sys.argv[1])\nimport rkllm_ext\n{}"
    for use in ("rkllm_ext.LLM", "rkllm_ext.get_include()"):
        result = subprocess.run(
            [sys.executable, "-S", "-c", code.format(use), str(tmp_path)], capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 1
        assert "ImportError" in result.stderr
        assert "pip install ." in result.stderr
