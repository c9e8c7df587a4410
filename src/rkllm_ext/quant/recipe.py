# SPDX-License-Identifier: Apache-2.0
"""What a user asks of the quantization of a model: its arguments, checked in one place."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Union

from ..errors import InvalidArgumentError
from .dataset import read_texts
from .formats import find_format

ALGORITHMS: Mapping[str, tuple[int, ...]] = {"normal": (0, 1), "gdq": (0, 1)}  # algorithm -> its optimization levels

FileName = Union[str, "os.PathLike[str]", None]


@dataclass(frozen=True)
class Recipe:
    """How the codes and scales of a model are found.

    Of ``normal``, optimization level 0 rounds to nearest and level 1 calibrates (`level1`).
    `quantized_dtype` is the weight format, `head_format` that of the embedding and the output matrix (None: see
    `plan`). `dataset` is a JSON list of {"input", "target"} to calibrate with (None: the built-in text), `hybrid_rate`
    the share of layers in the neighbouring format, `extra_qparams` a file of results of an earlier ``gdq``.
    `steps` says how long ``gdq`` learns each block, `seed` in which order it sees the texts; its start is level 1,
    whatever the level.

    Raises
    ------
    InvalidArgumentError
        An argument is wrong, or asks for what does not exist.
    """

    quantized_dtype: str
    algorithm: str = "normal"
    optimization_level: int = 0
    dataset: FileName = None
    hybrid_rate: float = 0.0
    extra_qparams: FileName = None
    head_format: str | None = None
    steps: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        find_format(self.quantized_dtype)
        if self.head_format is not None:
            find_format(self.head_format, offered_only=False)
        if self.algorithm not in ALGORITHMS:
            raise InvalidArgumentError(
                f"the algorithm {self.algorithm!r} does not exist; known: {', '.join(ALGORITHMS)}"
            )
        levels = ALGORITHMS[self.algorithm]
        if self.optimization_level not in levels:
            raise InvalidArgumentError(
                f"optimization_level is {self.optimization_level!r}; {self.algorithm} has {_listed(levels)}"
            )
        check_rate(self.hybrid_rate)
        if self.algorithm == "gdq" and find_format(self.quantized_dtype).bits != 4:
            raise InvalidArgumentError(f"gdq is for 4-bit formats; use normal for {self.quantized_dtype}")
        if self.extra_qparams is not None and self.algorithm != "gdq":
            raise InvalidArgumentError("extra_qparams belongs to the algorithm gdq; choose it, or leave them out")
        for name, least in (("steps", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
                raise InvalidArgumentError(f"{name} is {value!r}; a whole number from {least} is needed")
        if not isinstance(self.dataset, (str, os.PathLike, type(None))):
            raise InvalidArgumentError(f"dataset is {self.dataset!r}; the path of a JSON file is needed")
        if self.dataset is not None:
            read_texts(self.dataset)

    @property
    def calibrates(self) -> bool:
        """Whether the model itself is run on texts to find out codes, scales or formats."""
        learns = self.algorithm == "gdq" and self.extra_qparams is None
        return bool(self.hybrid_rate or learns or (self.algorithm == "normal" and self.optimization_level))

    def identity(self) -> str:
        """Return a digest, hexadecimal, of everything that decides the result: files by their content."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("dataset", "extra_qparams"):
            if values[name] is not None:
                values[name] = hashlib.sha256(Path(values[name]).read_bytes()).hexdigest()
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def check_rate(rate: float) -> None:
    """Refuse a hybrid_rate that is no number from 0 to below 1.

    Raises
    ------
    InvalidArgumentError
    """
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise InvalidArgumentError(f"hybrid_rate is {rate!r}; a number from 0 to below 1 is needed")


def _listed(levels: tuple[int, ...]) -> str:
    return " or ".join(map(str, levels))
