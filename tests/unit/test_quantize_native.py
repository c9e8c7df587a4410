# SPDX-License-Identifier: Apache-2.0
"""Round to nearest in the library: the bytes of rtn.quantize and pack, from every source type, with any threads."""

from __future__ import annotations

import numpy as np
import pytest

from rkllm_ext import _rkllm
from rkllm_ext.errors import InvalidArgumentError, ModelFileError
from rkllm_ext.quant import rtn
from rkllm_ext.quant.formats import formats

ALL = list(formats().values())
SHAPES = {0: [(1, 1), (16, 33), (37, 72), (5, 200)]}  # of formats without groups; the others: multiples of the group


def shapes(format: _rkllm.Format) -> list[tuple[int, int]]:
    return SHAPES.get(format.group) or [(1, format.group), (19, 3 * format.group)]


def awkward(rows: int, cols: int) -> np.ndarray:
    """Return weights with what is awkward: zeros of both signs, ties, subnormal scales, scales beyond f16."""
    rng = np.random.default_rng(rows * cols)
    weights = rng.standard_normal((rows, cols)).astype(np.float32)
    special = [
        np.zeros(cols),
        np.full(cols, -0.0),
        np.resize([-0.0, 0.0], cols),
        np.resize([-8, -7.5, -0.5, 0.5, 1.5, 2.5, 7.5, 8], cols),
        np.resize([8, -8, 0.5], cols),
        rng.standard_normal(cols) * 1e-30,
        rng.standard_normal(cols) * 1e-6,
        rng.standard_normal(cols) * 2e-41,
        rng.standard_normal(cols) * 1e37,
        np.abs(rng.standard_normal(cols)),
    ]
    for row, values in zip(range(1, rows), special):
        weights[row] = values
    return weights


def expected_bytes(format: _rkllm.Format, weights: np.ndarray) -> bytes:
    codes, scales = rtn.quantize(weights, format)
    return bytes(_rkllm.pack(format.name, codes, scales))


@pytest.mark.parametrize("format", [format for format in ALL if format.scale_bits], ids=lambda format: format.name)
def test_bytes_are_those_of_the_definition(format: _rkllm.Format) -> None:
    for rows, cols in shapes(format):
        weights = awkward(rows, cols)
        assert bytes(_rkllm.quantize(format.name, weights)) == expected_bytes(format, weights), (rows, cols)


@pytest.mark.parametrize("format", ALL, ids=lambda format: format.name)
def test_half_and_brain_floats_are_taken_as_they_are_stored(format: _rkllm.Format) -> None:
    for rows, cols in shapes(format):
        weights = awkward(rows, cols).clip(np.float32(-60000), np.float32(60000))
        half = weights.astype(np.float16)
        brain = (weights.view(np.uint32) >> 16).astype(np.uint16)
        for stored, wide in (
            (half, half.astype(np.float32)),
            (brain, (brain.astype(np.uint32) << 16).view(np.float32)),
        ):
            expected = expected_bytes(format, wide) if format.scale_bits else bytes(_rkllm.pack(format.name, wide))
            assert bytes(_rkllm.quantize(format.name, stored)) == expected, (rows, cols, stored.dtype)


def test_four_bits_in_groups_of_32_are_the_codes_and_scales_of_llama_cpp() -> None:
    gguf = pytest.importorskip("gguf")
    rng = np.random.default_rng(3)
    cols = 96
    grid = rng.integers(-15, 16, (64, cols)) * np.exp2(rng.integers(-9, 3, (64, 1)))  # half of all codes are ties
    odd_grid = rng.integers(-16, 17, (512, cols)) / 2 * rng.uniform(0.01, 3, (512, 1)).astype(np.float16)
    edges = [
        np.resize([-8, -7.5, -6.5, -0.5, 0.5, 1.5, 2.5, 6.5, 7.5, 8], cols),
        np.resize([8, -7.5, -6.5, -0.5, 0.5, 1.5, 2.5, 6.5, 7.5, -8], cols),
        np.full(cols, 65504),
        np.resize([-65504, 65504, 1], cols),
        np.zeros(cols),
        np.full(cols, -0.0),
        np.resize([0.001, 6e-8, -6e-8], cols),
    ]
    for values in (rng.standard_normal((512, cols)), rng.standard_normal((512, cols)) * 1e-2, grid, odd_grid, edges):
        weights = np.array(values, np.float16)
        blocks = gguf.quantize(weights.astype(np.float32), gguf.GGMLQuantizationType.Q4_0).reshape(-1, 18)
        scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32).reshape(len(weights), -1)
        codes = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1).astype(np.int8).reshape(weights.shape)
        assert bytes(_rkllm.quantize("w4a16_g32", weights)) == bytes(_rkllm.pack("w4a16_g32", codes, scales))


@pytest.mark.parametrize("format", [format for format in ALL if not format.scale_bits], ids=lambda format: format.name)
def test_float_formats_are_packed(format: _rkllm.Format) -> None:
    for rows, cols in shapes(format):
        weights = awkward(rows, cols).clip(np.float32(-65504), np.float32(65504))
        assert bytes(_rkllm.quantize(format.name, weights)) == bytes(_rkllm.pack(format.name, weights))


@pytest.mark.parametrize("name", ["w8a8", "w4a16_g32", "fp16"])
def test_the_number_of_threads_does_not_matter(name: str) -> None:
    weights = np.random.default_rng(8).standard_normal((333, 96)).astype(np.float32)
    once = _rkllm.quantize(name, weights, 1)
    assert all(_rkllm.quantize(name, weights, n) == once for n in (2, 3, 8))


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("format", ALL, ids=lambda format: format.name)
def test_what_is_not_finite_is_refused_and_the_first_row_named(format: _rkllm.Format, value: float) -> None:
    cols = format.group * 2 or 40
    weights = np.random.default_rng(1).standard_normal((50, cols)).astype(np.float32)
    weights[41, 3] = weights[20, cols - 1] = value
    for array in (weights, weights.astype(np.float16)):
        with pytest.raises(ModelFileError, match="holds a NaN or an infinite weight in row 20; the checkpoint is"):
            _rkllm.quantize(format.name, array)


def test_what_fp16_cannot_hold_is_refused() -> None:
    weights = np.ones((20, 20), np.float32)
    weights[17, 19] = -65505
    with pytest.raises(ModelFileError, match="holds -65505 in row 17, but fp16 ends at 65504; use fp32"):
        _rkllm.quantize("fp16", weights)
    weights[17, 19] = -65504
    assert _rkllm.unpack("fp16", 20, 20, _rkllm.quantize("fp16", weights))[17, 19] == -65504


@pytest.mark.parametrize(
    ("format", "weights", "sentence"),
    [
        ("w9", np.ones((2, 2), np.float32), "format 'w9' does not exist"),
        ("w4a16_g32", np.ones((2, 33), np.float32), "cannot hold a matrix of 2 x 33; its group of 32 must divide"),
        ("w8a8", np.ones(8, np.float32), "weights have 1 dimensions"),
        ("w8a8", np.ones((2, 2)), "of elements 'd'; 2 of float32, float16 or uint16 are needed"),
        ("w8a8", np.ones((4, 4), np.float32).T[:2], "not C-contiguous"),
        ("w8a8", np.ones((0, 4), np.float32), "rows is 0"),
        ("w8a8", None, "is a NoneType, which is no array"),
    ],
)
def test_wrong_arguments_are_refused(format: str, weights: np.ndarray, sentence: str) -> None:
    with pytest.raises(InvalidArgumentError, match=sentence):
        _rkllm.quantize(format, weights)
