# SPDX-License-Identifier: Apache-2.0
"""Sampling as docs/abi.md defines it, in numpy: every stage sorts and sums whole arrays.

Probabilities are float64, logits float32. Exponentials and logarithms are numpy's, not the library's: a token could
differ only where a draw falls within rounding of the boundary of two tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

WINDOW = 64
F32 = np.float32


@dataclass
class Settings:
    """The settings of rkllm_ext.h."""

    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    temperature: float = 0.8
    repeat_penalty: float = 1.1
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: Mapping[int, float] = field(default_factory=dict)


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the probabilities of logits at a temperature."""
    x = (logits.astype(np.float64) - np.float64(logits.max())) / temperature
    weights = np.exp(x)
    probabilities: NDArray[np.float64] = weights / weights.sum()
    return probabilities


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the logarithms of the probabilities; -inf where a logit is no finite number."""
    finite = np.isfinite(logits)
    x = np.where(finite, logits, -np.inf).astype(np.float64)
    x -= x.max()
    result: NDArray[np.float64] = x - np.log(np.exp(x).sum())
    return result


class Sampler:
    """Settings with the state of the random numbers (SplitMix64) and of mirostat."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings = settings
        self.state = seed
        self.mu = 2.0 * float(F32(settings.mirostat_tau))

    def uniform(self) -> float:
        """Return the next number of [0, 1), a multiple of 2^-53."""
        mask = 2**64 - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
        return ((z ^ z >> 31) >> 11) / 2.0**53

    def candidates(
        self, logits: NDArray[np.float32], history: Sequence[int], allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Return ids and logits of what can be chosen, best first: mask, bias and penalties are applied."""
        s = self.settings
        x = logits.copy()
        if allowed is not None:
            x[~allowed] = -np.inf
        for token, bias in s.logit_bias.items():
            x[token] += F32(bias)
        window = [token for token in history[-WINDOW:] if 0 <= token < len(x)]
        for token in set(window):
            scaled = x[token] / F32(s.repeat_penalty) if x[token] > 0 else x[token] * F32(s.repeat_penalty)
            x[token] = scaled - (F32(window.count(token)) * F32(s.frequency_penalty) + F32(s.presence_penalty))
        order = np.argsort(np.where(np.isfinite(x), -x, np.inf), kind="stable")[: np.isfinite(x).sum()]
        return order, x[order]

    def sample(
        self, logits: NDArray[np.float32], history: Sequence[int] = (), allowed: NDArray[np.bool_] | None = None
    ) -> int:
        """Return a token; ValueError when none is left."""
        s = self.settings
        ids, x = self.candidates(logits, history, allowed)
        if len(ids) == 0:
            raise ValueError("no token is left")
        if s.temperature == 0 or (s.top_k == 1 and s.mirostat == 0):
            return int(ids[0])
        temperature = float(F32(s.temperature))
        if s.mirostat == 1:
            n = self.zipf_k(x, temperature, len(logits))
        elif s.mirostat == 2:
            n = max(1, int((-np.log2(softmax(x, temperature)) <= self.mu).sum()))
        else:
            n = self.cut(x)
        p = softmax(x[:n], temperature)
        chosen = min(int(np.searchsorted(np.cumsum(p), self.uniform(), side="right")), n - 1)
        if s.mirostat:
            self.mu -= float(F32(s.mirostat_eta)) * (-np.log2(p[chosen]) - float(F32(s.mirostat_tau)))
        return int(ids[chosen])

    def cut(self, x: NDArray[np.float32]) -> int:
        """Return how many of the logits, sorted, top-k, top-p and min-p leave."""
        s = self.settings
        n = min(s.top_k, len(x)) if s.top_k > 0 else len(x)
        if s.top_p < 1:
            mass = np.cumsum(softmax(x[:n]))
            n = min(n, 1 + int((mass < float(F32(s.top_p)) * mass[-1]).sum()))
        if s.min_p > 0:
            p = softmax(x[:n])
            n = max(1, int((p >= float(F32(s.min_p)) * p[0]).sum()))
        return n

    def zipf_k(self, x: NDArray[np.float32], temperature: float, vocabulary: int) -> int:
        """Return the k whose expected surprise is mu if probabilities follow Zipf's law (Basu et al., ICLR 2021)."""
        if len(x) == 1:
            return 1
        head = x[:100].astype(np.float64) / temperature
        rank = np.arange(1, len(head))
        t, b = np.log((rank + 1) / rank), head[:-1] - head[1:]
        s = max(float((t * b).sum() / (t * t).sum()), 1e-6)
        e = s - 1 if abs(s - 1) >= 1e-6 else 1e-6
        log_k = (np.log(e / (1 - float(vocabulary) ** -e)) + self.mu * np.log(2)) / s
        k = vocabulary if log_k >= np.log(vocabulary) else max(1, int(np.exp(log_k)))
        return min(k, len(x))
