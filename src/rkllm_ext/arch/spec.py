# SPDX-License-Identifier: Apache-2.0
"""What a family is made of: the spec of a model, the family as data, and where each tensor comes from.

A source is a small expression over tensors of the checkpoint: it knows the names it needs, the shapes these must have,
and how to build the canonical tensor from them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError, UnsupportedModelError

Array = NDArray[Any]
Shape = tuple[int, ...]
Load = Callable[[str], Array]
Value = Union[int, float, str]

_SIZES = ("n_layers", "n_heads", "n_kv_heads", "head_dim", "rope_dim", "dim", "ffn_dim", "vocab_size", "max_context")

# ---- the spec -------------------------------------------------------------------------------------------------------


class ModelSpec(Mapping[str, Value]):
    """The architecture of one model: the fields of ``src/runtime/spec.def`` that its family sets.

    Immutable. Sizes are checked against each other here, names and types against the engine's list in `rows`.

    Raises
    ------
    ModelFileError
        A size is missing or not positive, or two sizes contradict each other.
    """

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = dict(values)
        for name in _SIZES:
            value = self._values.get(name)
            if not isinstance(value, int) or not 0 < value < 2**31:
                raise ModelFileError(f"the model's {name} is {value!r}; a whole number from 1 to 2^31 - 1 is needed")
        for name, value in self._values.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ModelFileError(f"the model's {name} is {value}; a finite number is needed")
        if self.size("n_heads") % self.size("n_kv_heads"):
            raise ModelFileError(
                f"the model has {self['n_heads']} query heads, which {self['n_kv_heads']} key heads do not divide"
            )
        if self.size("rope_dim") % 2 or self.size("rope_dim") > self.size("head_dim"):
            raise ModelFileError(
                f"the model rotates {self['rope_dim']} of {self['head_dim']} dimensions of a head; "
                "an even number of at most that many is needed"
            )

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"ModelSpec({self._values})"

    def size(self, name: str) -> int:
        """Return a size by name: a field, or the width of all query heads (``q_dim``), of all key heads (``kv_dim``) or
        of the query heads that share a key head (``group_dim``). ``a*b``, ``a+b`` and ``a-b`` are made of two names.
        """
        for sign, combine in (("*", operator.mul), ("+", operator.add), ("-", operator.sub)):
            left, found, right = name.partition(sign)
            if found:
                return int(combine(self.size(left), self.size(right)))
        if name == "q_dim":
            return self.size("n_heads") * self.size("head_dim")
        if name == "kv_dim":
            return self.size("n_kv_heads") * self.size("head_dim")
        if name == "group_dim":
            return self.size("n_heads") // self.size("n_kv_heads") * self.size("head_dim")
        return int(self._values[name])

    def shape(self, sizes: str) -> Shape:
        """Return the shape that names like ``"q_dim dim"`` stand for."""
        return tuple(self.size(name) for name in sizes.split())

    def rows(self, fields: Mapping[str, tuple[str, bool]]) -> list[tuple[str, str, Value]]:
        """Return (type, name, value) of each field, in the engine's order.

        Parameters
        ----------
        fields
            The engine's list: name -> (type, whether the field is required).

        Raises
        ------
        UnsupportedModelError
            The engine does not know a field of this spec, or needs one that the spec lacks.
        """
        unknown = [name for name in self if name not in fields]
        missing = [name for name, (_, required) in fields.items() if required and name not in self]
        if unknown or missing:
            raise UnsupportedModelError(
                f"this engine does not fit the model's spec (unknown fields: {', '.join(unknown) or 'none'}; "
                f"missing fields: {', '.join(missing) or 'none'}); install matching versions"
            )
        cast = {"u32": int, "f32": float, "string": str}
        return [(kind, name, cast[kind](self[name])) for name, (kind, _) in fields.items() if name in self]


# ---- where a tensor comes from --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    """One tensor of the checkpoint as it is. ``{i}`` in the name stands for the layer."""

    name: str
    moves_rows_only = True  # so that codes and scales can go through `build` as well as weights

    def at(self, layer: int, spec: ModelSpec) -> Tensor:
        return Tensor(self.name.format(i=layer))

    def wants(self, shape: Shape) -> dict[str, Shape]:
        """Return the checkpoint tensors this needs, with their shapes, to build a tensor of `shape`."""
        return {self.name: shape}

    def build(self, load: Load) -> Array:
        """Build the tensor out of what `load` returns for the names of `wants`."""
        return load(self.name)


@dataclass(frozen=True)
class Part:
    """Part number `index` of a tensor whose rows are several matrices, one below the other.

    `rows` holds the row count of each part: numbers, or names of sizes of the spec. With `groups` the sequence of parts
    is repeated that often, and the part is put together from all repetitions.
    """

    name: str
    rows: tuple[int | str, ...]
    index: int
    groups: int | str = 1
    moves_rows_only = True

    def at(self, layer: int, spec: ModelSpec) -> Part:
        counts = tuple(_size(rows, spec) for rows in self.rows)
        return Part(self.name.format(i=layer), counts, self.index, _size(self.groups, spec))

    def wants(self, shape: Shape) -> dict[str, Shape]:
        return {self.name: (int(self.groups) * self._ends()[-1], *shape[1:])}

    def build(self, load: Load) -> Array:
        ends, whole = self._ends(), load(self.name)
        groups = whole.reshape(int(self.groups), ends[-1], *whole.shape[1:])
        return groups[:, ends[self.index] : ends[self.index + 1]].reshape(-1, *whole.shape[1:])

    def _ends(self) -> list[int]:
        ends = [0]
        for rows in self.rows:
            ends.append(ends[-1] + int(rows))
        return ends


@dataclass(frozen=True)
class PlusOne:
    """A norm stored as its difference from one."""

    source: Source
    moves_rows_only = False

    def at(self, layer: int, spec: ModelSpec) -> PlusOne:
        return PlusOne(self.source.at(layer, spec))

    def wants(self, shape: Shape) -> dict[str, Shape]:
        return self.source.wants(shape)

    def build(self, load: Load) -> Array:
        built: Array = self.source.build(load) + np.float32(1)
        return built


@dataclass(frozen=True)
class Deinterleave:
    """Query or key rows that are rotated in neighbouring pairs, put into half-split rotary order.

    Rows (2i, 2i + 1) of each head become (i, i + dims/2): the first halves of the pairs come first. `dims` is the
    number of rotated rows of a head; the others stay where they are.
    """

    source: Source
    heads: int | str
    dims: int | str = "rope_dim"
    moves_rows_only = True

    def at(self, layer: int, spec: ModelSpec) -> Deinterleave:
        return Deinterleave(self.source.at(layer, spec), _size(self.heads, spec), _size(self.dims, spec))

    def wants(self, shape: Shape) -> dict[str, Shape]:
        return self.source.wants(shape)

    def build(self, load: Load) -> Array:
        stored = self.source.build(load)
        heads = stored.reshape(int(self.heads), -1, *stored.shape[1:])
        dims = int(self.dims)
        order = [*range(0, dims, 2), *range(1, dims, 2), *range(dims, heads.shape[1])]
        return np.ascontiguousarray(heads[:, order].reshape(stored.shape))


@dataclass(frozen=True)
class TransposeHeads:
    """The matrices of all heads, one below the other, each transposed."""

    source: Source
    heads: int | str
    moves_rows_only = False

    def at(self, layer: int, spec: ModelSpec) -> TransposeHeads:
        return TransposeHeads(self.source.at(layer, spec), _size(self.heads, spec))

    def wants(self, shape: Shape) -> dict[str, Shape]:
        return self.source.wants((shape[1] * int(self.heads), shape[0] // int(self.heads)))

    def build(self, load: Load) -> Array:
        stored = self.source.build(load)
        heads = stored.reshape(int(self.heads), -1, stored.shape[1])
        return np.ascontiguousarray(heads.swapaxes(1, 2).reshape(-1, heads.shape[1]))


@dataclass(frozen=True, eq=False)
class Constant:
    """Values known before any tensor is read, divided by the tensor `divisor` where one is named."""

    values: NDArray[np.float32]
    divisor: str = ""
    moves_rows_only = False

    def at(self, layer: int, spec: ModelSpec) -> Constant:
        return self

    def wants(self, shape: Shape) -> dict[str, Shape]:
        return {self.divisor: shape} if self.divisor else {}

    def build(self, load: Load) -> Array:
        values: Array = self.values / load(self.divisor) if self.divisor else self.values
        return values


Source = Union[Tensor, Part, PlusOne, Deinterleave, TransposeHeads, Constant]


def _size(size: int | str, spec: ModelSpec) -> int:
    return size if isinstance(size, int) else spec.size(size)


@dataclass(frozen=True)
class Located:
    """A canonical tensor of one checkpoint: its shape and where it comes from."""

    shape: Shape
    source: Source


# ---- the family -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """A number that follows from values of the configuration: `of` is called with the numbers under `keys`.

    With `when` there is one only if the configuration's value under that key is true.
    """

    keys: tuple[str, ...]
    of: Callable[..., Value]
    when: str = ""


@dataclass(frozen=True)
class Every:
    """A period of layers: the one at which `marked` stands among `other` in the list under the key `listed`, which has
    an entry for each of the `n_layers` layers, or without a list the number under `period`.
    """

    listed: str
    marked: Value
    other: Value
    period: str
    n_layers: str = "num_hidden_layers"

    @property
    def keys(self) -> tuple[str, ...]:
        return self.listed, self.period


Key = Union[str, Rule, Every]


@dataclass(frozen=True)
class Slot:
    """One canonical tensor of a family.

    `shape` names sizes of the spec. `when` is the configuration key of which the tensor's existence depends ("not "
    before it turns it round); "" means always. In GGUF files, which have no such keys, the tensor is then optional.
    `spare` allows a Hugging Face checkpoint to hold the tensor needlessly: a tied head that was saved anyway.
    """

    shape: str
    hf: str | Source
    gguf: str | Source = ""  # "": the canonical name
    when: str = ""
    spare: bool = False


@dataclass(frozen=True)
class Family:
    """A model family as data. Canonical tensor names with ``{i}`` exist once per layer.

    `hf_keys` and `gguf_keys` say which configuration key holds a spec field, or how it is computed (GGUF keys without
    the architecture's prefix); `constants` are fields that every model of the family has; `hf_rope_base` is where the
    rotary base is, `hf_local_rope_base` where that of layers that are not global is (with the constant `rope_local`);
    `hf_defaults` says what an absent key means; `hf_only` and `gguf_only` which values of a key are supported.
    """

    name: str
    hf_types: tuple[str, ...]
    gguf_types: tuple[str, ...]
    hf_keys: Mapping[str, Key]
    gguf_keys: Mapping[str, Key]
    tensors: Mapping[str, Slot]
    constants: Mapping[str, Value] = field(default_factory=dict)
    hf_rope_base: str | Rule = "rope_theta"
    hf_local_rope_base: str = ""
    partial_rotary: bool = False  # whether GGUF files may rotate a part of a head only
    longrope_by_limit: bool = False  # whether the model's limit chooses the factors of longrope, not the length
    hf_defaults: Mapping[str, Any] = field(default_factory=dict)
    hf_only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    gguf_only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()  # patterns of buffers that checkpoints carry and nobody needs

    def but(self, **changes: Any) -> Family:
        """Return a family like this one with some fields changed.

        A mapping changes the entries it names and keeps the others; the value None removes an entry.
        """
        merged = {}
        for name, change in changes.items():
            old = getattr(self, name)
            if isinstance(old, Mapping):
                change = {key: value for key, value in {**old, **change}.items() if value is not None}
            merged[name] = change
        return replace(self, **merged)
