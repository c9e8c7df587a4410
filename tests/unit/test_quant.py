# SPDX-License-Identifier: Apache-2.0
"""Weight formats: codes and scales, the tile layout, and which tensor gets which format."""

from __future__ import annotations

import numpy as np
import pytest
from reference import rounding, tiles

from rkllm_ext import _rkllm
from rkllm_ext.errors import InvalidArgumentError
from rkllm_ext.quant import rtn
from rkllm_ext.quant.formats import check_groups, check_platform, find_format, formats, offered_names
from rkllm_ext.quant.plan import plan

ALL = list(formats().values())
QUANTIZED = [format for format in ALL if format.scale_bits]


def columns(format: _rkllm.Format) -> int:
    return format.group * 2 if format.group else 72  # 72: not a multiple of 32, so that columns are padded


def awkward_weights(rows: int, cols: int) -> np.ndarray:
    """Return weights with what is awkward: rows of zeros, ties, tiny, huge and lopsided values."""
    weights = np.random.default_rng(5).standard_normal((rows, cols)).astype(np.float32)
    weights[1] = 0
    weights[2] *= 1e-30  # below the smallest f16 scale
    weights[3] = 3.0
    weights[4] = np.resize(np.float32([-8, -7.5, -0.5, 0.5, 1.5, 2.5, 7.5, 8]), cols)
    weights[5, 0] = 1e4
    weights[6] = np.abs(weights[6])
    weights[7] = -0.0
    return weights


# ---- round to nearest ----


@pytest.mark.parametrize("format", QUANTIZED, ids=lambda format: format.name)
def test_codes_and_scales_are_those_of_the_plain_loops(format: _rkllm.Format) -> None:
    weights = awkward_weights(19, columns(format))
    codes, scales = rtn.quantize(weights, format)
    expected_codes, expected_scales = rounding.quantize(weights, format.bits, format.group, format.scale_bits)
    assert codes.dtype == np.int8
    assert scales.shape == ((19, 2) if format.group else (19,))
    assert np.array_equal(scales.reshape(19, -1), expected_scales)
    assert np.array_equal(codes, expected_codes)


@pytest.mark.parametrize("format", QUANTIZED, ids=lambda format: format.name)
def test_the_error_is_half_a_step_or_less(format: _rkllm.Format) -> None:
    weights = np.random.default_rng(1).standard_normal((32, columns(format))).astype(np.float32)
    codes, scales = rtn.quantize(weights, format)
    step = np.repeat(np.abs(scales).reshape(32, -1), format.group or weights.shape[1], axis=1)
    error = np.abs(tiles.weights(format.bits, format.group, codes, scales) - weights)
    reach = np.where(
        weights * np.repeat(np.sign(scales).reshape(32, -1), weights.shape[1] // (scales.size // 32), axis=1) > 0, 1, 0
    )
    # 4-bit codes reach from -8 to 7: on the side of 7 the last half step is cut off.
    bound = step * (0.5 + 0.5 * reach * (format.bits == 4))
    assert (error <= bound * 1.001).all()
    assert (error <= 0.501 * step).mean() > 0.9


def test_blocks_of_rows_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = awkward_weights(33, 64)
    whole = rtn.quantize(weights, formats()["w4a16_g32"])
    monkeypatch.setattr(rtn, "_BLOCK", 100)
    blocked = rtn.quantize(weights, formats()["w4a16_g32"])
    assert np.array_equal(whole[0], blocked[0])
    assert np.array_equal(whole[1], blocked[1])


def test_weights_beyond_the_scale_type_stay_finite() -> None:
    weights = np.full((16, 32), 3e38, np.float32)
    codes, scales = rtn.quantize(weights, formats()["w4a16_g32"])
    assert np.isfinite(scales).all()
    assert np.isfinite(tiles.weights(4, 32, codes, scales)).all()


# ---- the tile layout ----


@pytest.mark.parametrize("rows", [1, 16, 19, 48])
@pytest.mark.parametrize("format", ALL, ids=lambda format: format.name)
def test_packed_bytes_are_those_of_the_format_page(format: _rkllm.Format, rows: int) -> None:
    rng = np.random.default_rng(rows)
    cols = columns(format)
    scales = None
    if format.scale_bits:
        low, high = (0, 16) if format.bits == 4 else (-127, 128)
        codes = rng.integers(low, high, (rows, cols)).astype(np.int8)
        scales = rng.standard_normal((rows, cols // format.group) if format.group else rows)
        scales = scales.astype(np.float16).astype(np.float32)
    else:
        codes = rng.standard_normal((rows, cols)).astype(np.float32)
    packed = _rkllm.pack(format.name, codes, scales)
    assert bytes(packed) == tiles.pack(format.bits, format.group, codes, scales)
    assert len(packed) == _rkllm.packed_size(format.name, rows, cols)
    unpacked = _rkllm.unpack(format.name, rows, cols, packed)
    assert np.array_equal(unpacked, tiles.weights(format.bits, format.group, codes, scales))


# ---- which tensor gets which format ----

SHAPES = {
    "rope_inv_freq.weight": (8,),
    "token_embd.weight": (300, 64),
    "blk.0.attn_norm.weight": (64,),
    "blk.0.ffn_down.weight": (64, 128),
    "output.weight": (300, 64),
}


def planned(*arguments: str) -> dict[str, str]:
    return {name: format.name if format else "" for name, format in plan(SHAPES, *arguments).items()}


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_all_matrices_get_the_format_that_was_asked_for(name: str) -> None:
    assert planned(name) == {key: "" if len(shape) == 1 else name for key, shape in SHAPES.items()}


@pytest.mark.parametrize("name", ["w8a8", "w4a16", "w4a16_g32", "w4a16_g64"])
def test_embedding_and_head_of_a_quantized_model_have_8_bits_and_16_bit_activations(name: str) -> None:
    found = planned(name)
    assert found["token_embd.weight"] == found["output.weight"] == "w8a16_g32"
    assert found["blk.0.ffn_down.weight"] == name


def test_an_embedding_that_groups_do_not_divide_is_fp16() -> None:
    assert plan({"token_embd.weight": (300, 72)}, "w4a16")["token_embd.weight"] == formats()["fp16"]


def test_the_head_format_can_be_chosen() -> None:
    assert planned("w8a8", "w8a8")["output.weight"] == "w8a8"
    assert planned("w4a16", "w4a16")["token_embd.weight"] == "w4a16"


def test_a_group_that_does_not_divide_names_layer_both_numbers_and_a_way_out() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        plan({"blk.3.ffn_down.weight": (64, 172), "blk.4.ffn_down.weight": (64, 172)}, "w4a16_g32")
    assert "blk.3.ffn_down.weight: its 172 input columns are no multiple of the group 32 of w4a16_g32" in str(
        caught.value
    )
    assert "formats that fit: fp32, fp16, w8a8, w4a16" in str(caught.value)


def test_groups_that_divide_are_accepted() -> None:
    check_groups({"a": (formats()["w8a8_g512"], 1024), "b": (formats()["w8a8"], 7)})


@pytest.mark.parametrize("name", ["w4a16_g31", "", "W8A8", "w8a16_g32"])
def test_formats_that_are_not_offered_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="does not exist"):
        find_format(name)


# ---- platforms ----


def test_the_cpu_takes_every_offered_format() -> None:
    for name in offered_names():
        assert check_platform("cpu", name, None) == 0


@pytest.mark.parametrize(
    ("platform", "runs"),
    [
        ("rk3588", {"fp16", "w8a8", "w8a8_g128", "w8a8_g256", "w8a8_g512"}),
        ("rk3576", {"fp16", "w8a8", "w4a16", "w4a16_g32", "w4a16_g64", "w4a16_g128"}),
    ],
)
def test_a_platform_runs_its_formats_only(platform: str, runs: set[str]) -> None:
    for name in offered_names():
        if name in runs:
            check_platform(platform, name, None)
        else:
            with pytest.raises(InvalidArgumentError, match=f"{platform} does not run {name}; it runs fp16"):
                check_platform(platform, name, None)


@pytest.mark.parametrize(("platform", "cores"), [("rk3588", 3), ("rk3576", 2)])
def test_the_number_of_cores_is_the_platforms(platform: str, cores: int) -> None:
    assert check_platform(platform, "w8a8", None) == cores
    for number in range(1, cores + 1):
        assert check_platform(platform, "w8a8", number) == number
    for number in (0, cores + 1, -1, True, 1.5, "1"):
        with pytest.raises(InvalidArgumentError, match=rf"num_npu_core is .*, but {platform} has 1 to {cores}"):
            check_platform(platform, "w8a8", number)  # type: ignore[arg-type]


def test_a_cpu_has_no_npu_and_other_platforms_do_not_exist() -> None:
    with pytest.raises(InvalidArgumentError, match="cpu has no NPU"):
        check_platform("cpu", "w8a8", 1)
    with pytest.raises(InvalidArgumentError, match="'rk3399' does not exist; known: rk3588, rk3576, cpu"):
        check_platform("rk3399", "w8a8", None)
