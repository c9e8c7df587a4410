# SPDX-License-Identifier: Apache-2.0
"""Hugging Face checkpoints that GPTQ or AWQ has quantized to 4 bits: their codes and scales under the float names.

A matrix [rows, cols] is stored as ``qweight``, ``qzeros`` and ``scales``, all with the columns first, eight codes to an
int32. GPTQ packs eight neighbouring columns of one row, the first in the lowest bits, and AWQ eight rows of one column,
in the order 0, 2, 4, 6, 1, 3, 5, 7; both pack their zero points [cols / group, rows / 8] along the rows. GPTQ's first
version stores zero points less one. A weight is ``scale * (code - zero)``; only a zero point of 8 can be kept here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError, UnsupportedModelError
from .checkpoint import Codes, Float32, Stored
from .safetensors import SafetensorsFiles

_GROUPS = (32, 64, 128)
_PARTS = ("qweight", "qzeros", "scales", "g_idx")
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the row that stands in each place of an int32
_AHEAD = "give the float model and quantize it here"

Codes4 = NDArray[np.uint8]


def open_prequantized(
    tensors: SafetensorsFiles, config: dict[str, Any]
) -> tuple[SafetensorsFiles | PrequantizedTensors, dict[str, Any]]:
    """Return the tensors and the configuration as those of a float model; both unchanged for one that is none of these.

    Raises
    ------
    UnsupportedModelError
        The checkpoint was quantized in a way that cannot be kept; what it is and what can be is said.
    ModelFileError
        Its tensors do not belong together.
    """
    how = config.get("quantization_config")
    if not isinstance(how, Mapping) or how.get("quant_method") not in ("gptq", "awq"):
        return tensors, config
    group = _checked_group(how)
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    return PrequantizedTensors(tensors, how, group), plain


class PrequantizedTensors:
    """The tensors of such a checkpoint (`checkpoint.TensorSource`). All zero points are checked at once."""

    def __init__(self, tensors: SafetensorsFiles, how: Mapping[str, Any], group: int) -> None:
        self._tensors = tensors
        self._awq = how["quant_method"] == "awq"
        # The second version of the format stores zero points as they are.
        self._zero_offset = 0 if self._awq or how.get("checkpoint_format") == "gptq_v2" else 1
        names = tensors.names()
        stems = [name[: -len(".qweight")] for name in names if name.endswith(".qweight")]
        packed = {f"{stem}.{part}" for stem in stems for part in _PARTS}
        self._shapes = {f"{stem}.weight": self._checked(stem, group) for stem in stems}
        self._names = [name for name in names if name not in packed] + list(self._shapes)

    def names(self) -> list[str]:
        return list(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes.get(name) or self._tensors.shape(name)

    def dtype(self, name: str) -> str:
        kind = "AWQ" if self._awq else "GPTQ"
        return f"{kind} 4 bits" if name in self._shapes else self._tensors.dtype(name)

    def load(self, name: str) -> Float32:
        found = self.load_codes(name)
        if found is None:
            return self._tensors.load(name)
        codes, scales = found
        group = codes.shape[1] // scales.shape[1]
        weights: Float32 = (codes.astype(np.float32) - 8) * np.repeat(scales.astype(np.float32), group, axis=1)
        return weights

    def load_stored(self, name: str) -> Stored:
        return self.load(name) if name in self._shapes else self._tensors.load_stored(name)

    def load_codes(self, name: str) -> Codes | None:
        if name not in self._shapes:
            return self._tensors.load_codes(name)
        stem = name[: -len(".weight")]
        packed = self._tensors.load_i32(f"{stem}.qweight")
        codes = _unpacked(packed, _AWQ_ORDER).T if self._awq else _unpacked(packed.T, range(8))
        scales = self._tensors.load(f"{stem}.scales").T
        return np.ascontiguousarray(codes), np.ascontiguousarray(scales.astype(np.float16))

    def close(self) -> None:
        self._tensors.close()

    def _checked(self, stem: str, group: int) -> tuple[int, int]:
        """Return the shape of a matrix whose parts belong together and whose zero points are 8."""
        first, second = self._tensors.shape(f"{stem}.qweight")
        cols, rows = (first, second * 8) if self._awq else (first * 8, second)
        wanted = {"qzeros": (cols // group, rows // 8), "scales": (cols // group, rows)}
        for part, shape in wanted.items():
            found = self._tensors.shape(f"{stem}.{part}")
            if cols % group or rows % 8 or tuple(found) != shape:
                raise ModelFileError(
                    f"tensor '{stem}.{part}' is of shape {list(found)}; {list(shape)} is needed beside a qweight of "
                    f"{[first, second]} with groups of {group}"
                )
        zeros = _unpacked(self._tensors.load_i32(f"{stem}.qzeros"), _AWQ_ORDER if self._awq else range(8))
        wrong = zeros[(zeros + self._zero_offset) & 15 != 8]
        if wrong.size:
            raise UnsupportedModelError(
                f"tensor '{stem}.qzeros': holds the zero point {(int(wrong[0]) + self._zero_offset) & 15}; only "
                f"symmetric checkpoints, whose zero points are 8, can be kept; {_AHEAD}"
            )
        if f"{stem}.g_idx" in self._tensors.names():
            order = self._tensors.load_i32(f"{stem}.g_idx")
            if not np.array_equal(order, np.arange(cols) // group):
                raise UnsupportedModelError(
                    f"tensor '{stem}.g_idx': the columns of a group are not neighbours (desc_act); {_AHEAD}"
                )
        return rows, cols


def _checked_group(how: Mapping[str, Any]) -> int:
    method = how["quant_method"]
    bits, group = how.get("bits", how.get("w_bit")), how.get("group_size", how.get("q_group_size"))
    if bits != 4 or group not in _GROUPS:
        raise UnsupportedModelError(
            f"config.json: quantized by {method} to {bits} bits in groups of {group}; 4 bits in groups of "
            f"{', '.join(map(str, _GROUPS))} can be kept; {_AHEAD}"
        )
    layout = str(how.get("version", "gemm")).lower() if method == "awq" else how.get("checkpoint_format", "gptq")
    known = ("gemm",) if method == "awq" else ("gptq", "gptq_v2")
    if layout not in known:
        raise UnsupportedModelError(
            f"config.json: quantized by {method} in the layout {layout!r}; known: {', '.join(known)}; {_AHEAD}"
        )
    return int(group)


def _unpacked(packed: NDArray[np.int32], order: Any) -> Codes4:
    """Return the codes [n, 8 m] of int32 [n, m]; `order[i]` is where the code in bits 4 i ... 4 i + 3 belongs."""
    words = packed.view(np.uint32) if packed.flags.c_contiguous else np.ascontiguousarray(packed).view(np.uint32)
    out = np.empty((*words.shape, 8), np.uint8)
    for place, index in enumerate(order):
        out[..., index] = (words >> np.uint32(4 * place)) & np.uint32(15)
    return out.reshape(len(words), -1)
