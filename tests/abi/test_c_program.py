# SPDX-License-Identifier: Apache-2.0
"""A C program that is compiled against the installed header and library gives the answer that Python gives."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from compiling import Compile

import rkllm_ext

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def program(compile_c: Compile) -> Path:
    source = Path(__file__).with_name("text_program.c")
    library = Path(rkllm_ext.library_path())
    return compile_c(source, "text_program", "-std=c99", str(library), f"-Wl,-rpath,{library.parent}")


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def test_a_c_program_generates_the_text_that_python_generates(program: Path, tiny_model: Path) -> None:
    result = run(program, tiny_model, PROMPT, 24)
    assert result.returncode == 0, result.stderr
    with rkllm_ext.LLM(tiny_model, max_context_len=256, top_k=1) as llm:
        answer = llm.generate(PROMPT, max_new_tokens=24, ignore_eos=True)
    assert answer.perf is not None
    assert result.stdout == answer.text + "\n"
    assert result.stderr == f"tokens 24, finished 1, prompt {answer.perf.prefill_tokens}, finish 2\n"


def test_the_program_of_the_readme_answers(compile_c: Compile, repo: Path, tiny_model: Path, tmp_path: Path) -> None:
    (text,) = re.findall(r"```c\n(.*?)```", (repo / "README.md").read_text("utf-8"), re.DOTALL)
    source = tmp_path / "program.c"
    source.write_text(text, "utf-8")
    library = Path(rkllm_ext.library_path())
    program = compile_c(source, "readme_program", "-std=c99", str(library), f"-Wl,-rpath,{library.parent}")
    without = subprocess.run([program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert without.returncode == 1
    assert "model.rkllm: there is no such file" in without.stderr
    (tmp_path / "model.rkllm").symlink_to(tiny_model)
    answer = subprocess.run([program], cwd=tmp_path, capture_output=True, timeout=120)
    assert (answer.returncode, answer.stderr) == (0, b"")
    assert answer.stdout


def test_a_missing_model_is_a_sentence(program: Path, tmp_path: Path) -> None:
    result = run(program, tmp_path / "missing.rkllm", PROMPT)
    assert result.returncode == 1
    assert "missing.rkllm" in result.stderr


def test_an_empty_prompt_is_a_sentence(program: Path, tiny_model: Path) -> None:
    result = run(program, tiny_model, "")
    assert result.returncode == 1
    assert "the prompt is empty" in result.stderr


def test_a_wrong_setting_is_a_sentence(program: Path, tiny_model: Path) -> None:
    result = run(program, tiny_model, PROMPT, 0)
    assert result.returncode == 1
    assert "max_new_tokens" in result.stderr


def test_the_queue_of_the_binding_keeps_its_promises(compile_c: Compile, repo: Path) -> None:
    source = Path(__file__).with_name("queue_program.c")
    binding = repo / "src" / "rkllm_ext"
    queue = compile_c(source, "queue_program", "-std=gnu99", f"-I{binding}", f"{binding}/_queue.c", "-lpthread")
    result = run(queue)
    assert (result.returncode, result.stdout) == (0, "the queue keeps its promises\n"), result.stderr
