# SPDX-License-Identifier: Apache-2.0
"""Dependencies point one way: every import and include of the tree is an arrow of the lists below.

A new module gets a row. An arrow that is missing from its row is a decision, not a formality.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

# Python: module or folder of src/rkllm_ext -> what it may import from the package. "arch.spec" allows that one module.
PYTHON = {
    "errors": "",
    "_rkllm": "errors vendor",
    "vendor": "errors",
    "arch": "errors",
    "readers": "errors _rkllm",
    "chat": "errors",
    "folders": "",
    "quant": "errors _rkllm arch.spec folders journal progress",
    "tokenizer": "errors",
    "journal": "errors",
    "writer": "errors _rkllm journal",
    "progress": "",
    "metadata": "errors _rkllm arch chat readers tokenizer writer",
    "lora": "errors _rkllm arch metadata progress quant readers source_model writer",
    "source_model": "errors arch metadata readers writer",
    "convert": "errors _rkllm arch chat metadata progress quant readers source_model tokenizer writer",
    "estimate": "_rkllm convert metadata quant source_model writer",
    "report": "convert writer",
    "options": "errors",
    "results": "",
    "stream": "_rkllm results",
    "astream": "_rkllm results stream",
    "constrain": "errors _rkllm options",
    "logits": "errors _rkllm",
    "interruptible": "",
    "session": "_rkllm interruptible logits options",
    "conversation": "errors _rkllm chat options stream",
    "loaded": "errors _rkllm interruptible options results",
    "llm": "errors _rkllm astream constrain conversation loaded options results session stream",
    "evaluate": "errors llm progress",
    "bench": "errors _rkllm library llm",
    "board": "",
    "frequencies": "errors board",
    "library": "errors _rkllm",
    "doctor": "errors board frequencies library vendor",
    "server": "errors _rkllm constrain conversation library llm options session",
    "deploy": "errors board progress",
    "toolkit": "errors _rkllm convert llm lora quant readers source_model sources writer",
    "api": "toolkit",
    "sources": "errors _rkllm convert folders metadata progress",
    "cli": "errors _rkllm bench board convert deploy doctor estimate evaluate folders frequencies journal library llm "
    "lora progress quant report server sources writer",
    "__main__": "cli",
    "__init__": "errors _rkllm convert llm lora results session stream",
}

# C++: module or folder of src/runtime -> what it is built upon, directly; what those are built upon is allowed as well.
ENGINE = {
    "error": "",
    "checksum": "",
    "log": "",
    "exponential": "",
    "numeric": "exponential",
    "signals": "",
    "thread_pool": "error signals",
    "container": "error",
    "spec": "container numeric",
    "tokenizer": "container",
    "kernels": "error exponential",
    "quant": "kernels",
    "tensor": "quant",
    "kv_cache": "tensor",
    "linear": "tensor thread_pool",
    "attention": "linear kv_cache",
    "rope": "numeric spec",
    "candidates": "",
    "sampler": "candidates kernels numeric",
    "logprobs": "kernels numeric",
    "stop": "error",
    "lookup": "",
    "rkllm_file": "container checksum cores tensor thread_pool",
    "cores": "error",
    "machine_limits": "tensor thread_pool",
    "model": "spec rkllm_file linear rope tokenizer",
    "low_rank": "linear",
    "adapter": "model low_rank",
    "transformer": "attention adapter",
    "sequence": "checksum kv_cache model",
    "container_writer": "container checksum",
    "saved_state": "sequence container_writer",
    "prompt_caches": "saved_state",
    "executor": "cores transformer prompt_caches",
    "session": "executor sequence",
    "generate": "session sampler logprobs stop lookup",
    "multimodal": "tokenizer",
    "api": "cores generate machine_limits multimodal log public",
    "public": "",
}

# Files that belong to a module of another name.
PARTS = {
    "container_values": "container",
    "gguf_text": "container",
    "handle": "api",
    "options": "api",
    "run": "api",
    "api_cache": "api",
    "api_ext": "api",
    "api_gguf": "api",
    "api_handle": "api",
    "api_sampler": "api",
    "api_decode": "api",
    "api_session": "api",
    "api_tokenizer": "api",
    "rkllm.h": "public",
    "rkllm_ext.h": "public",
    "gguf_types.def": "container",
    "errors.def": "error",
    "spec.def": "spec",
}


# ---- Python ----


def python_module(package: Path, file: Path) -> list[str]:
    """Return the dotted name of a file below the package, as parts."""
    parts = list(file.relative_to(package).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts


def python_imports(package: Path, file: Path) -> set[str]:
    """Return the dotted names, relative to the package, that a file imports from it."""
    folder = list(file.relative_to(package).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[1:] for alias in node.names if alias.name.split(".")[0] == package.name]
        elif isinstance(node, ast.ImportFrom):
            origin = (node.module or "").split(".") if node.module else []
            if node.level:
                origin = folder[: len(folder) - (node.level - 1)] + origin
            elif origin[0] == package.name:
                origin = origin[1:]
            else:
                continue
            names = [origin] if origin else [[alias.name] for alias in node.names]
        else:
            continue
        found.update(".".join(name) for name in names)
    return found


def python_violations(package: Path) -> list[str]:
    """Return a sentence for each import that is not in the list."""
    wrong = []
    for file in sorted(package.rglob("*.py")):
        module = python_module(package, file)
        if module[0] not in PYTHON:
            wrong.append(f"{module[0]} has no row in PYTHON")
            continue
        allowed = PYTHON[module[0]].split()
        for name in sorted(python_imports(package, file)):
            inside = name.split(".")[0] == module[0]
            if not inside and not any(name == row or name.startswith(row + ".") for row in allowed):
                wrong.append(f"{'.'.join(module)} imports {name}")
    return wrong


def test_python_imports_follow_the_list(repo: Path) -> None:
    package = repo / "src" / "rkllm_ext"
    assert sum(1 for _ in package.rglob("*.py")) > 5
    assert python_violations(package) == []


def test_nobody_imports_the_command_line_and_errors_import_nothing() -> None:
    assert PYTHON["errors"] == ""
    # api is toolkit under the name that the vendor's scripts know; __main__ is python -m
    users = [module for module, row in PYTHON.items() if {"cli", "toolkit", "api"} & set(row.split())]
    assert users == ["api", "__main__"]


@pytest.mark.parametrize(
    "line",
    [
        "from ..convert import convert",
        "from .. import convert",
        "import rkllm_ext.convert",
        "from rkllm_ext.convert import convert",
        "def f():\n    from rkllm_ext import convert",
    ],
)
def test_a_wrong_python_import_is_noticed_however_it_is_written(tmp_path: Path, line: str) -> None:
    package = tmp_path / "rkllm_ext"
    (package / "readers").mkdir(parents=True)
    (package / "readers" / "gguf.py").write_text(f"from .. import _rkllm\nfrom ..errors import A\n{line}\n")
    assert python_violations(package) == ["readers.gguf imports convert"]


# ---- C++ ----


def engine_module(path: str) -> str:
    """Return the module of a file below src/runtime."""
    parts = path.split("/")
    if len(parts) > 1:
        return parts[0]
    return PARTS.get(parts[0], PARTS.get(parts[0].split(".")[0], parts[0].split(".")[0]))


def below(module: str) -> set[str]:
    """Return everything a module is built upon, itself included."""
    return {module}.union(*(below(lower) for lower in ENGINE[module].split()))


def engine_includes(engine: Path, file: Path) -> set[str]:
    """Return what a file includes from the engine or the public headers, as paths below src/runtime."""
    found = set()
    for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', file.read_text(encoding="utf-8"), re.MULTILINE):
        beside = (file.parent / name).resolve()
        found.add(str(beside.relative_to(engine.resolve())) if beside.is_file() else name)
    return found


def engine_violations(engine: Path) -> list[str]:
    """Return a sentence for each include that is not in the list."""
    wrong = []
    for file in sorted(path for path in engine.rglob("*") if path.suffix in (".h", ".cpp", ".inl", ".inc")):
        path = str(file.relative_to(engine))
        if engine_module(path) not in ENGINE:
            wrong.append(f"{engine_module(path)} has no row in ENGINE")
            continue
        for name in sorted(engine_includes(engine, file)):
            if engine_module(name) not in below(engine_module(path)):
                wrong.append(f"{path} includes {name}")
    return wrong


def test_includes_of_the_engine_follow_the_list(repo: Path) -> None:
    engine = repo / "src" / "runtime"
    assert sum(1 for _ in engine.rglob("*.cpp")) > 5
    assert engine_violations(engine) == []


def test_the_list_has_the_order_of_the_design() -> None:
    chain = ["kernels", "quant", "tensor", "linear", "attention", "transformer", "session", "api"]
    for lower, upper in zip(chain, chain[1:]):
        assert lower in below(upper)
        assert upper not in below(lower)
    assert below("spec") == {"spec", "container", "error", "numeric", "exponential"} < below("model")
    assert below("tokenizer") == {"tokenizer", "container", "error"}
    assert [module for module in ENGINE if "public" in below(module)] == ["api", "public"]


def test_a_wrong_include_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "scalar.cpp").write_text('#include "kernels.h"\n#include "../tensor.h"\n')
    (tmp_path / "kernels" / "kernels.h").write_text("")
    (tmp_path / "tensor.h").write_text('#include "quant/formats.h"\n#include "rkllm.h"\n')
    assert engine_violations(tmp_path) == ["kernels/scalar.cpp includes tensor.h", "tensor.h includes rkllm.h"]


def test_instruction_set_files_include_no_library_header(repo: Path) -> None:
    # Compiled with wide flags, the inline functions of a library header could end up in the whole program.
    kernels = repo / "src" / "runtime" / "kernels"
    names = re.findall(r"^ISA\((\w+)", (kernels / "isa.def").read_text(), re.MULTILINE)
    assert "scalar" in names
    allowed = {'"kernels.h"', '"kernels.def"', '"../exponential.inl"', "<stdint.h>", "<immintrin.h>", "<arm_neon.h>"}
    parts = sorted(kernels.glob("*.inl"))
    allowed |= {f'"{part.name}"' for part in parts}
    for path in [*(kernels / f"{name}.cpp" for name in names), *parts, kernels.parent / "exponential.inl"]:
        found = re.findall(r'^\s*#\s*include\s*(["<][^">]+[">])', path.read_text(), re.MULTILINE)
        assert set(found) <= allowed, path.name
