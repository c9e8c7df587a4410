# SPDX-License-Identifier: Apache-2.0
"""The tile layout of docs/format.md in numpy, written from that page and from nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def up(number: int, step: int) -> int:
    """Round up to a multiple."""
    return -(-number // step) * step


def pack(bits: int, group: int, codes: NDArray[Any], scales: NDArray[np.float32] | None) -> bytes:
    """Return the packed bytes of codes [rows, cols] and scales [rows, groups] or [rows]."""
    rows, cols = codes.shape
    tall = up(rows, 16)
    if bits >= 16:
        padded = np.zeros((tall, cols), "<f4" if bits == 32 else "<f2")
        padded[:rows] = codes
        return padded.reshape(tall // 16, 16, cols).transpose(0, 2, 1).tobytes()  # [N/16][K][16]
    wide = up(cols, group or 32)
    padded = np.full((tall, wide), 8 if bits == 4 else 0, np.int8)
    padded[:rows, :cols] = codes
    if bits == 8:
        packed = padded.reshape(tall // 16, 16, wide // 4, 4).transpose(0, 2, 1, 3).tobytes()  # [N/16][K/4][16][4]
    else:
        halves = padded.view(np.uint8).reshape(tall // 16, 16, wide // 8, 2, 4).transpose(0, 2, 3, 1, 4)
        packed = (halves[:, :, 0] | halves[:, :, 1] << 4).tobytes()  # [N/16][K/8][16][4]
    assert scales is not None
    columns = scales.reshape(rows, -1)
    all_scales = np.zeros((tall, columns.shape[1]), "<f2" if group else "<f4")
    all_scales[:rows] = columns
    return packed + all_scales.reshape(tall // 16, 16, -1).transpose(0, 2, 1).tobytes()  # [N/16][K/group][16]


def weights(bits: int, group: int, codes: NDArray[Any], scales: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Return the weights that codes and scales stand for, float32 [rows, cols]."""
    if bits == 32:
        return codes.astype(np.float32)
    if bits == 16:
        return codes.astype(np.float16).astype(np.float32)
    assert scales is not None
    rows, cols = codes.shape
    each = np.repeat(scales.reshape(rows, -1), group or cols, axis=1)
    return (codes.astype(np.float32) - np.float32(8 if bits == 4 else 0)) * each


def checksum(data: bytes) -> int:
    """Return the checksum of docs/format.md, with Python's integers."""
    mask, prime = (1 << 64) - 1, 0x9E3779B97F4A7C15
    words = np.frombuffer(data + bytes(-len(data) % 64), "<u8").reshape(-1, 8)
    result = len(data)
    for column in words.T.tolist():
        a = b = 0
        for word in column:
            a = (a + word) & mask
            b = (b + a) & mask
        for value in (a, b):
            product = ((result ^ value) * prime) & mask
            result = (product << 29 | product >> 35) & mask
    return result
