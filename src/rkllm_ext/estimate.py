# SPDX-License-Identifier: Apache-2.0
"""What a conversion will be, without doing it: the size of the file, the formats, the memory it takes."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .convert import file_entries
from .metadata import source_key
from .quant.calibrated import wanted_inputs
from .quant.formats import check_platform
from .quant.hybrid import mixed, neighbour
from .quant.inputs import factor_lengths
from .quant.plan import plan
from .quant.recipe import Recipe
from .source_model import SourceFacts, SourceModel, open_model
from .writer import Entry, file_bytes

if TYPE_CHECKING:
    from ._rkllm import Format

_PLAIN = ("F32", "F16", "BF16")  # types that are quantized as they are stored


@dataclass(frozen=True)
class Kind:
    """Tensors that differ only in the number of their layer."""

    name: str  # with "blk.*." in place of the layer
    format: str  # "": plain float32
    rows: int
    cols: int
    count: int
    n_bytes: int  # of all of them


@dataclass(frozen=True)
class Estimate:
    """What a conversion will be."""

    source: SourceFacts
    quantized_dtype: str
    platform: str
    npu_cores: int
    file_bytes: int  # exact, but for a hybrid_rate, which may choose layers of another size
    peak_bytes: int  # memory at level 0, beside that of Python itself; calibration takes more
    kinds: list[Kind]


def estimate(
    source: str | os.PathLike[str], recipe: Recipe, *, platform: str = "cpu", npu_cores: int | None = None
) -> Estimate:
    """Return what `convert.convert` would write. Reads no weights.

    Raises
    ------
    RKLLMError
        As `convert.convert`, as far as it does not need the weights.
    """
    cores = check_platform(platform, recipe.quantized_dtype, npu_cores)
    with open_model(source) as model:
        shapes = {name: each.shape for name, each in model.tensors.items()}
        with model.naming():
            formats = plan(shapes, recipe.quantized_dtype, recipe.head_format)
            formats = mixed(formats, shapes, _equal_losses(formats, shapes), recipe.hybrid_rate)
        blockwise = recipe.optimization_level > 0 or recipe.algorithm == "gdq"
        folds = blockwise and any(wanted_inputs(model.spec, shapes, formats))
        entries = list(file_entries(shapes, formats, factor_lengths(model.spec, shapes) if folds else {}))
        keys = model.keys(format=recipe.quantized_dtype, algorithm=recipe.algorithm, platform=platform)
        return Estimate(
            source=model.facts(),
            quantized_dtype=recipe.quantized_dtype,
            platform=platform,
            npu_cores=cores,
            file_bytes=file_bytes([*keys, source_key("0" * 64)], entries),
            peak_bytes=_peak(model, entries),
            kinds=_kinds(entries),
        )


def _equal_losses(formats: Mapping[str, Format | None], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    # Which layers hybrid_rate chooses is known only after measuring; how many, without.
    return {
        name: 0.0
        for name, format in formats.items()
        if name.startswith("blk.") and format and format.scale_bits and neighbour(format, shapes[name][1])
    }


def _peak(model: SourceModel, entries: list[Entry]) -> int:
    """Return the most bytes in use: of a tensor that is packed, and of the two before it that wait to be written."""
    waiting = [sum(entry.n_bytes for entry in entries[max(0, i - 2) : i]) for i in range(len(entries))]
    return max(_memory(model, entry) + more for entry, more in zip(entries, waiting) if entry.name in model.tensors)


def _memory(model: SourceModel, entry: Entry) -> int:
    """Return the bytes in use while a tensor is packed."""
    located = model.tensors[entry.name]
    loaded = 0
    for name, shape in located.source.wants(located.shape).items():
        dtype, count = model.checkpoint.dtype(name), math.prod(shape)
        # Others are dequantized to float32, with arrays of about that size in between.
        loaded += count * (8 if dtype not in _PLAIN else 4 if dtype == "F32" else 2)
    return loaded + entry.n_bytes


def _kinds(entries: list[Entry]) -> list[Kind]:
    kinds: dict[tuple[str, str, int, int], list[int]] = {}
    for entry in entries:
        name = re.sub(r"^blk\.\d+\.", "blk.*.", entry.name)
        kinds.setdefault((name, entry.format, entry.rows, entry.cols), []).append(entry.n_bytes)
    return [Kind(*key, len(sizes), sum(sizes)) for key, sizes in kinds.items()]
