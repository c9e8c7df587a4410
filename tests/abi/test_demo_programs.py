# SPDX-License-Identifier: Apache-2.0
"""The programs of examples/, and the calls of the vendor's own demo, as somebody at a terminal sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from adapters import random_pairs, write_peft
from compiling import Compile
from programs import Conversation, talk

import rkllm_ext

LINES = "Once upon a time\nthe three robots\n"
ENDLESS = ("-1", 16384, "--option", "ignore_eos=1")


@pytest.fixture(scope="module")
def build(compile_c: Compile, repo: Path) -> Compile:
    library = Path(rkllm_ext.library_path())
    return lambda source, *flags: compile_c(
        repo / source, Path(source).stem, *flags, str(library), f"-Wl,-rpath,{library.parent}", "-ldl"
    )


@pytest.fixture(scope="module")
def llm_demo(build: Compile) -> Path:
    return build("examples/llm_demo.c", "-std=c99")


@pytest.fixture(scope="module")
def multimodal_demo(build: Compile) -> Path:
    return build("examples/multimodal_demo.c", "-std=c99")


@pytest.fixture(scope="module")
def vendor_flow(build: Compile) -> Path:
    return build("tests/abi/vendor_flow.cpp", "-std=c++11")


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    pairs = random_pairs({"model.layers.0.self_attn.q_proj": (64, 64), "model.layers.1.mlp.down_proj": (64, 128)}, 4)
    base = tiny_model.parent / "checkpoint"  # what tiny_model was made of
    rkllm_ext.convert_lora(write_peft(folder / "peft", pairs), base, folder / "a_lora.rkllm")
    return folder / "a_lora.rkllm"


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> str:
    """Return what Python answers to LINES, a line each."""
    with rkllm_ext.LLM(tiny_model, max_context_len=256, top_k=1) as llm:
        return "".join(llm.generate(line, max_new_tokens=12).text + "\n" for line in LINES.splitlines())


@pytest.mark.parametrize("how", [[], ["--async"]])
def test_each_line_is_answered_as_python_answers_it(
    llm_demo: Path, tiny_model: Path, expected: str, how: list[str]
) -> None:
    result = talk(llm_demo, LINES, tiny_model, 12, 256, "--greedy", *how)
    assert (result.returncode, result.stdout, result.stderr) == (0, expected, "")


def test_empty_lines_are_skipped_and_exit_ends_the_conversation(
    llm_demo: Path, tiny_model: Path, expected: str
) -> None:
    first, second = LINES.splitlines()
    result = talk(llm_demo, f"\n{first}\n\n{second}\nexit\n{first}\n", tiny_model, 12, 256, "--greedy")
    assert (result.returncode, result.stdout) == (0, expected)


def test_prefix_and_suffix_stand_around_each_line(llm_demo: Path, tiny_model: Path) -> None:
    result = talk(
        llm_demo, "hello\n", tiny_model, 8, 256, "--greedy", "--prefix", "<|im_start|>user\\n", "--suffix", "\\nso"
    )
    with rkllm_ext.LLM(tiny_model, max_context_len=256, top_k=1) as llm:
        answer = llm.generate("<|im_start|>user\nhello\nso", max_new_tokens=8)
    assert result.stdout == answer.text + "\n"


def test_hidden_states_land_in_the_file(llm_demo: Path, tiny_model: Path, tmp_path: Path) -> None:
    states = tmp_path / "states.f32"
    result = talk(llm_demo, LINES, tiny_model, 12, 256, "--hidden", states)
    with rkllm_ext.LLM(tiny_model, max_context_len=256) as llm:
        wanted = np.concatenate([llm.hidden_states(line) for line in LINES.splitlines()])
    assert result.returncode == 0, result.stderr
    assert "64 hidden states -> " in result.stdout
    assert np.array_equal(np.fromfile(states, np.float32).reshape(-1, 64), wanted)


@pytest.mark.parametrize("how", [[], ["--async"]])
def test_ctrl_c_stops_the_answer_and_the_next_line_is_answered(
    llm_demo: Path, tiny_model: Path, how: list[str]
) -> None:
    with Conversation(llm_demo, tiny_model, *ENDLESS, "--greedy", *how) as conversation:
        for line in LINES.splitlines():
            conversation.say(line)
            assert conversation.hear()  # the answer has begun
            conversation.interrupt()
            conversation.hear_line()
        conversation.say("exit")
        assert conversation.exit_code() == 0


@pytest.mark.parametrize("how", [[], ["--async"]])
def test_ctrl_c_again_ends_the_program(llm_demo: Path, tiny_model: Path, how: list[str]) -> None:
    with Conversation(llm_demo, tiny_model, *ENDLESS, *how) as conversation:
        conversation.say("Once upon a time")
        conversation.hear()
        conversation.interrupt()
        conversation.interrupt()
        conversation.interrupt()
        assert conversation.exit_code() == 0


def test_ctrl_c_while_a_line_is_awaited_ends_the_program(llm_demo: Path, tiny_model: Path) -> None:
    with Conversation(llm_demo, tiny_model, 4, 256, "--greedy") as conversation:
        conversation.say("Once")
        conversation.hear_line()
        conversation.interrupt()
        assert conversation.exit_code() == 0


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["no.rkllm", 4, 256], 1, "the model cannot be loaded: no.rkllm: "),
        (["MODEL", 4, 99999], 1, "max_context_len is 99999"),
        (["MODEL", 4, 256, "--lora", "no_lora.rkllm"], 1, "the adapter cannot be loaded: "),
        (["MODEL", 4, 256, "--load-cache", "no.bin"], 1, "the prompt cache cannot be loaded: "),
        (["MODEL", 4, 256, "--option", "colour=red"], 1, "the option 'colour' does not exist"),
        (["MODEL", 4, 256, "--option", "colour"], 1, "write NAME=VALUE"),
        (["MODEL", "four", 256], 2, "MAX_NEW_TOKENS is 'four'"),
        (["MODEL", 4], 2, "usage: "),
        (["MODEL", 4, 256, "--lora"], 2, "usage: "),
    ],
)
def test_what_is_wrong_is_said(
    llm_demo: Path, tiny_model: Path, arguments: list[object], status: int, sentence: str
) -> None:
    result = talk(llm_demo, "", *(tiny_model if each == "MODEL" else each for each in arguments))
    assert (result.returncode, result.stdout) == (status, "")
    assert sentence in result.stderr


def test_a_prompt_that_is_too_long_is_told_and_the_conversation_goes_on(
    llm_demo: Path, tiny_model: Path, expected: str
) -> None:
    result = talk(llm_demo, "x " * 1000 + "\n" + LINES, tiny_model, 12, 256, "--greedy")
    assert (result.returncode, result.stdout) == (0, expected)
    assert "the run failed: " in result.stderr and "max_context_len is 256" in result.stderr


def test_an_adapter_changes_the_answer_as_it_does_in_python(
    llm_demo: Path, tiny_model: Path, adapter: Path, expected: str
) -> None:
    options = ("--greedy", "--lora", adapter, "--lora-scale", "2.5")
    result = talk(llm_demo, LINES, tiny_model, 12, 256, *options)
    with rkllm_ext.LLM(tiny_model, max_context_len=256, top_k=1) as llm:
        llm.load_lora(adapter, "a", 2.5)
        answers = [llm.generate(line, lora="a", max_new_tokens=12).text for line in LINES.splitlines()]
    assert (result.returncode, result.stdout) == (0, "".join(answer + "\n" for answer in answers))
    assert result.stdout != expected


def test_a_saved_prompt_state_is_gone_on_with(llm_demo: Path, tiny_model: Path, expected: str, tmp_path: Path) -> None:
    cache = tmp_path / "prompt.bin"
    saved = talk(llm_demo, LINES, tiny_model, 12, 256, "--greedy", "--save-cache", cache)
    assert (saved.returncode, saved.stdout) == (0, expected), saved.stderr
    written = cache.stat().st_mtime_ns
    loaded = talk(llm_demo, LINES, tiny_model, 12, 256, "--greedy", "--load-cache", cache)
    assert (loaded.returncode, loaded.stdout) == (0, expected), loaded.stderr
    assert cache.stat().st_mtime_ns == written
    cache.write_bytes(cache.read_bytes()[:-1])
    cut = talk(llm_demo, LINES, tiny_model, 12, 256, "--load-cache", cache)
    assert cut.returncode == 1 and "the prompt cache cannot be loaded: " in cut.stderr


# ---- images ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    path = tmp_path / "image.f32"
    (np.random.default_rng(1).standard_normal((6, 64)) * 0.1).astype(np.float32).tofile(path)
    return path


def test_an_image_changes_the_answer_and_text_alone_is_answered(
    multimodal_demo: Path, tiny_model: Path, vectors: Path, tmp_path: Path
) -> None:
    lines = "see <image> here\nOnce upon a time\n"
    result = talk(multimodal_demo, lines, tiny_model, vectors, 12, 256)
    assert result.returncode == 0, result.stderr
    assert "6 image tokens of 64 floats" in result.stderr
    np.flip(np.fromfile(vectors, np.float32)).tofile(tmp_path / "other.f32")  # a scale would be normed away
    other = talk(multimodal_demo, lines, tiny_model, tmp_path / "other.f32", 12, 256)
    with rkllm_ext.LLM(tiny_model, max_context_len=256, top_k=1) as llm:
        text = llm.generate("Once upon a time", max_new_tokens=12).text
    assert result.stdout.endswith(text + "\n") and other.stdout.endswith(text + "\n")
    assert result.stdout != other.stdout


def test_several_images_share_the_vectors_as_they_are_told_to(
    multimodal_demo: Path, tiny_model: Path, vectors: Path
) -> None:
    line = "<image> and <image>\n"
    equal = talk(multimodal_demo, line, tiny_model, vectors, 12, 256)
    told = talk(multimodal_demo, line, tiny_model, vectors, 12, 256, "--option", "image_tokens=3,3")
    other = talk(multimodal_demo, line, tiny_model, vectors, 12, 256, "--option", "image_tokens=1,5")
    assert equal.returncode == told.returncode == other.returncode == 0
    assert equal.stdout == told.stdout != other.stdout
    wrong = talk(multimodal_demo, line, tiny_model, vectors, 12, 256, "--option", "image_tokens=2,5")
    assert "image_tokens adds up to 7, but there are 6 image tokens" in wrong.stderr


def test_a_file_of_another_width_is_refused(multimodal_demo: Path, tiny_model: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.f32"
    odd.write_bytes(bytes(255))
    for path, sentence in [(odd, "255 bytes, no whole number of vectors of 64"), (tmp_path / "missing", "missing")]:
        result = talk(multimodal_demo, "<image>\n", tiny_model, path, 12, 256)
        assert (result.returncode, result.stdout) == (1, "")
        assert sentence in result.stderr


# ---- the vendor's demo ----------------------------------------------------------------------------------------------


def test_the_calls_of_the_vendors_demo_give_the_same_answers(
    vendor_flow: Path, tiny_model: Path, expected: str
) -> None:
    result = talk(vendor_flow, LINES + "exit\n", tiny_model, 12, 256)
    assert (result.returncode, result.stdout, result.stderr) == (0, expected, "")


def test_the_vendors_demo_learns_that_init_failed(vendor_flow: Path, tmp_path: Path) -> None:
    result = talk(vendor_flow, "", tmp_path / "no.rkllm", 12, 256)
    assert (result.returncode, result.stdout) == (255, "rkllm init failed\n")


@pytest.mark.parametrize("running", [True, False])
def test_ctrl_c_in_the_vendors_demo_ends_it_without_a_crash(
    vendor_flow: Path, tiny_model: Path, running: bool
) -> None:
    for _ in range(3):
        with Conversation(vendor_flow, tiny_model, -1 if running else 4, 16384) as conversation:
            conversation.say("Once upon a time")
            heard = conversation.hear() if running else conversation.hear_line()
            assert heard
            conversation.interrupt()
            assert conversation.exit_code() == 2  # SIGINT, handed to exit()
