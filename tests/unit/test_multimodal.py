# SPDX-License-Identifier: Apache-2.0
"""Prompts with images: where the embeddings go, and what does not fit."""

from __future__ import annotations

import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rkllm_ext import LLM, Multimodal
from rkllm_ext.errors import InvalidArgumentError

GREEDY = {"top_k": 1, "ignore_eos": True, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> Iterator[LLM]:
    with LLM(tiny_model, max_context_len=256, n_threads=1, img_start="<<", img_end=">>", img_content=".") as model:
        yield model


def images(llm: LLM, *lengths: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.standard_normal((n, llm.info.dim)).astype(np.float32) for n in lengths]


def pieced(llm: LLM, *parts: object) -> np.ndarray:
    """Return the logits behind texts and embeddings that a session takes one after another."""
    with llm.session() as session:
        session.prefill(llm.tokenize("", add_bos=True)) if len(llm.tokenize("", add_bos=True)) else None
        for part in parts:
            session.prefill(llm.tokenize(part) if isinstance(part, str) else part)  # type: ignore[arg-type]
        assert session.logits is not None
        return session.logits.copy()


def test_embeddings_stand_where_the_placeholder_is(llm: LLM) -> None:
    [image] = images(llm, 5)
    expected = pieced(llm, "see <<", image, ">> here")
    np.testing.assert_array_equal(llm.logits(Multimodal("see <image> here", image))[-1], expected)
    with llm.session() as session:
        session.prefill(Multimodal("see <image> here", image))
        np.testing.assert_array_equal(session.logits, expected)
        assert session.tokens.tolist().count(-1) == 5


def test_images_of_different_lengths_are_a_list(llm: LLM) -> None:
    first, second = images(llm, 3, 6)
    expected = pieced(llm, "a <<", first, ">> b <<", second, ">> c")
    given = Multimodal("a <image> b <image> c", [first, second])
    assert len(given) == 9
    np.testing.assert_array_equal(llm.logits(given)[-1], expected)
    with llm.session() as session:
        session.prefill(given)
        np.testing.assert_array_equal(session.logits, expected)
    # ... which a plain prompt after it does not feel.
    together = np.concatenate([first, second[:3]])
    equal = llm.logits(Multimodal("a <image> b <image> c", together))
    stacked = llm.logits(Multimodal("a <image> b <image> c", together.reshape(2, 3, -1)))
    np.testing.assert_array_equal(equal, stacked)


def test_answers_to_images(llm: LLM) -> None:
    [image] = images(llm, 4)
    given = Multimodal("see <image> here", image)
    whole = llm.generate(given, **GREEDY)
    assert len(whole.token_ids) == 8
    assert [piece.token_id for piece in llm.stream(given, **GREEDY)] == whole.token_ids.tolist()
    assert whole.perf is not None
    assert whole.perf.input_address == image.ctypes.data
    other = llm.logits(Multimodal("see <image> here", -image))[-1]
    assert other.tobytes() != llm.logits(given)[-1].tobytes()
    assert "4 embeddings" in repr(given)


def test_a_conversation_with_images_is_its_template_with_images(llm: LLM) -> None:
    [image] = images(llm, 4)
    prompt = "<|im_start|>user\nsee <image><|im_end|>\n<|im_start|>assistant\n"
    expected = llm.generate(Multimodal(prompt, image), **GREEDY).token_ids.tolist()
    messages = [{"role": "user", "content": "see <image>"}]
    assert llm.chat(messages, image_embed=image, **GREEDY).token_ids.tolist() == expected
    assert [piece.token_id for piece in llm.chat_stream(messages, image_embed=[image], **GREEDY)] == expected


def test_any_float32_buffer_is_an_image(llm: LLM) -> None:
    dim = llm.info.dim
    plain = memoryview(array.array("f", [0.5] * (2 * dim))).cast("B").cast("f", (2, dim))
    expected = llm.logits(Multimodal("<image>", np.full((2, dim), 0.5, np.float32)))
    np.testing.assert_array_equal(llm.logits(Multimodal("<image>", plain)), expected)


@pytest.mark.parametrize(
    ("prompt", "shape", "sentence"),
    [
        ("no image", (2, 64), "placeholder"),
        ("<image> <image>", (3, 64), "cannot be shared"),
        ("<image>", (2, 63), "rows of 63; the model's dimension is 64"),
        ("", (2, 64), "prompt is empty"),
        ("a\0<image>", (2, 64), "NUL"),
    ],
)
def test_images_that_do_not_fit_the_prompt_are_refused(
    llm: LLM, prompt: str, shape: tuple[int, int], sentence: str
) -> None:
    given = Multimodal(prompt, np.zeros(shape, np.float32))
    with llm.session() as session:
        for call in (llm.generate, llm.logits, session.prefill):
            with pytest.raises(InvalidArgumentError, match=sentence):
                call(given)


def test_a_list_of_images_needs_as_many_placeholders(llm: LLM) -> None:
    with pytest.raises(InvalidArgumentError, match="2 images, but the prompt has 1"):
        llm.generate(Multimodal("<image>", images(llm, 2, 3)))


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((2, 64)), "float32 is needed"),
        (np.zeros(64, np.float32), "2 is needed"),
        (np.zeros((0, 64), np.float32), "empty"),
        ([], "empty list"),
        ([np.zeros((2, 64), np.float32), np.zeros((2, 32), np.float32)], "rows of 32; those of image_embed.0. are 64"),
        ([np.zeros((2, 64))], "image_embed.0."),
        (None, "NoneType"),
        ("text", "str"),
    ],
)
def test_what_is_no_image_is_refused(image: object, sentence: str) -> None:
    with pytest.raises(InvalidArgumentError, match=sentence):
        Multimodal("<image>", image)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="a str is needed"):
        Multimodal(b"<image>", np.zeros((2, 64), np.float32))  # type: ignore[arg-type]


def test_an_image_that_is_not_finite_is_refused(llm: LLM) -> None:
    with pytest.raises(InvalidArgumentError, match="finite"):
        llm.generate(Multimodal("<image>", np.full((2, 64), np.nan, np.float32)))
