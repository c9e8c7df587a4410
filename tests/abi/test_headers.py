# SPDX-License-Identifier: Apache-2.0
"""The public headers: they compile alone in every language they claim, and have the vendor's layout."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import pytest
from compiling import Compile
from layout import FUNCTIONS, LAYOUT, VALUES, Param

import rkllm_ext

HEADERS = ["rkllm.h", "rkllm_ext.h"]


def declared(header: str) -> set[str]:
    """Return the functions that a header declares."""
    text = (Path(rkllm_ext.get_include()) / header).read_text()
    return set(re.findall(r"^RKLLM_API [\w* ]*?\b(rkllm_\w+)\(", text, re.MULTILINE))


@pytest.mark.parametrize("standard", ["c99", "c11", "c17", "c++11", "c++17"])
@pytest.mark.parametrize("header", HEADERS)
def test_a_header_compiles_alone(compile_c: Compile, tmp_path: Path, header: str, standard: str) -> None:
    source = tmp_path / ("alone.cpp" if "++" in standard else "alone.c")
    source.write_text(f'#include "{header}"\n#include "{header}"\nint unused_but_not_empty;\n')
    compile_c(source, f"alone-{header}-{standard}.o", f"-std={standard}", "-c")


def test_the_structs_have_the_vendors_layout(compile_c: Compile, tmp_path: Path) -> None:
    lines = ['#include "rkllm.h"', "#include <stdio.h>", "int main(void) {"]
    for name, (_, _, fields) in LAYOUT.items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        lines += [f'printf("{name}.{field} %zu\\n", offsetof({name}, {field}));' for field in fields]
    lines += [f'printf("{name} %d\\n", (int){name});' for name in VALUES]
    source = tmp_path / "layout.c"
    source.write_text("\n".join([*lines, "return 0;", "}"]))
    output = subprocess.run(
        [compile_c(source, "layout", "-std=c99")], capture_output=True, text=True, check=True
    ).stdout
    expected = {}
    for name, (_, size, fields) in LAYOUT.items():
        expected[name] = size
        expected.update({f"{name}.{field}": offset for field, offset in fields.items()})
    assert {line.split()[0]: int(line.split()[1]) for line in output.splitlines()} == {**expected, **VALUES}


@pytest.mark.parametrize("name", LAYOUT)
def test_python_programs_see_the_same_layout(name: str) -> None:
    struct, size, fields = LAYOUT[name]
    assert ctypes.sizeof(struct) == size
    assert {field: getattr(struct, field).offset for field in fields} == fields


def test_the_library_exports_what_the_headers_declare_and_nothing_else() -> None:
    assert declared("rkllm.h") == set(FUNCTIONS)
    output = subprocess.run(
        ["nm", "-D", "--defined-only", rkllm_ext.library_path()], capture_output=True, text=True, check=True
    ).stdout
    exported = {line.split()[-1] for line in output.splitlines()}
    assert exported == declared("rkllm.h") | declared("rkllm_ext.h")


def test_the_binding_looks_up_every_function_of_the_second_header(repo: Path) -> None:
    looked_up = set(re.findall(r"X\((rkllm_ext_\w+)\)", (repo / "src/rkllm_ext/_library.h").read_text()))
    assert looked_up == declared("rkllm_ext.h")


def test_the_defaults_are_the_documented_ones() -> None:
    library = ctypes.CDLL(rkllm_ext.library_path())
    library.rkllm_createDefaultParam.restype = Param
    param = library.rkllm_createDefaultParam()
    assert param.model_path is None
    assert (param.top_k, param.mirostat) == (40, 0)
    floats = [param.top_p, param.temperature, param.repeat_penalty, param.frequency_penalty, param.presence_penalty]
    assert floats == pytest.approx([0.9, 0.8, 1.1, 0.0, 0.0])
    assert (param.mirostat_tau, param.mirostat_eta) == pytest.approx((5.0, 0.1))
    assert (param.skip_special_token, param.is_async) == (False, False)
    assert (param.img_start, param.img_end, param.img_content) == (b"", b"", b"")


def test_the_library_has_the_vendors_name_and_needs_no_cpp_runtime() -> None:
    output = subprocess.run(
        ["readelf", "-d", rkllm_ext.library_path()], capture_output=True, text=True, check=True
    ).stdout
    assert "soname: [librkllmrt.so]" in output
    needed = set(re.findall(r"\(NEEDED\).*\[(.*?)\]", output))
    allowed = {"libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
    assert needed <= allowed
