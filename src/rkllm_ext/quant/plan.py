# SPDX-License-Identifier: Apache-2.0
"""Which tensor gets which weight format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .formats import check_groups, find_format

if TYPE_CHECKING:
    from .._rkllm import Format

# The embedding and the output matrix: few bits hurt them most, and so do 8-bit activations, whose outliers are largest
# behind the last norm. A token reads only one row of the embedding.
HEAD = ("token_embd.weight", "output.weight")
# The expanding matrices of latent attention, which are multiplied head by head with float kernels.
PER_HEAD = ("attn_k_b.weight", "attn_v_b.weight")
_HEAD_FORMAT = "w8a16_g32"  # of quantized models; fp16 where its group does not fit


def plan(
    shapes: Mapping[str, tuple[int, ...]], quantized_dtype: str, head_format: str | None = None
) -> dict[str, Format | None]:
    """Return the weight format of each tensor; None for tensors that stay plain float32 (all that are no matrix).

    Parameters
    ----------
    shapes
        Canonical tensor name -> shape.
    quantized_dtype
        The format that was asked for.
    head_format
        The format of the embedding and the output matrix. None: 8 bits with 16-bit activations in quantized models,
        `quantized_dtype` in others.

    Raises
    ------
    InvalidArgumentError
        A format does not exist or does not fit a matrix.
    """
    asked = find_format(quantized_dtype)
    formats: dict[str, Format | None] = {}
    for name, shape in shapes.items():
        if len(shape) != 2:
            formats[name] = None
        elif name.endswith(PER_HEAD):
            formats[name] = asked if asked.bits >= 16 else find_format("fp16")
        elif name in HEAD:
            formats[name] = _head(asked, shape[1]) if head_format is None else find_format(head_format, False)
        else:
            formats[name] = asked
    check_groups({name: (format, shapes[name][1]) for name, format in formats.items() if format})
    return formats


def _head(asked: Format, columns: int) -> Format:
    if asked.bits > 8:
        return asked
    head = find_format(_HEAD_FORMAT, offered_only=False)
    return find_format("fp16") if columns % head.group else head
