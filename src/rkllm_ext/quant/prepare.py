# SPDX-License-Identifier: Apache-2.0
"""From a recipe to what a conversion needs: the format of each tensor, and the quantizer that makes their bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import _rkllm
from ..arch.spec import ModelSpec
from . import hybrid
from .calibrated import Calibrated, wanted_inputs
from .calibration import LENGTH, Calibration, sequences
from .dataset import read_texts
from .plan import plan
from .quantizer import Quantizer, RoundToNearest, Weights
from .recipe import Recipe

if TYPE_CHECKING:
    from .._rkllm import Format

Formats = Mapping[str, "Format | None"]


@dataclass(frozen=True)
class Source:
    """What a conversion lets the algorithms see of the model."""

    spec: ModelSpec
    shapes: Mapping[str, tuple[int, ...]]  # by canonical name
    tensor: Callable[[str], Weights]
    float_copy: Callable[[Path], None]  # writes a .rkllm file of it that is not quantized


@contextmanager
def prepared(
    recipe: Recipe, source: Source, folder: Path, measure: bool = False
) -> Iterator[tuple[Formats, Quantizer]]:
    """Provide the format of each tensor and the quantizer.

    Parameters
    ----------
    folder
        Where a temporary file of the model's size in fp16 may lie while an algorithm calibrates.
    measure
        As for `RoundToNearest`.

    Raises
    ------
    InvalidArgumentError
        A format does not fit a matrix, the hybrid rate fits no layer, or the calibration text is too short.
    """
    formats = plan(source.shapes, recipe.quantized_dtype, recipe.head_format)
    inputs = wanted_inputs(source.spec, source.shapes, formats)
    if not any(inputs) or not (recipe.hybrid_rate or recipe.optimization_level):
        yield hybrid.mixed(formats, source.shapes, {}, recipe.hybrid_rate), RoundToNearest(formats, measure)
        return
    with _float_model(source, folder) as model:
        texts = sequences(model, read_texts(recipe.dataset))
        if recipe.hybrid_rate:
            samples = Calibration(model, texts, inputs, grams=False)
            loss = hybrid.losses(source.spec, formats, source.tensor, samples)
            formats = hybrid.mixed(formats, source.shapes, loss, recipe.hybrid_rate)
        if recipe.optimization_level == 0:
            yield formats, RoundToNearest(formats, measure)
        else:
            calibration = Calibration(model, texts, inputs)
            yield formats, Calibrated(source.spec, formats, source.tensor, calibration, measure)


@contextmanager
def _float_model(source: Source, folder: Path) -> Iterator[_rkllm.Handle]:
    with tempfile.TemporaryDirectory(prefix=".calibration-", dir=folder) as place:
        path = Path(place) / "float.rkllm"
        source.float_copy(path)
        length = min(LENGTH, source.spec.size("max_context"))
        with closing(_rkllm.Handle(path, max_context_len=length)) as model:
            model.set_options({"prefill_chunk": length})
            yield model
