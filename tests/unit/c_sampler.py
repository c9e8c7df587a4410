# SPDX-License-Identifier: Apache-2.0
"""The samplers of rkllm_ext.h by ctypes, as any program reaches them."""

from __future__ import annotations

import ctypes as c
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from abi.layout import SAMPLING
from numpy.typing import NDArray
from reference.sampling import Settings

import rkllm_ext


class CSettings(c.Structure):
    _fields_ = [
        ("top_k", c.c_int32),
        ("top_p", c.c_float),
        ("min_p", c.c_float),
        *SAMPLING,
        ("bias_ids", c.POINTER(c.c_int32)),
        ("biases", c.POINTER(c.c_float)),
        ("n_bias", c.c_size_t),
    ]


def load() -> c.CDLL:
    library = c.CDLL(rkllm_ext.library_path())
    library.rkllm_ext_default_sampling.restype = CSettings
    library.rkllm_ext_last_error.restype = c.c_char_p
    library.rkllm_ext_last_error.argtypes = [c.c_void_p]
    library.rkllm_ext_sampler_close.argtypes = [c.c_void_p]
    library.rkllm_ext_sampler_close.restype = None
    library.rkllm_ext_sampler_copy.argtypes = [c.c_void_p, c.c_void_p]
    library.rkllm_ext_sampler_open.argtypes = [c.c_void_p, c.c_uint64, c.c_void_p]
    library.rkllm_ext_sample.argtypes = [
        c.c_void_p,
        c.c_void_p,
        c.c_int32,
        c.c_void_p,
        c.c_size_t,
        c.c_void_p,
        c.c_void_p,
    ]
    library.rkllm_ext_top_logprobs.argtypes = [c.c_void_p, *[c.c_int32] * 3, *[c.c_void_p] * 4]
    return library


LIBRARY = load()


class Refused(Exception):
    """A call of the library failed: its code and sentence."""

    def __init__(self, code: int) -> None:
        super().__init__(code, LIBRARY.rkllm_ext_last_error(None).decode())
        self.code = code


def check(code: int) -> None:
    if code:
        raise Refused(code)


class Sampler:
    """A sampler of the library. Closed with `close`."""

    def __init__(self, pointer: c.c_void_p) -> None:
        self.pointer = pointer

    def copy(self) -> Sampler:
        pointer = c.c_void_p()
        check(LIBRARY.rkllm_ext_sampler_copy(self.pointer, c.byref(pointer)))
        return Sampler(pointer)

    def sample(
        self, logits: NDArray[np.float32], history: Sequence[int] = (), allowed: NDArray[np.bool_] | None = None
    ) -> int:
        x = np.ascontiguousarray(logits, np.float32)
        before = x.copy()
        ids = np.array(history, np.int32)
        words = None if allowed is None else mask_words(allowed)
        token = c.c_int32(-1)
        mask = None if words is None else words.ctypes.data
        code = LIBRARY.rkllm_ext_sample(
            self.pointer, x.ctypes.data, len(x), ids.ctypes.data, len(ids), mask, c.byref(token)
        )
        check(code)
        assert x.tobytes() == before.tobytes()
        return token.value

    def close(self) -> None:
        LIBRARY.rkllm_ext_sampler_close(self.pointer)


def mask_words(allowed: NDArray[np.bool_]) -> NDArray[np.uint32]:
    bits = np.zeros(-(-len(allowed) // 32) * 32, np.uint8)
    bits[: len(allowed)] = allowed
    return np.packbits(bits, bitorder="little").view(np.uint32)


@contextmanager
def opened(settings: Settings, seed: int) -> Iterator[Sampler]:
    fields: dict[str, Any] = {name: getattr(settings, name) for name, _ in CSettings._fields_[:10]}
    ids = (c.c_int32 * len(settings.logit_bias))(*settings.logit_bias)
    biases = (c.c_float * len(settings.logit_bias))(*settings.logit_bias.values())
    given = CSettings(**fields, bias_ids=ids, biases=biases, n_bias=len(ids))
    pointer = c.c_void_p()
    check(LIBRARY.rkllm_ext_sampler_open(c.byref(given), seed, c.byref(pointer)))
    sampler = Sampler(pointer)
    try:
        yield sampler
    finally:
        sampler.close()


def logprobs(logits: NDArray[np.float32], token: int, k: int) -> tuple[float, list[int], NDArray[np.float32]]:
    chosen, count = c.c_float(), c.c_size_t()
    ids, values = np.zeros(max(k, 1), np.int32), np.zeros(max(k, 1), np.float32)
    x = np.ascontiguousarray(logits, np.float32)
    check(
        LIBRARY.rkllm_ext_top_logprobs(
            x.ctypes.data, len(x), token, k, c.byref(chosen), ids.ctypes.data, values.ctypes.data, c.byref(count)
        )
    )
    return chosen.value, ids[: count.value].tolist(), values[: count.value]
