# SPDX-License-Identifier: Apache-2.0
"""Sessions: the tokens that one chooses oneself, views of logits, batches, forks, threads, and what is refused."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from adapters import random_pairs, write_peft

import rkllm_ext
from rkllm_ext import LLM, Session, step_together
from rkllm_ext.errors import AbortedError, BusyError, ContextFullError, InvalidArgumentError, ModelFileError

PROMPT = "Once upon a time"
GREEDY = {"temperature": 0.0, "repeat_penalty": 1.0}


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> Iterator[LLM]:
    with LLM(tiny_model, max_context_len=256, max_new_tokens=8, n_threads=1, seed=1) as model:
        yield model


def bits(logits: np.ndarray | None) -> bytes:
    assert logits is not None
    return np.asarray(logits).tobytes()


# ---- the sequence ---------------------------------------------------------------------------------------------------


def test_logits_are_those_of_a_whole_pass(llm: LLM) -> None:
    ids = llm.tokenize(PROMPT, add_bos=True)
    whole = llm.logits(ids)
    with llm.session() as session:
        assert session.prefill(ids[:2]) == 2
        assert bits(session.logits) == whole[1].tobytes()
        for index in range(2, len(ids)):
            session.step(ids[index])
            assert bits(session.logits) == whole[index].tobytes()
        assert session.tokens.tolist() == ids.tolist()
        assert len(session) == len(ids)


def test_every_kind_of_input_is_appended(llm: LLM) -> None:
    rows = np.random.default_rng(0).standard_normal((3, llm.info.dim)).astype(np.float32)
    with llm.session() as session:
        n = len(llm.tokenize("a b", add_bos=True))
        assert session.prefill("a b") == n
        assert session.prefill(rows) == 3
        assert session.prefill(np.array([5, 6], np.int32)) == 2
        assert session.tokens.tolist()[n:] == [-1, -1, -1, 5, 6]
        assert session.prefill(" c") == len(llm.tokenize(" c"))  # no begin token in the middle


def test_greedy_steps_are_those_of_generate(llm: LLM) -> None:
    expected = llm.generate(PROMPT, max_new_tokens=12, ignore_eos=True, **GREEDY).token_ids.tolist()
    with llm.session(**GREEDY) as session:
        session.prefill(PROMPT)
        chosen = []
        for _ in range(12):
            token = session.sample()
            assert token == int(session.logits.argmax())  # type: ignore[union-attr]
            chosen.append(token)
            session.step(token)
    assert chosen == expected


def test_sampling_with_a_seed_is_that_of_generate(llm: LLM) -> None:
    settings = {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "repeat_penalty": 1.2, "seed": 7}
    expected = llm.generate(PROMPT, max_new_tokens=16, ignore_eos=True, **settings).token_ids.tolist()
    with llm.session(**settings) as session:
        session.prefill(PROMPT)
        chosen = []
        for _ in range(16):
            chosen.append(session.sample())
            session.step(chosen[-1])
    assert chosen == expected


def test_a_whole_input_keeps_what_is_common(llm: LLM) -> None:
    ids = llm.tokenize("The quick brown fox jumps over the lazy dog", add_bos=True)
    other = np.concatenate([ids[:6], llm.tokenize(" cat")])
    with llm.session() as session, llm.session() as fresh:
        session.prefill(ids)
        assert session.prefill(other, whole=True) == len(other) - 6
        fresh.prefill(other)
        assert bits(session.logits) == bits(fresh.logits)
        assert session.tokens.tolist() == other.tolist()


def test_truncate_goes_back(llm: LLM) -> None:
    ids = llm.tokenize(PROMPT, add_bos=True)
    with llm.session() as session:
        session.prefill(ids)
        before = bits(session.logits)
        session.truncate(2)
        assert session.logits is None
        assert len(session) == 2
        session.prefill(ids[2:])
        assert bits(session.logits) == before
        session.truncate(len(ids))  # nothing goes
        assert bits(session.logits) == before
        for n in (-1, len(ids) + 1):
            with pytest.raises(InvalidArgumentError):
                session.truncate(n)
        session.truncate(0)
        assert len(session) == 0
        assert session


def test_a_fork_goes_on_from_the_same_state_and_changes_nothing(llm: LLM) -> None:
    with llm.session(temperature=2.0, seed=3) as session:
        session.prefill(PROMPT)
        session.step(session.sample())
        with session.fork() as fork:
            assert isinstance(fork, Session)
            assert bits(fork.logits) == bits(session.logits)
            answers = []
            for one in (fork, session):
                tokens = []
                for _ in range(8):
                    tokens.append(one.sample())
                    one.step(tokens[-1])
                answers.append(tokens)
            assert answers[0] == answers[1]
            fork.step(5)
        assert len(session) == len(llm.tokenize(PROMPT, add_bos=True)) + 9


def test_a_sessions_settings_are_its_own_and_an_override_lasts_for_one_choice(llm: LLM) -> None:
    with llm.session(**GREEDY) as session, llm.session(temperature=50.0, top_k=0, top_p=1.0, seed=1) as wild:
        session.prefill(PROMPT)
        wild.prefill(PROMPT)
        best = int(session.logits.argmax())  # type: ignore[union-attr]
        assert session.sample() == best
        assert {wild.sample() for _ in range(32)} != {best}
        assert {session.sample(temperature=50.0, top_k=0, top_p=1.0) for _ in range(32)} != {best}
        assert {session.sample() for _ in range(4)} == {best}
        first = [wild.sample(seed=9), wild.sample(), wild.sample()]
        assert [wild.sample(seed=9), wild.sample(), wild.sample()] == first


def test_a_mask_forbids_tokens(llm: LLM) -> None:
    vocab = llm.info.vocab_size
    allowed = np.zeros(vocab, bool)
    allowed[[7, vocab - 1]] = True
    words = np.zeros((vocab + 31) // 32, np.uint32)
    words[7 // 32] |= np.uint32(1 << 7 % 32)
    words[(vocab - 1) // 32] |= np.uint32(1 << (vocab - 1) % 32)
    with llm.session(temperature=50.0, top_k=0, top_p=1.0, seed=1) as session:
        session.prefill(PROMPT)
        assert {session.sample(allowed) for _ in range(64)} == {7, vocab - 1}
        assert {session.sample(words) for _ in range(64)} == {7, vocab - 1}
        with pytest.raises(InvalidArgumentError):
            session.sample(np.zeros(vocab, bool))
        with pytest.raises(InvalidArgumentError, match="mask has"):
            session.sample(words[:-1])


# ---- logits ---------------------------------------------------------------------------------------------------------


def test_logits_are_a_read_only_array_without_a_copy(llm: LLM) -> None:
    with llm.session() as session:
        assert session.logits is None
        session.prefill(PROMPT)
        logits = session.logits
        assert isinstance(logits, np.ndarray)
        assert (logits.shape, logits.dtype) == ((llm.info.vocab_size,), np.float32)
        assert not logits.flags.writeable
        assert not logits.flags.owndata
        assert np.asarray(logits).ctypes.data == np.asarray(session.logits).ctypes.data
        with pytest.raises(ValueError, match="read-only"):
            logits[0] = 1.0
        with pytest.raises(ValueError, match="WRITEABLE"):
            np.asarray(logits).flags.writeable = True


@pytest.mark.parametrize("move", ["step", "prefill", "truncate", "close", "together"])
def test_logits_that_are_out_of_date_say_so(llm: LLM, move: str) -> None:
    session = llm.session()
    session.prefill(PROMPT)
    logits = session.logits
    assert logits is not None
    kept, plain = logits.copy(), np.asarray(logits)
    part = logits[:5]
    {
        "step": lambda: session.step(5),
        "prefill": lambda: session.prefill("x"),
        "truncate": lambda: session.truncate(1),
        "close": session.close,
        "together": lambda: step_together([session], [5]),
    }[move]()
    for use in (
        lambda: logits[0],
        lambda: logits + 1,
        lambda: 1 - logits,
        lambda: logits.argmax(),
        lambda: np.argmax(logits),
        lambda: np.exp(logits),
        lambda: np.stack([kept, logits]),
        lambda: list(logits),
        lambda: logits.copy(),
        lambda: logits.tolist(),
        lambda: logits > 0,
        lambda: pickle.dumps(logits),
    ):
        with pytest.raises(InvalidArgumentError, match="out of date"):
            use()
    assert repr(logits) == "Logits(out of date)"
    assert logits.shape == kept.shape
    # What went round the class still reads its own step's values.
    session.close()
    gc.collect()
    assert plain.tobytes() == kept.tobytes()
    assert part.tobytes() == kept[:5].tobytes()


def test_views_of_earlier_steps_keep_their_values_and_their_memory_goes_with_them(llm: LLM) -> None:
    with llm.session() as session:
        session.prefill(PROMPT)
        kept = []
        for _ in range(20):
            logits = session.logits
            assert logits is not None
            kept.append((np.asarray(logits), logits.copy()))
            session.step(int(logits.argmax()))
        assert len({view.ctypes.data for view, _ in kept}) == 20
        assert all(view.tobytes() == copied.tobytes() for view, copied in kept)
        del kept, logits
        places = set()
        for _ in range(20):
            places.add(np.asarray(session.logits).ctypes.data)
            session.step(5)
        assert len(places) == 1  # nobody looks at them any more: the session writes where it wrote before


def test_what_is_computed_from_logits_is_an_ordinary_array(llm: LLM) -> None:
    with llm.session() as session:
        session.prefill(PROMPT)
        logits = session.logits
        assert logits is not None
        results = [logits[:3], logits * 2, np.exp(logits), np.sort(logits), logits.copy(), logits.astype(np.float64)]
        results += [np.concatenate([logits, logits]), np.where(logits > 0, logits, 0), -logits, logits.reshape(-1, 1)]
        assert {type(result) for result in results} == {np.ndarray}
        session.step(5)
        assert all(np.isfinite(result).all() for result in results)
        np.testing.assert_array_equal(session.logits, np.asarray(session.logits))


# ---- files ----------------------------------------------------------------------------------------------------------


def test_a_saved_session_is_restored_with_all_its_bits(llm: LLM, tmp_path: Path) -> None:
    path = tmp_path / "session.cache"
    with llm.session(**GREEDY) as session:
        session.prefill(PROMPT)
        session.step(5)
        session.save(path)
        with llm.restore(path, **GREEDY) as restored:
            assert isinstance(restored, Session)
            assert restored.tokens.tolist() == session.tokens.tolist()
            assert bits(restored.logits) == bits(session.logits)
            assert restored.sample() == session.sample()
            for token in (7, 8):
                restored.step(token)
                session.step(token)
                assert bits(restored.logits) == bits(session.logits)


def test_what_cannot_be_saved_or_restored_is_refused(llm: LLM, tmp_path: Path, tiny_llama: Path) -> None:
    path = tmp_path / "session.cache"
    with llm.session() as session:
        session.prefill(PROMPT)
        with pytest.raises(InvalidArgumentError, match="does not exist"):
            session.save(tmp_path / "missing" / "x")
        session.save(path)
    for wrong in (tmp_path / "nothing", tiny_llama / "config.json"):
        with pytest.raises(ModelFileError):
            llm.restore(wrong)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFileError):
        llm.restore(path)
    with pytest.raises(InvalidArgumentError, match="can be set for a session"):
        llm.restore(path, lora="a")


# ---- batches --------------------------------------------------------------------------------------------------------


def test_sessions_that_step_together_get_the_bits_of_single_ones(llm: LLM) -> None:
    texts = ["a", "The quick brown fox jumps over the lazy dog. " * 4, PROMPT, "0123456789 " * 7]
    alone = [llm.session() for _ in texts]
    together = [llm.session() for _ in texts]
    for text, one, other in zip(texts, alone, together):
        one.prefill(text)
        other.prefill(text)
    alone.append(alone[1].fork())
    together.append(together[1].fork())
    for turn in range(6):
        tokens = [(17 * turn + 31 * index) % llm.info.vocab_size for index in range(len(alone))]
        for session, token in zip(alone, tokens):
            session.step(token)
        step_together(together, np.array(tokens, np.int32))
        for one, other in zip(alone, together):
            assert bits(one.logits) == bits(other.logits)
    for session in alone + together:
        session.close()


def test_sessions_with_different_adapters_step_together(tiny_model: Path, tmp_path: Path) -> None:
    with LLM(tiny_model, max_context_len=64, n_threads=1) as llm:
        for number, name in enumerate(("a", "b")):
            pairs = random_pairs({"model.layers.0.self_attn.q_proj": (64, 64)}, rank=4, seed=number)
            write_peft(tmp_path / name, pairs, lora_alpha=64)
            rkllm_ext.convert_lora(tmp_path / name, tiny_model.parent / "checkpoint", tmp_path / f"{name}.rkllm")
            llm.load_lora(tmp_path / f"{name}.rkllm", name)
        names = [None, "a", "b", "a"]
        alone = [llm.session(lora=name) for name in names]
        together = [llm.session(lora=name) for name in names]
        for session in alone + together:
            session.prefill(PROMPT)
        assert len({bits(session.logits) for session in alone}) == 3
        for token in (5, 9, 13):
            for session in alone:
                session.step(token)
            step_together(together, [token] * 4)
            assert [bits(session.logits) for session in together] == [bits(session.logits) for session in alone]
        assert bits(alone[1].logits) == bits(alone[3].logits)
        for session in alone + together:
            session.close()


def test_any_number_of_sessions_steps_together(llm: LLM) -> None:
    sessions = [llm.session() for _ in range(70)]  # more than a pass takes
    for session in sessions:
        session.prefill("a")
    step_together(sessions, range(70))
    with llm.session() as one:
        one.prefill("a")
        one.step(69)
        assert bits(one.logits) == bits(sessions[69].logits)
    step_together([], [])
    for session in sessions:
        session.close()


def test_a_batch_with_a_wrong_part_changes_nothing(llm: LLM, tiny_model: Path) -> None:
    other = LLM(tiny_model, max_context_len=64)
    with other, other.session() as foreign, llm.session() as a, llm.session() as b:
        for session in (a, b, foreign):
            session.prefill("x")
        n = len(a)
        for sessions, tokens in (
            ([a, b], [1]),
            ([a, b], [1, 100000]),
            ([a, b], [-1, 1]),
            ([a, b], [1, "2"]),
            ([a, foreign], [1, 1]),
            ([a, None], [1, 1]),
        ):
            with pytest.raises(InvalidArgumentError):
                step_together(sessions, tokens)  # type: ignore[arg-type]
        with pytest.raises(BusyError, match="twice"):
            step_together([a, a], [1, 1])
        b.close()
        with pytest.raises(InvalidArgumentError, match="closed"):
            step_together([a, b], [1, 1])
        assert len(a) == n
        a.step(1)


# ---- the end of things, threads -------------------------------------------------------------------------------------


def test_a_session_outlives_its_model(tiny_model: Path) -> None:
    with LLM(tiny_model, max_context_len=64) as llm:
        ids = llm.tokenize(PROMPT)
        expected = llm.logits(ids)[-1].tobytes()
        session = llm.session()
    del llm
    gc.collect()
    session.prefill(ids)
    assert bits(session.logits) == expected
    fork = session.fork()
    session.close()
    fork.step(5)
    assert len(fork) == len(ids) + 1


def test_runs_of_the_model_and_sessions_do_not_disturb_each_other(llm: LLM) -> None:
    expected = llm.generate(PROMPT, max_new_tokens=12, ignore_eos=True, **GREEDY).token_ids.tolist()
    with llm.session() as session:
        session.prefill(PROMPT)
        before = len(session)
        stream = llm.stream(PROMPT, max_new_tokens=12, ignore_eos=True, **GREEDY)
        for _ in range(5):
            session.step(5)
        assert [piece.token_id for piece in stream] == expected
        with llm.session() as late:
            assert len(late) == 0
        assert len(session) == before + 5


def test_a_closed_session_says_so_and_can_be_closed_again(llm: LLM) -> None:
    session = llm.session()
    session.close()
    session.close()
    session.abort()
    for call in (
        lambda: session.prefill("x"),
        lambda: session.step(1),
        lambda: session.sample(),
        lambda: session.truncate(0),
        lambda: session.fork(),
        lambda: session.logits,
        lambda: session.tokens,
        lambda: len(session),
    ):
        with pytest.raises(InvalidArgumentError, match="closed"):
            call()


def test_what_is_refused(llm: LLM, tiny_model: Path) -> None:
    with llm.session() as session:
        with pytest.raises(InvalidArgumentError, match="no logits"):
            session.sample()
        for token in (-1, 10**6, 2**40, "a", 1.5):
            with pytest.raises(InvalidArgumentError):
                session.step(token)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="did you mean 'temperature'"):
            session.sample(temprature=1.0)
        with pytest.raises(InvalidArgumentError, match="can be set for a session"):
            llm.session(max_new_tokens=3)
        with pytest.raises(InvalidArgumentError, match="list"):
            session.prefill([1, 2])  # type: ignore[arg-type]
        with pytest.raises(ContextFullError, match="256"):
            session.prefill(np.full(257, 5, np.int32))
        session.prefill(np.full(256, 5, np.int32))
        before = bits(session.logits)
        for call in (lambda: session.step(5), lambda: step_together([session], [5])):
            with pytest.raises(ContextFullError, match="256"):
                call()
        assert bits(session.logits) == before  # and it is as it was
        for action in (pickle.dumps, copy.copy):
            with pytest.raises(TypeError, match="pickle"):
                action(session)
    with pytest.raises(TypeError, match="is made by LLM"):
        Session()
    closed = LLM(tiny_model, max_context_len=64)
    closed.close()
    with pytest.raises(InvalidArgumentError, match="closed"):
        closed.session()


def test_a_session_in_use_is_busy_and_an_abort_ends_its_prefill(tiny_model: Path) -> None:
    with LLM(tiny_model, max_context_len=65536, n_threads=1) as llm, llm.session() as session:
        ids = np.full(60000, 5, np.int32)
        caught: list[BaseException] = []

        def prefill() -> None:
            try:
                session.prefill(ids)
            except BaseException as error:
                caught.append(error)

        thread = threading.Thread(target=prefill)
        thread.start()
        while True:  # the thread is in the call as soon as the session is busy
            try:
                session.truncate(0)
            except BusyError:
                break
            assert thread.is_alive(), "a prefill of 60000 tokens ended before its session was found busy"
        for call in (lambda: session.step(1), lambda: session.tokens, lambda: session.sample()):
            with pytest.raises(BusyError):
                call()
        session.abort()
        thread.join()
        assert [type(error) for error in caught] == [AbortedError]
        kept = len(session)
        assert kept < 60000
        session.step(5)
        assert len(session) == kept + 1


def test_a_session_that_is_closed_in_a_prefill_ends_it(tiny_model: Path) -> None:
    with LLM(tiny_model, max_context_len=65536, n_threads=1) as llm:
        session = llm.session()
        caught: list[BaseException] = []

        def prefill() -> None:
            try:
                session.prefill(np.full(60000, 5, np.int32))
            except BaseException as error:
                caught.append(error)

        thread = threading.Thread(target=prefill)
        thread.start()
        while True:
            try:
                session.truncate(0)
            except BusyError:
                break
            assert thread.is_alive()
        session.close()
        thread.join()
        assert [type(error) for error in caught] == [AbortedError]
        with pytest.raises(InvalidArgumentError, match="closed"):
            session.step(1)


def test_threads_with_sessions_of_their_own_get_the_right_answers(llm: LLM) -> None:
    texts = [PROMPT, "a b c d", "The quick brown fox", "zzz"]
    expected = [llm.generate(text, max_new_tokens=10, ignore_eos=True, **GREEDY).token_ids.tolist() for text in texts]
    answers: dict[int, list[int]] = {}

    def talk(index: int) -> None:
        with llm.session(**GREEDY) as session:
            session.prefill(texts[index])
            tokens = []
            for _ in range(10):
                tokens.append(session.sample())
                session.step(tokens[-1])
            answers[index] = tokens

    threads = [threading.Thread(target=talk, args=(index,)) for index in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[index] for index in range(len(texts))] == expected


def test_a_forked_child_is_told_to_make_its_own(llm: LLM) -> None:
    with llm.session() as session:
        session.prefill("x")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                session.step(5)
            except InvalidArgumentError as error:
                status = 0 if "another process" in str(error) else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        session.step(5)


def test_public_names() -> None:
    assert rkllm_ext.Session is Session
    assert rkllm_ext.step_together is step_together
