# SPDX-License-Identifier: Apache-2.0
"""Which of the vendor's libraries the Python module runs on, and what it says about the others and what they lack."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from compiling import Compile
from underneath import SHARED, folder_of
from vendor_stub import DRIVEN, RELEASES, Stub, build


@pytest.fixture(scope="module")
def newest(compile_c: Compile, tmp_path_factory: pytest.TempPathFactory) -> Stub:
    return build(compile_c, tmp_path_factory.mktemp("newest"), "G", "1.3.0")


# ---- what is refused ----


@pytest.mark.parametrize(
    ("use", "feature"),
    [
        ("llm.generate('hello', seed=1)", "option seed=1"),
        ("llm.generate('hello', stop='x')", "option stop=x"),
        ("llm.generate('hello', ignore_eos=True)", "option ignore_eos=True"),
        ("llm.generate('hello', logprobs=1)", "option logprobs=1"),
        ("llm.generate('hello', n_keep=3)", "option n_keep=3"),
        ("llm.tokenize('hello')", "the model's tokenizer"),
        ("llm.count_tokens('hello')", "the model's tokenizer"),
        ("llm.session()", "session()"),
        ("llm.restore('x')", "session()"),
        ("llm.info", "info"),
        ("LLM(sys.argv[1], kv_type='int8')", "option kv_type=int8"),
        ("LLM(sys.argv[1], draft=4)", "option draft=4"),
        ("LLM(sys.argv[1], activations='int8')", "option activations=int8"),
        ("rkllm_ext.Tokenizer(sys.argv[1])", "Tokenizer"),
    ],
)
def test_what_no_generation_has_is_refused_by_name(newest: Stub, use: str, feature: str) -> None:
    code = f"""
with LLM(sys.argv[1], max_new_tokens=2) as llm:
    try:
        {use}
    except rkllm_ext.UnsupportedByRuntimeError as error:
        print(error)
    print(llm.generate("still").text)
"""
    assert newest.run(code) == [
        f"{feature} needs rkllm_ext's own library; LD_LIBRARY_PATH puts another one first "
        f"({newest.folder}/librkllmrt.so)",
        "tok0 tok1 ",
    ]


REFUSED = """
try:
    LLM(sys.argv[1])
except rkllm_ext.RKLLMError as error:
    print(type(error).__name__, error)
"""
INSTEAD = (
    "put one of 1.1.0 - 1.1.4, 1.2.1 - 1.2.3 and 1.3.0 first in LD_LIBRARY_PATH, or none, which leaves rkllm_ext's own"
)


@pytest.mark.parametrize(
    ("generation", "version", "said"),
    [
        ("D", "rkllm-runtime version: 1.2.0", "1.2.0"),
        ("D", "1.2.1b1", "1.2.1b1"),
        ("G", "version: 1.3.7", "1.3.7"),
        ("F", "version: 1.2.9", "1.2.9"),
    ],
)
def test_another_generation_is_refused_before_anything_of_it_is_called(
    compile_c: Compile, tmp_path: Path, generation: str, version: str, said: str
) -> None:
    stub = build(compile_c, tmp_path, generation, version)
    assert stub.run(REFUSED) == [
        f"UnsupportedByRuntimeError {tmp_path}/librkllmrt.so is the vendor's library {said}, whose interface "
        f"rkllm_ext does not drive; {INSTEAD}"
    ]
    assert stub.calls() == []


def test_a_library_that_does_not_say_its_release_is_driven_when_the_user_says_it(
    compile_c: Compile, tmp_path: Path
) -> None:
    stub = build(compile_c, tmp_path, "G", "nothing")
    assert stub.run(REFUSED) == [
        f"UnsupportedByRuntimeError {tmp_path}/librkllmrt.so is the vendor's library 1.2.1 or later, and its file does "
        "not say which; set RKLLM_EXT_VENDOR_RELEASE to its release if that is one of 1.2.1 - 1.2.3 or 1.3.0, or "
        f"{INSTEAD}"
    ]
    assert stub.calls() == []
    assert stub.run(REFUSED, RKLLM_EXT_VENDOR_RELEASE="1.3.0") == []
    assert [call["call"] for call in stub.calls()][-2:] == ["init", "destroy"]
    assert stub.run(REFUSED, RKLLM_EXT_VENDOR_RELEASE="1.1.4") == [
        "InvalidArgumentError RKLLM_EXT_VENDOR_RELEASE is 1.1.4, but the library has the functions of 1.2.1 or later"
    ]


def test_a_library_that_lacks_a_function_of_its_generation_is_refused(compile_c: Compile, tmp_path: Path) -> None:
    source = tmp_path / "torso.c"
    source.write_text(
        "int rkllm_init(void);\nint rkllm_init(void) { return 0; }\n"
        "int rkllm_run_async(void);\nint rkllm_run_async(void) { return 0; }\n"
    )
    stub = Stub("C", folder_of(compile_c(source, "torso.so", *SHARED), tmp_path))
    (line,) = stub.run(REFUSED)
    assert line.endswith("librkllmrt.so lacks rkllm_createDefaultParam, so it is damaged or no RKLLM library")


# ---- the module itself ----


@pytest.mark.parametrize("generation", DRIVEN)
def test_threads_of_runs_race_with_nobody(compile_c: Compile, repo: Path, tmp_path: Path, generation: str) -> None:
    binding = repo / "src" / "rkllm_ext"
    sources = [str(path) for path in (*sorted(binding.glob("_generation*.c")), binding / "_queue.c")]
    flags = ("-std=c99", "-g", "-fsanitize=thread", f"-I{binding}", *sources, "-ldl", "-lpthread")
    program = compile_c(Path(__file__).with_name("generation_program.c"), "generation_program", *flags)
    stub = build(compile_c, tmp_path, generation, RELEASES[generation], "-fsanitize=thread")
    environment = {**os.environ, "STUB_LOG": os.devnull, "STUB_DELAY_US": "300"}
    command = [str(program), generation, str(stub.folder / "librkllmrt.so")]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    if "unexpected memory mapping" in result.stderr:
        pytest.skip("this kernel's address randomization is too wide for the thread sanitizer: vm.mmap_rnd_bits")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "the generation keeps its promises\n"


def test_the_module_needs_one_symbol_that_every_release_has(compile_c: Compile, tmp_path: Path) -> None:
    source = tmp_path / "oldest.c"  # 1.0.0, as far as importing is concerned
    source.write_text("int rkllm_init(void);\nint rkllm_init(void) { return 0; }\n")
    stub = Stub("A", folder_of(compile_c(source, "oldest.so", *SHARED), tmp_path))
    (line,) = stub.run(REFUSED, LD_BIND_NOW=1)
    assert line == (
        f"UnsupportedByRuntimeError {tmp_path}/librkllmrt.so is the vendor's library 1.0.0, whose interface rkllm_ext "
        f"does not drive; {INSTEAD}"
    )


def test_a_relative_path_is_that_of_the_beginning(stub: Stub) -> None:
    code = """
import os
import rkllm_ext._rkllm
os.chdir("/")
print(rkllm_ext._rkllm.library_path())
print(LLM(sys.argv[1], max_new_tokens=1).generate("hello").text)
"""
    lines = stub.run(code, LD_LIBRARY_PATH=os.path.relpath(stub.folder))
    assert lines == [f"{stub.folder}/librkllmrt.so", "tok0 "]


# ---- the command line ----


def test_the_command_line_runs_on_it_and_says_what_it_is(stub: Stub) -> None:
    code = """
import sys
from rkllm_ext.cli import main
def call(*words):
    try:
        main(list(words))
    except SystemExit as end:
        return end.code
call("run", sys.argv[1], "hello", "--tokens", "3")
call("run", sys.argv[1], "hello", "--tokens", "3", "--raw")
print(call("run", sys.argv[1], "hello", "--seed", "1"))
call("doctor")
"""
    lines = stub.run(code)
    assert lines[:3] == ["tok0 tok1 tok2 ", "tok0 tok1 tok2 ", "1"]
    release = RELEASES[stub.generation]
    assert f"ok       library            the vendor's, of release {release}, {stub.folder}/librkllmrt.so" in lines
    assert len(stub.calls("set_chat_template")) == (0 if stub.generation == "C" else 1)


def test_commands_that_need_more_than_it_has_say_so_before_they_load_a_model(newest: Stub) -> None:
    code = """
import contextlib, sys
from rkllm_ext.cli import main
with contextlib.redirect_stderr(sys.stdout):
    for words in (["bench", sys.argv[1]], ["eval", sys.argv[1], "--text", sys.argv[1]], ["inspect", sys.argv[1]],
                  ["serve", sys.argv[1]], ["ui", sys.argv[1]]):
        try:
            main(words)
        except SystemExit as end:
            print(end.code)
"""
    lines = newest.run(code)
    instead = f"needs rkllm_ext's own library; LD_LIBRARY_PATH puts another one first ({newest.folder}/librkllmrt.so)"
    said = [line for line in lines if line != "1" and "pip install" not in line]  # serve and ui want their extras
    assert len(lines) == 10 and lines.count("1") == 5
    assert all(line.startswith("rkllm-ext: ") and line.endswith(instead) for line in said)
    assert len(said) >= 3
    assert newest.calls() == []
