# SPDX-License-Identifier: Apache-2.0
"""What the matrices of a block read: which of them share an input, and whose output it is.

An input is made by a norm, or by the rows of another matrix, followed by nothing but products of single channels.
Then the maker's rows may be divided by any factors and the readers' columns multiplied by them: the model computes the
same, and its readers may be easier to quantize. This page is data about the engine's block (transformer.cpp), for all
families; what a model lacks is left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arch.spec import ModelSpec

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Input:
    """One input of a block. Names are canonical tensor names.

    Attributes
    ----------
    readers
        The matrices that are multiplied with it; the first one names it in the engine's tap.
    makers
        The tensors that have a row per factor: a norm's weight and bias, or a matrix and its bias. Empty: factors have
        no place to go.
    heads
        Query heads that read each of the maker's heads one after the other; 1: a column of the readers is a row of
        the maker.
    head_dim
        Width of a head, where `heads` is not 1.
    """

    readers: tuple[str, ...]
    makers: tuple[str, ...] = ()
    heads: int = 1
    head_dim: int = 0

    @property
    def name(self) -> str:
        return self.readers[0]

    def columns(self, factors: Float32) -> Float32:
        """Return the factor of each column of the readers, of factors [rows of the maker]."""
        if self.heads == 1:
            return factors
        return np.repeat(factors.reshape(-1, 1, self.head_dim), self.heads, axis=1).reshape(-1)

    def largest(self, values: Float32) -> Float32:
        """Return, for each row of the maker, the largest of the readers' columns' values that share its factor."""
        if self.heads == 1:
            return values
        largest: Float32 = values.reshape(-1, self.heads, self.head_dim).max(axis=1).reshape(-1)
        return largest


def block_inputs(spec: ModelSpec, names: Collection[str], layer: int) -> list[Input]:
    """Return the inputs of a block, in the order in which they are computed.

    Parameters
    ----------
    names
        The canonical names of all tensors of the model.
    layer
        The block's number.
    """
    return list(_inputs(spec, _Block(names, f"blk.{layer}.")))


def factor_lengths(spec: ModelSpec, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return the vectors of factors that a model file keeps, by name, with their lengths, block by block.

    An adapter was made for the matrices as they were: it needs to know what its layer's columns were multiplied by
    (``blk.3.attn_q.in_factors``) and what its rows were divided by (``blk.3.attn_v.out_factors``).
    """
    found = {}
    for layer in range(spec.size("n_layers")):
        for each in block_inputs(spec, shapes, layer):
            if each.makers:
                found.update({in_factors(name): shapes[name][1] for name in each.readers})
                found.update({out_factors(name): shapes[name][0] for name in each.makers if len(shapes[name]) == 2})
    return found


def in_factors(weight: str) -> str:
    """Return the name of the factors of a matrix's columns."""
    return weight[: -len("weight")] + "in_factors"


def out_factors(weight: str) -> str:
    """Return the name of the factors that a matrix's rows were divided by."""
    return weight[: -len("weight")] + "out_factors"


class _Block:
    def __init__(self, names: Collection[str], prefix: str) -> None:
        self._names, self._prefix = names, prefix

    def weights(self, *parts: str) -> tuple[str, ...]:
        return self._present(*(f"{part}.weight" for part in parts))

    def rows(self, part: str) -> tuple[str, ...]:
        return self._present(f"{part}.weight", f"{part}.bias")

    def _present(self, *parts: str) -> tuple[str, ...]:
        return tuple(self._prefix + part for part in parts if self._prefix + part in self._names)


def _inputs(spec: ModelSpec, block: _Block) -> Iterator[Input]:
    attention = ("attn_q", "attn_k", "attn_v", "attn_q_a", "attn_kv_a_mqa")
    feed_forward = ("ffn_gate", "ffn_up")
    if spec.get("parallel_residual"):
        yield Input(block.weights(*attention, *feed_forward), block.rows("attn_norm"))
    else:
        yield Input(block.weights(*attention), block.rows("attn_norm"))
    if spec.get("kv_lora_rank"):
        yield Input(block.weights("attn_q_b"), block.rows("attn_q_a_norm"))
        yield Input(block.weights("attn_output"), block.rows("attn_v_b"))
    else:
        heads = spec.size("n_heads") // spec.size("n_kv_heads")
        yield Input(block.weights("attn_output"), block.rows("attn_v"), heads, spec.size("head_dim"))
    if not spec.get("parallel_residual"):
        yield Input(block.weights(*feed_forward), block.rows("ffn_norm"))
    # Behind the activation function alone nothing can be divided out; the gated kind is multiplied by `up`.
    yield Input(block.weights("ffn_down"), block.rows("ffn_up") if spec.get("ffn_gated", 1) else ())


def with_rows_divided(values: NDArray[Any], factors: Float32) -> Float32:
    """Return a maker's weight or bias (rows first) divided by a factor per row."""
    divided: Float32 = (values / factors.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32)
    return divided
