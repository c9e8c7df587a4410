# SPDX-License-Identifier: Apache-2.0
"""Answers of a given form: whatever a model of random weights says, they parse and validate."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rkllm_ext import LLM
from rkllm_ext.errors import InvalidArgumentError

pytest.importorskip("llguidance", reason="needs the extra 'constrain'")
jsonschema = pytest.importorskip("jsonschema")

PROMPT = "Once upon a time"
WILD = {"temperature": 3.0, "top_k": 0, "top_p": 1.0, "repeat_penalty": 1.0}


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> Iterator[LLM]:
    with LLM(tiny_model, max_context_len=2048, max_new_tokens=400, n_threads=1, seed=1) as model:
        yield model


def random_schema(draw: random.Random, depth: int = 0) -> dict[str, Any]:
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "pattern", "bounded"]
    kind = draw.choice(kinds + ["object", "array", "anyOf"] * (3 if depth < 3 else 0))
    if kind == "enum":
        return {"enum": draw.sample(["red", "größe", "日本", 1, 2.5, None, True, 'a"b\\c'], 3)}
    if kind == "const":
        return {"const": draw.choice(["only", 7, False, None, "äöü"])}
    if kind == "pattern":
        return {"type": "string", "pattern": draw.choice(["^[a-z]{2,5}$", "^[0-9]{3}-[A-Z]{2}$", "^(ab|cd)*$"])}
    if kind == "bounded":
        least = draw.randint(-50, 50)
        return {"type": "integer", "minimum": least, "maximum": least + draw.randint(0, 500)}
    if kind == "string":
        return {"type": "string", "maxLength": draw.choice([0, 3, 20])} if draw.random() < 0.5 else {"type": "string"}
    if kind == "array":
        least = draw.randint(0, 2)
        items = random_schema(draw, depth + 1)
        return {"type": "array", "items": items, "minItems": least, "maxItems": least + draw.randint(0, 3)}
    if kind == "object":
        names = draw.sample(["name", "age", "ort", "größe", "a b", 'q"', "x_y"], draw.randint(0, 4))
        return {
            "type": "object",
            "properties": {name: random_schema(draw, depth + 1) for name in names},
            "required": [name for name in names if draw.random() < 0.6],
            "additionalProperties": False,
        }
    if kind == "anyOf":
        return {"anyOf": [random_schema(draw, depth + 1) for _ in range(2)]}
    return {"type": kind}


@pytest.mark.parametrize("number", range(60))
def test_every_answer_to_a_random_schema_validates(llm: LLM, number: int) -> None:
    schema = random_schema(random.Random(number))
    answer = llm.generate(PROMPT, json_schema=schema, seed=number, **WILD)
    assert answer.finish_reason in ("stop", "length")
    value = json.loads(answer.text)
    jsonschema.validate(value, schema)
    assert len(answer.token_ids) <= 400


@pytest.mark.parametrize("budget", [40, 60, 90])
@pytest.mark.parametrize("number", range(12))
def test_an_answer_is_brought_to_its_end_when_its_tokens_run_out(llm: LLM, number: int, budget: int) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "rows": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"id": {"type": "integer"}, "note": {"type": "string"}},
                    "required": ["id", "note"],
                },
            },
        },
        "required": ["name", "rows"],
        "additionalProperties": False,
    }
    answer = llm.generate(PROMPT, json_schema=schema, seed=number, max_new_tokens=budget, **WILD)
    assert len(answer.token_ids) <= budget
    jsonschema.validate(json.loads(answer.text), schema)
    assert answer.perf is not None
    assert answer.perf.finish_reason == answer.finish_reason


def test_an_answer_that_is_cut_short_says_length_and_a_whole_one_stop(llm: LLM) -> None:
    cut = llm.generate(PROMPT, json_schema={"type": "string"}, max_new_tokens=20, seed=1, **WILD)
    assert cut.finish_reason == "length"
    assert isinstance(json.loads(cut.text), str)
    whole = llm.generate(PROMPT, json_schema={"enum": ["one", "two"]}, seed=1, **WILD)
    assert whole.finish_reason == "stop"
    assert json.loads(whole.text) in ("one", "two")


def test_a_full_context_is_an_end_in_time_too(tiny_model: Path) -> None:
    with LLM(tiny_model, max_context_len=96, max_new_tokens=-1, seed=3) as llm:
        for prompt in (PROMPT, llm.tokenize(PROMPT, add_bos=True)):
            answer = llm.generate(prompt, json_schema={"type": "array", "items": {"type": "string"}}, **WILD)
            assert isinstance(json.loads(answer.text), list)


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize(
    "expression", [r"[0-9]{4}-(0[1-9]|1[0-2])", r"(yes|no|maybe)", r"[0-9]+(\.[0-9]{1,3})?", r"[äöüß]{1,4}", r"(a|b)*c"]
)
def test_every_answer_to_an_expression_matches_it(llm: LLM, expression: str, number: int) -> None:
    answer = llm.generate(PROMPT, regex=expression, seed=number, max_new_tokens=60, **WILD)
    assert re.fullmatch(expression, answer.text), answer.text


def test_every_answer_to_a_grammar_is_of_its_language(llm: LLM) -> None:
    grammar = """
start: sum
sum: term (("+" | "-") term)*
term: NUMBER | "(" sum ")"
NUMBER: /[1-9][0-9]?/
"""
    for seed in range(20):
        answer = llm.generate(PROMPT, grammar=grammar, seed=seed, max_new_tokens=60, **WILD)
        assert re.fullmatch(r"[-+()0-9]+", answer.text)
        eval(answer.text, {"__builtins__": {}})  # parses


def test_streams_and_conversations_are_constrained_and_the_next_run_is_not(llm: LLM) -> None:
    free = llm.generate(PROMPT, seed=5, max_new_tokens=20, ignore_eos=True, **WILD).text
    schema = '{"enum": ["left", "right"]}'
    text = "".join(piece.text for piece in llm.stream(PROMPT, json_schema=schema, seed=5, **WILD))
    assert json.loads(text) in ("left", "right")
    assert llm.chat([{"role": "user", "content": "hi"}], regex="[xy]z", **WILD).text in ("xz", "yz")
    assert llm.generate(PROMPT, seed=5, max_new_tokens=20, ignore_eos=True, **WILD).text == free
    llm.session().close()


def test_the_form_holds_whatever_the_settings(llm: LLM) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    for settings in (
        {"top_k": 1},
        {"temperature": 0.0},
        {"mirostat": 2, "temperature": 2.0},
        {"min_p": 0.5},
        {"draft": 8},
        {"repeat_penalty": 1.5, "frequency_penalty": 1.0},
        {"logprobs": 2},
    ):
        answer = llm.generate(PROMPT, json_schema=schema, max_new_tokens=60, **settings)
        jsonschema.validate(json.loads(answer.text), schema)


def test_drafting_changes_no_constrained_answer(llm: LLM) -> None:
    schema = {"type": "array", "items": {"enum": ["alpha", "beta"]}, "maxItems": 9, "minItems": 9}
    plain = llm.generate(PROMPT, json_schema=schema, seed=2, **WILD)
    drafted = llm.generate(PROMPT, json_schema=schema, seed=2, draft=8, **WILD)
    assert plain.token_ids.tolist() == drafted.token_ids.tolist()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"json_schema": {"type": "strange"}}, "json_schema: .*strange"),
        ({"json_schema": "{"}, "json_schema"),
        ({"json_schema": {"a": {1, 2}}}, "json_schema"),
        ({"json_schema": 5}, "a str is needed"),
        ({"json_schema": ""}, "json_schema is empty"),
        ({"regex": "[a"}, "regex"),
        ({"regex": b"a"}, "regex is b'a'; a str is needed"),
        ({"grammar": "start: nothing_known"}, "grammar"),
        ({"grammar": " "}, "grammar is empty"),
        ({"regex": "a", "grammar": "start: A"}, "regex and grammar are given"),
        ({"regex": "a", "stop": "b"}, "stop and regex are given"),
        ({"regex": "a", "ignore_eos": True}, "ignore_eos and regex are given"),
        ({"regexp": "a"}, "did you mean 'regex'"),
    ],
)
def test_a_wrong_form_is_refused_with_a_sentence(llm: LLM, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidArgumentError, match=sentence):
        llm.generate(PROMPT, **settings)
    assert llm.generate(PROMPT, regex="ok").text == "ok"


def test_a_constraint_that_fails_ends_the_run_with_its_error(llm: LLM) -> None:
    class Broken:
        cut = False

        def __call__(self, tokens: list[int]) -> bytes | None:
            if len(tokens):
                raise ZeroDivisionError("in the constraint")
            return b"\xff" * 64

    from rkllm_ext import Stream

    stream = llm._handle.start(
        PROMPT, {**llm._defaults, "add_bos": "auto", "ignore_eos": True}, Stream, constraint=Broken()
    )
    with pytest.raises(ZeroDivisionError, match="in the constraint"):
        list(stream)
    assert len(llm.generate(PROMPT, max_new_tokens=3, ignore_eos=True).token_ids) == 3


def test_a_constrained_stream_can_be_left_and_a_model_closed_in_it(tiny_model: Path) -> None:
    model = LLM(tiny_model, max_context_len=16384, max_new_tokens=-1)
    for _ in model.stream(PROMPT, regex="(a|b){3000}"):
        break
    stream = model.stream(PROMPT, regex="(a|b){3000}")
    next(stream)
    model.close()


def test_without_the_package_the_error_says_what_to_install(tiny_model: Path) -> None:
    code = """
import sys
sys.modules["llguidance"] = None
from rkllm_ext import LLM
from rkllm_ext.errors import UnsupportedModelError
with LLM(sys.argv[1], max_context_len=64, max_new_tokens=2) as llm:
    try:
        llm.generate("x", regex="a")
    except UnsupportedModelError as error:
        print(error)
    print(len(llm.generate("x", ignore_eos=True).token_ids))
"""
    result = subprocess.run([sys.executable, "-c", code, str(tiny_model)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "pip install 'rkllm_ext[constrain]'" in result.stdout
    assert result.stdout.splitlines()[-1] == "2"


def test_what_makes_masks_cheap_changes_none(llm: LLM) -> None:
    from llguidance import LLTokenizer

    from rkllm_ext.constrain import grammars_of

    forms = [
        ("json_schema", '{"type": "string"}'),
        ("regex", "([A-Za-z ]{3,40}-){4}"),
        ("grammar", "start: /[a-z ]{2,30}/"),
    ]
    for form in forms:
        ours, plain = (grammars_of(llm._handle, llm._file) for _ in range(2))
        plain._tokenizer = plain._tokenizer.with_slices(LLTokenizer.general_slices())
        first, second = ours.constraint(form, None), plain.constraint(form, None)
        draw = random.Random(5)
        tokens: list[int] = []
        for _ in range(30):
            mask = first(tokens)
            assert mask == second(tokens)
            if mask is None:
                break
            bits = int.from_bytes(mask, "little")
            allowed = [token for token in range(llm.info.vocab_size) if bits >> token & 1]
            tokens = [draw.choice(allowed)]
