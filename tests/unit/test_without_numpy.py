# SPDX-License-Identifier: Apache-2.0
"""The binding with plain Python buffers: array.array, memoryview, ctypes arrays, bytearrays; nothing here needs numpy.

The last test runs this file once more in a Python that finds no numpy, as on Android, for which it has no wheel.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rkllm_ext
from rkllm_ext import LLM, InvalidArgumentError, Multimodal, _rkllm

HAS_NUMPY = importlib.util.find_spec("numpy") is not None
#: The model of the run without numpy, which cannot convert one.
MODEL = "RKLLM_TEST_PLAIN_MODEL"
IDS = [5, 17, 100, 33, 7]
#: A plugin of pytest that hides numpy before anything else is imported.
BLOCKER = """
import sys

class NoNumpy:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "numpy":
            raise ModuleNotFoundError("No module named 'numpy'", name=name)
        return None

sys.meta_path.insert(0, NoNumpy())
importlib_util = __import__("importlib.util").util
found = importlib_util.find_spec
importlib_util.find_spec = lambda name, package=None: None if name == "numpy" else found(name, package)
"""


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest) -> Path:
    """Return a small model: that of the environment, or a converted one."""
    given = os.environ.get(MODEL)
    return Path(given) if given else request.getfixturevalue("tiny_model")


@pytest.fixture(scope="module")
def llm(model: Path) -> Iterator[LLM]:
    with LLM(model, max_context_len=64, max_new_tokens=6, top_k=1, repeat_penalty=1.0) as opened:
        yield opened


def from_array(numbers: list[int]) -> array[int]:
    return array("i", numbers)


def from_bytes(numbers: list[int]) -> memoryview:
    return memoryview(array("i", numbers).tobytes()).cast("i")


def from_ctypes(numbers: list[int]) -> Any:
    return (ctypes.c_int32 * len(numbers))(*numbers)


def rows(n: int, dim: int) -> memoryview:
    """Return embeddings, float32 [n, dim], as a memoryview."""
    values = array("f", [((7 * i) % 23 - 11) / 100 for i in range(n * dim)])
    return memoryview(values.tobytes()).cast("f", (n, dim))


def floats(values: Any) -> list[Any]:
    """Return an array of any kind as lists."""
    return memoryview(values).tolist()


@pytest.mark.parametrize("kind", [from_array, from_bytes, from_ctypes])
def test_token_ids_in_any_buffer_give_the_same_answer(llm: LLM, kind: Callable[[list[int]], Any]) -> None:
    expected = list(llm.generate(array("i", IDS), ignore_eos=True).token_ids)
    assert len(expected) == 6
    assert list(llm.generate(kind(IDS), ignore_eos=True).token_ids) == expected
    assert [piece.token_id for piece in llm.stream(kind(IDS), ignore_eos=True)] == expected


def test_embeddings_in_a_memoryview_are_an_input(llm: LLM) -> None:
    given = rows(3, llm.info.dim)
    once = llm.generate(given, ignore_eos=True)
    assert once.perf.prefill_tokens == 3
    with llm.session() as session:
        session.prefill(given)
        assert session.sample() == once.token_ids[0]


def test_embeddings_of_another_width_are_refused(llm: LLM) -> None:
    with pytest.raises(InvalidArgumentError, match=f"rows of {llm.info.dim + 1}"):
        llm.generate(rows(3, llm.info.dim + 1))


def test_images_in_memoryviews_are_an_input(llm: LLM) -> None:
    one = llm.generate(Multimodal("<image>look", rows(2, llm.info.dim)), ignore_eos=True)
    several = llm.generate(Multimodal("<image>look", [rows(2, llm.info.dim)]), ignore_eos=True)
    assert list(one.token_ids) == list(several.token_ids)
    assert len(one.token_ids) == 6


def test_wrong_elements_are_refused_with_both_types(llm: LLM) -> None:
    with pytest.raises(InvalidArgumentError, match=r"elements 'd' of 8 bytes; int32 is needed"):
        llm.generate(array("d", [1.0]))


def test_text_becomes_ids_and_text_again(llm: LLM) -> None:
    ids = llm.tokenize("hello world")
    assert llm.detokenize(ids) == llm.detokenize(list(ids)) == llm.detokenize(array("i", ids)) == "hello world"


def test_logits_have_rows_of_the_vocabulary(llm: LLM) -> None:
    logits = llm.logits(array("i", IDS))
    assert memoryview(logits).shape == (len(IDS), llm.info.vocab_size)
    last = floats(logits)[-1]
    assert last.index(max(last)) == llm.generate(array("i", IDS), ignore_eos=True).token_ids[0]


def test_hidden_states_have_rows_of_the_model(llm: LLM) -> None:
    assert memoryview(llm.hidden_states(array("i", IDS))).shape == (len(IDS), llm.info.dim)


def test_a_session_steps_and_shows_its_logits(llm: LLM) -> None:
    expected = list(llm.generate(array("i", IDS), ignore_eos=True).token_ids)
    with llm.session() as session:
        session.prefill(array("i", IDS))
        chosen = []
        for _ in expected:
            values = memoryview(session.logits.copy() if HAS_NUMPY else session.logits).tolist()
            chosen.append(session.sample())
            assert values[chosen[-1]] == max(values)
            session.step(chosen[-1])
        assert chosen == expected
        assert list(session.tokens) == IDS + chosen


def test_a_mask_of_bits_or_truth_values_decides(llm: LLM) -> None:
    allowed = 42
    bits = array("I", [0] * ((llm.info.vocab_size + 31) // 32))
    bits[allowed // 32] = 1 << allowed % 32
    truths = memoryview(bytes(token == allowed for token in range(llm.info.vocab_size))).cast("?")
    with llm.session() as session:
        session.prefill(array("i", IDS))
        assert session.sample(mask=bits) == session.sample(mask=truths) == allowed


def test_weights_are_packed_and_unpacked(llm: LLM) -> None:
    weights = rows(16, 32)
    packed = _rkllm.quantize("fp32", weights)
    assert floats(_rkllm.unpack("fp32", 16, 32, packed)) == weights.tolist()
    product = floats(_rkllm.matmul("fp32", 16, 32, packed, rows(1, 32)))[0]
    expected = [sum(a * b for a, b in zip(row, rows(1, 32).tolist()[0])) for row in weights.tolist()]
    assert product == pytest.approx(expected, abs=1e-5)


def test_a_saved_session_goes_on(llm: LLM, tmp_path: Path) -> None:
    with llm.session() as session:
        session.prefill(array("i", IDS))
        session.save(tmp_path / "state")
        expected = session.sample()
    with llm.restore(tmp_path / "state") as again:
        assert list(again.tokens) == IDS
        assert again.sample() == expected


def test_the_package_imports_without_loading_numpy() -> None:
    code = "import sys; from rkllm_ext import LLM, Multimodal, Session; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.skipif(not HAS_NUMPY, reason="this is the run without numpy")
def test_all_of_this_holds_where_there_is_no_numpy(model: Path, tmp_path: Path) -> None:
    (tmp_path / "no_numpy.py").write_text(BLOCKER)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no_numpy", "-p", "no:cacheprovider"]
    command += ["--noconftest", __file__]  # those of other tests need numpy
    environment = {**os.environ, "PYTHONPATH": path, MODEL: str(model)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " 1 skipped" in done.stdout  # this test, and nothing else


def test_this_run_is_what_it_says() -> None:
    assert ("numpy" in sys.modules) <= HAS_NUMPY
    assert rkllm_ext.__version__
