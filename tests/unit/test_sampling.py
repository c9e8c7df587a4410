# SPDX-License-Identifier: Apache-2.0
"""Sampling through the C interface: token for token that of the oracle, and in distribution."""

from __future__ import annotations

import ctypes as c
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from c_sampler import LIBRARY, CSettings, Refused, logprobs, opened
from numpy.typing import NDArray
from reference import sampling as oracle
from reference.sampling import Settings

PLAIN = Settings(top_k=0, top_p=1.0, temperature=1.0, repeat_penalty=1.0)
INVALID_ARGUMENT, INTERNAL = -1, -9


def agrees(settings: Settings, rng: np.random.Generator, n: int, draws: int, masked: bool, spread: float) -> None:
    """Draw a few tokens one after the other, each from other logits, with both."""
    seed = int(rng.integers(2**63))
    expected = oracle.Sampler(settings, seed)
    history: list[int] = rng.integers(0, n, int(rng.integers(0, 90))).tolist()
    with opened(settings, seed) as sampler, np.errstate(divide="ignore"):
        for _ in range(draws):
            logits = (rng.standard_normal(n) * spread).astype(np.float32)
            allowed = rng.random(n) < 0.5 if masked else None
            try:
                wanted = expected.sample(logits, history, allowed)
            except ValueError:  # the mask and the bias forbid everything
                with pytest.raises(Refused, match="no token is left"):
                    sampler.sample(logits, history, allowed)
                continue
            assert sampler.sample(logits, history, allowed) == wanted, settings
            history.append(wanted)


def biases(rng: np.random.Generator, n: int) -> Mapping[int, float]:
    chosen = rng.choice(n, min(n - 1, 3), replace=False)
    return {int(token): float(rng.choice([-np.inf, -100.0, 1.5, 3.0])) for token in chosen}


STAGES = list(product([0, 1, 2], [False, True], [False, True]))


@pytest.mark.parametrize(("mirostat", "masked", "biased"), STAGES)
def test_every_combination_of_stages_gives_the_oracles_tokens(mirostat: int, masked: bool, biased: bool) -> None:
    rng = np.random.default_rng(STAGES.index((mirostat, masked, biased)))
    for _ in range(250):
        n = int(rng.choice([2, 31, 32, 33, 100, 1000]))
        settings = Settings(
            top_k=int(rng.choice([-1, 0, 1, 2, 40, 2000])),
            top_p=float(rng.choice([1.0, 0.95, 0.5, 1e-6])),
            min_p=float(rng.choice([0.0, 0.05, 0.5, 1.0])),
            temperature=float(rng.choice([0.0, 0.1, 0.8, 1.0, 3.0, 100.0], p=[0.1, 0.1, 0.3, 0.3, 0.1, 0.1])),
            repeat_penalty=float(rng.choice([1.0, 1.1, 2.0, 0.5])),
            frequency_penalty=float(rng.choice([0.0, 0.3, -0.2])),
            presence_penalty=float(rng.choice([0.0, 0.7])),
            mirostat=mirostat,
            mirostat_tau=float(rng.choice([0.0, 1.0, 3.0, 5.0, 20.0])),
            mirostat_eta=float(rng.choice([0.0, 0.1, 1.0])),
            logit_bias=biases(rng, n) if biased else {},
        )
        agrees(settings, rng, n, 5, masked, float(rng.choice([0.5, 3.0, 10.0])))


@pytest.mark.parametrize("mirostat", [0, 1, 2])
def test_a_large_vocabulary_gives_the_oracles_tokens(mirostat: int) -> None:
    rng = np.random.default_rng(mirostat)
    for temperature in (0.7, 1.5, 20.0):
        for top_p, min_p in ((1.0, 0.0), (0.99, 0.0), (1.0, 0.001), (0.999, 0.0001)):
            settings = replace(PLAIN, top_p=top_p, min_p=min_p, temperature=temperature, mirostat=mirostat)
            agrees(settings, rng, 150_000, 3, False, 2.0)


@pytest.mark.parametrize("mirostat", [0, 1, 2])
def test_equal_logits_and_single_tokens_give_the_oracles_tokens(mirostat: int) -> None:
    for n in (1, 2, 3, 500):
        for tau in (0.0, 3.0, 50.0):
            settings = replace(PLAIN, mirostat=mirostat, mirostat_tau=tau)
            expected = oracle.Sampler(settings, 9)
            with opened(settings, 9) as sampler:
                for _ in range(20):
                    logits = np.full(n, 2.5, np.float32)
                    assert sampler.sample(logits) == expected.sample(logits)


def test_the_defaults_are_those_of_a_handle() -> None:
    given = LIBRARY.rkllm_ext_default_sampling()
    values = [getattr(given, name) for name, _ in CSettings._fields_[:10]]
    assert values == pytest.approx([40, 0.9, 0.0, 0.8, 1.1, 0.0, 0.0, 0, 5.0, 0.1])
    assert (given.n_bias, bool(given.bias_ids), bool(given.biases)) == (0, False, False)


# ---- distributions ----

LOGITS = np.log(np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])).astype(np.float32)


def frequencies(settings: Settings, draws: int, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    with opened(settings, 2024) as sampler:
        tokens = [sampler.sample(LOGITS, (), allowed) for _ in range(draws)]
    return np.bincount(tokens, minlength=len(LOGITS))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (PLAIN, [0.4, 0.25, 0.15, 0.1, 0.06, 0.04]),
        (replace(PLAIN, top_k=2), [0.4, 0.25, 0, 0, 0, 0]),
        (replace(PLAIN, top_p=0.7), [0.4, 0.25, 0.15, 0, 0, 0]),
        (replace(PLAIN, min_p=0.2), [0.4, 0.25, 0.15, 0.1, 0, 0]),
        (replace(PLAIN, temperature=0.5), [0.16, 0.0625, 0.0225, 0.01, 0.0036, 0.0016]),
        (replace(PLAIN, top_p=0.7, temperature=0.5), [0.16, 0.0625, 0.0225, 0, 0, 0]),
        (replace(PLAIN, logit_bias={5: float(np.log(10)), 0: -np.inf}), [0, 0.25, 0.15, 0.1, 0.06, 0.4]),
        (replace(PLAIN, mirostat=2, mirostat_tau=1.0, mirostat_eta=0.0), [0.4, 0.25, 0, 0, 0, 0]),
    ],
    ids=lambda value: "" if isinstance(value, list) else None,
)
def test_tokens_come_as_often_as_their_probabilities_say(settings: Settings, expected: list[float]) -> None:
    # chi-square, one side, at 1e-6 for up to 5 degrees of freedom
    p = np.array(expected) / np.sum(expected)
    counts = frequencies(settings, 20_000)
    assert not counts[p == 0].any()
    possible = p > 0
    statistic = ((counts - 20_000 * p)[possible] ** 2 / (20_000 * p[possible])).sum()
    assert statistic < 36.5


def test_a_mask_leaves_the_proportions_of_what_it_allows() -> None:
    allowed = np.array([False, True, False, True, True, False])
    counts = frequencies(PLAIN, 20_000, allowed)
    p = np.where(allowed, np.exp(LOGITS), 0.0)
    p /= p.sum()
    assert not counts[~allowed].any()
    assert ((counts - 20_000 * p)[allowed] ** 2 / (20_000 * p[allowed])).sum() < 36.5


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("tau", [2.0, 4.0, 6.0])
def test_mirostat_brings_the_mean_surprise_to_its_target(version: int, tau: float) -> None:
    # A Zipf distribution over 2000 tokens, for which the estimate of version 1 is exact.
    logits = -1.1 * np.log(np.arange(1, 2001))
    logits = np.random.default_rng(0).permutation(logits).astype(np.float32)
    settings = replace(PLAIN, mirostat=version, mirostat_tau=tau)
    with opened(settings, 7) as sampler:
        tokens = [sampler.sample(logits) for _ in range(3000)]
    # The surprise that is steered is that of the distribution after the cut: measured by the mean error of mu's steps,
    # which must be near 0, or mu would have run away.
    model = oracle.Sampler(settings, 7)
    with np.errstate(divide="ignore"):
        assert tokens == [model.sample(logits) for _ in range(3000)]
    mean_surprise = tau - (model.mu - 2 * tau) / (3000 * float(np.float32(0.1)))
    assert mean_surprise == pytest.approx(tau, abs=0.1)


# ---- state ----


@pytest.mark.parametrize("mirostat", [0, 1, 2])
def test_a_copy_goes_on_from_the_same_state_and_apart(mirostat: int) -> None:
    logits = np.random.default_rng(1).standard_normal(300).astype(np.float32)
    with opened(replace(PLAIN, mirostat=mirostat), 5) as sampler:
        for _ in range(10):
            sampler.sample(logits)
        copy = sampler.copy()
        try:
            ahead = [copy.sample(logits) for _ in range(50)]
            assert [sampler.sample(logits) for _ in range(50)] == ahead
        finally:
            copy.close()


def test_the_same_seed_gives_the_same_tokens_and_another_gives_others() -> None:
    logits = np.zeros(50, np.float32)

    def tokens(seed: int) -> list[int]:
        with opened(PLAIN, seed) as sampler:
            return [sampler.sample(logits) for _ in range(40)]

    assert tokens(2**64 - 1) == tokens(2**64 - 1) != tokens(0)


# ---- edges ----


def one(settings: Settings, logits: Sequence[float], **more: Any) -> int:
    with opened(settings, 1) as sampler:
        return sampler.sample(np.array(logits, np.float32), **more)


def test_greedy_takes_the_smaller_id_among_equals() -> None:
    for settings in (replace(PLAIN, temperature=0.0), replace(PLAIN, top_k=1)):
        assert one(settings, [0.0, 3.0, 2.0, 3.0]) == 1
    assert one(replace(PLAIN, temperature=0.0, mirostat=2), [0.0, 3.0, 2.0, 3.0]) == 1


def test_a_k_beyond_the_vocabulary_keeps_all() -> None:
    many = {one_of for seed in range(200) for one_of in drawn(replace(PLAIN, top_k=10**9), [0.0, 0.0, 0.0], seed)}
    assert many == {0, 1, 2}


def drawn(settings: Settings, logits: Sequence[float], seed: int) -> list[int]:
    with opened(settings, seed) as sampler:
        return [sampler.sample(np.array(logits, np.float32))]


@pytest.mark.parametrize("mirostat", [0, 1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_is_never_chosen(bad: float, mirostat: int) -> None:
    settings = replace(PLAIN, mirostat=mirostat, temperature=50.0)
    for seed in range(30):
        assert drawn(settings, [bad, 1.0, bad, 0.5, bad], seed)[0] in (1, 3)
    assert one(replace(settings, temperature=0.0), [bad, 1.0, bad, 0.5]) == 1


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_without_a_finite_logit_the_model_is_blamed(top_p: float, bad: float) -> None:
    with pytest.raises(Refused, match="no finite logit") as refused:
        one(replace(PLAIN, top_p=top_p), [bad, bad])
    assert refused.value.code == INTERNAL


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("mirostat", [0, 1, 2])
def test_with_everything_forbidden_mask_and_bias_are_blamed(temperature: float, mirostat: int) -> None:
    settings = replace(PLAIN, temperature=temperature, mirostat=mirostat)
    with pytest.raises(Refused, match="no token is left of 40") as refused:
        one(settings, [1.0] * 40, allowed=np.zeros(40, bool))
    assert refused.value.code == INVALID_ARGUMENT
    with pytest.raises(Refused, match="no token is left of 2"):
        one(replace(settings, logit_bias={0: -np.inf, 1: -np.inf}), [1.0, 1.0])


def test_a_mask_of_one_token_chooses_it() -> None:
    for n in (1, 31, 32, 33, 64, 65):
        for token in {0, n // 2, n - 1}:
            allowed = np.arange(n) == token
            assert one(PLAIN, [0.0] * n, allowed=allowed) == token


def test_the_penalties_look_at_the_last_64_tokens_and_pass_over_what_is_outside() -> None:
    greedy = replace(PLAIN, temperature=0.0, repeat_penalty=2.0)
    assert one(greedy, [4.0, 3.0], history=[]) == 0
    assert one(greedy, [4.0, 3.0], history=[0] + [1] * 64) == 0
    assert one(greedy, [4.0, 3.0], history=[0] + [-1, 2, 10**9] * 21) == 1


def test_extreme_logits_and_temperatures_end_in_a_token() -> None:
    extremes = [3e38, -3e38, 1e-45, 0.0, 3e38]
    for mirostat, temperature in product([0, 1, 2], [1e-45, 1e-3, 100.0]):
        assert one(replace(PLAIN, mirostat=mirostat, temperature=temperature), extremes) in (0, 4)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"top_p": 0.0}, "top_p is 0, but must be above 0"),
        ({"min_p": 1.5}, "min_p is 1.5, but must be 0 to 1"),
        ({"min_p": float("nan")}, "min_p is nan"),
        ({"mirostat": 3}, "mirostat is 3, but must be"),
        ({"mirostat_tau": -1.0}, "mirostat_tau is -1"),
        ({"mirostat_eta": float("inf")}, "mirostat_eta is inf"),
        ({"logit_bias": {-1: 0.0}}, "logit_bias is -1"),
        ({"logit_bias": {1: float("inf")}}, "logit_bias is inf"),
        ({"logit_bias": {1: float("nan")}}, "logit_bias is nan"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refused, match=sentence) as refused, opened(replace(PLAIN, **wrong), 1):
        pass
    assert refused.value.code == INVALID_ARGUMENT


def test_a_bias_for_a_token_beyond_the_logits_is_refused() -> None:
    with pytest.raises(Refused, match="logit_bias names token 5, but there are 2"):
        one(replace(PLAIN, logit_bias={5: 1.0}), [0.0, 1.0])


def test_missing_arguments_are_refused() -> None:
    pointer, token, one_logit = c.c_void_p(), c.c_int32(), (c.c_float * 1)(1.0)
    assert LIBRARY.rkllm_ext_sampler_open(None, 0, c.byref(pointer)) == INVALID_ARGUMENT
    assert LIBRARY.rkllm_ext_sampler_copy(None, c.byref(pointer)) == INVALID_ARGUMENT
    assert LIBRARY.rkllm_ext_sample(None, one_logit, 1, None, 0, None, c.byref(token)) == INVALID_ARGUMENT
    LIBRARY.rkllm_ext_sampler_close(None)
    with opened(PLAIN, 0) as sampler:
        for logits, n in ((None, 1), (one_logit, 0), (one_logit, -1)):
            code = LIBRARY.rkllm_ext_sample(sampler.pointer, logits, n, None, 0, None, c.byref(token))
            assert code == INVALID_ARGUMENT
    given = LIBRARY.rkllm_ext_default_sampling()
    given.n_bias = 1
    assert LIBRARY.rkllm_ext_sampler_open(c.byref(given), 0, c.byref(pointer)) == INVALID_ARGUMENT


# ---- log-probabilities ----


def test_log_probabilities_are_those_of_numpy() -> None:
    rng = np.random.default_rng(3)
    for n in (1, 2, 19, 20, 21, 5000):
        for spread in (0.01, 3.0, 100.0):
            logits = (rng.standard_normal(n) * spread).astype(np.float32)
            logits[rng.random(n) < 0.3] = logits[0]  # equals
            expected = oracle.log_softmax(logits).astype(np.float32)
            best = np.argsort(-logits, kind="stable")
            for k in (0, 1, 5, 20):
                token = int(rng.integers(n))
                own, ids, values = logprobs(logits, token, k)
                assert own == pytest.approx(expected[token], rel=1e-6, abs=1e-6)
                assert ids == best[:k].tolist()
                np.testing.assert_allclose(values, expected[best[:k]], rtol=1e-6, atol=1e-6)


def test_log_probabilities_leave_out_what_is_not_finite() -> None:
    own, ids, values = logprobs(np.array([np.nan, 0.0, np.inf, 0.0, -np.inf], np.float32), 0, 20)
    assert own == -np.inf
    assert ids == [1, 3]
    np.testing.assert_allclose(values, np.log([0.5, 0.5]), rtol=1e-6)
    assert logprobs(np.array([np.nan], np.float32), 0, 3)[1] == []


@pytest.mark.parametrize(("n", "token", "k"), [(4, 4, 1), (4, -1, 1), (4, 0, 21), (4, 0, -1)])
def test_log_probabilities_of_what_is_not_there_are_refused(n: int, token: int, k: int) -> None:
    with pytest.raises(Refused) as refused:
        logprobs(np.zeros(n, np.float32), token, k)
    assert refused.value.code == INVALID_ARGUMENT
