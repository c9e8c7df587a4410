# SPDX-License-Identifier: Apache-2.0
"""The Python module on another librkllmrt.so, found through LD_LIBRARY_PATH: one made with rkllm.h alone.

test_generations.py has stand-ins for the vendor's releases.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from compiling import Compile
from underneath import SHARED, folder_of, run

STANDIN = Path(__file__).with_name("standin.c")

@pytest.fixture(scope="module")
def other(compile_c: Compile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with another librkllmrt.so."""
    return folder_of(compile_c(STANDIN, "standin.so", *SHARED), tmp_path_factory.mktemp("other"))


def test_it_is_the_library_in_use(other: Path) -> None:
    output = run(other, "from rkllm_ext import _rkllm; print(_rkllm.library_path(), _rkllm.is_extended())")
    assert output == f"{other}/librkllmrt.so False\n"


def test_text_tokens_and_embeddings_generate(other: Path) -> None:
    code = """
import array, numpy
with LLM(sys.argv[1], max_new_tokens=6) as llm:
    answer = llm.generate("hello")
    print(answer.text, answer.token_ids.tolist(), answer.finish_reason, answer.perf)
    print(llm.generate(array.array("i", [41])).token_ids.tolist())
    print(llm.generate(numpy.full((2, 8), 7, numpy.float32)).token_ids.tolist())
    for piece in llm.stream("hello"):
        print(repr(piece.text), end=" ")
"""
    assert run(other, code).splitlines() == [
        "tok0 tok1 tok2 é tok5  [5, 6, 7, 8, 9, 10] length None",
        "[42, 43, 44, 45, 46, 47]",
        "[7, 8, 9, 10, 11, 12]",
        "'tok0 ' 'tok1 ' 'tok2 ' '' 'é ' 'tok5 ' ",
    ]


def test_async_for_works(other: Path) -> None:
    code = """
import asyncio
async def read(llm):
    return "".join([piece.text async for piece in llm.astream("hello")])
with LLM(sys.argv[1], max_new_tokens=5) as llm:
    print(asyncio.run(read(llm)))
"""
    assert run(other, code, STANDIN_DELAY_US=1000) == "tok0 tok1 tok2 é \n"


def test_break_and_abort_end_a_run(other: Path) -> None:
    code = """
import threading
with LLM(sys.argv[1], max_new_tokens=-1) as llm:
    for piece in llm.stream("hello"):
        break
    stream = llm.stream("hello")
    next(stream)
    threading.Thread(target=llm.abort).start()
    text, ids = stream.collect()
    print(len(ids) < 1000000, stream.finish_reason, llm.is_running)
"""
    assert run(other, code, STANDIN_TOKENS=1000000, STANDIN_DELAY_US=100) == "True abort False\n"


def test_an_aborted_run_without_an_end_does_not_hang(other: Path) -> None:
    code = """
with LLM(sys.argv[1], max_new_tokens=-1) as llm:
    for piece in llm.stream("hello"):
        break
    print(llm.is_running)
"""
    assert run(other, code, STANDIN_TOKENS=1000000, STANDIN_DELAY_US=100, STANDIN_SILENT=1) == "False\n"


def test_a_failed_run_is_raised_and_the_model_goes_on(other: Path) -> None:
    code = """
with LLM(sys.argv[1], max_new_tokens=8) as llm:
    for _ in range(2):
        try:
            llm.generate("hello")
        except rkllm_ext.RKLLMError as error:
            print(type(error).__name__, error)
"""
    assert (
        run(other, code, STANDIN_FAIL=1)
        == 2 * "RKLLMError the run failed; RKLLM_LOG_LEVEL=1 makes the library say more\n"
    )


def test_a_failed_call_is_raised_with_its_name(other: Path) -> None:
    code = """
for action in (lambda: LLM("missing"), lambda: LLM(sys.argv[1]).load_lora("a", "b")):
    try:
        action()
    except rkllm_ext.RKLLMError as error:
        print(type(error).__name__, error)
"""
    assert run(other, code).splitlines() == [
        "RKLLMError rkllm_init failed with -1; RKLLM_LOG_LEVEL=1 makes the library say more",
        "RKLLMError rkllm_load_lora failed with -1; RKLLM_LOG_LEVEL=1 makes the library say more",
    ]


@pytest.mark.parametrize(
    "use",
    [
        "llm.generate('hello', top_k=3)",
        "llm.generate('hello', seed=1)",
        "llm.logits('hello')",
        "llm.tokenize('hello')",
        "llm.detokenize([1])",
        "llm.info",
        "LLM(sys.argv[1], n_threads=2)",
        "LLM(sys.argv[1], seed=2).generate('hello')",
        "rkllm_ext.Tokenizer(sys.argv[1])",
        "rkllm_ext._rkllm.formats()",
        "rkllm_ext._rkllm.version()",
        "rkllm_ext._rkllm.pack('w8a8', b'', b'')",
        "rkllm_ext._rkllm.checksum(b'')",
        "rkllm_ext._rkllm.GGUFFile(sys.argv[1])",
    ],
)
def test_what_it_lacks_is_refused_with_the_reason(other: Path, use: str) -> None:
    code = f"""
import rkllm_ext._rkllm
llm = LLM(sys.argv[1], max_new_tokens=2)
try:
    {use}
except rkllm_ext.UnsupportedModelError as error:
    print(error)
print(llm.generate("still").text)
"""
    first, last = run(other, code).splitlines()
    assert first.endswith(
        f"needs rkllm_ext's own library; LD_LIBRARY_PATH puts another one first ({other}/librkllmrt.so)"
    )
    assert last == "tok0 tok1 "
