# SPDX-License-Identifier: Apache-2.0
"""From a recipe to what a conversion needs: the format of each tensor, and the quantizer that makes their bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import _rkllm
from ..arch.spec import ModelSpec
from ..errors import UnsupportedModelError
from ..folders import temporary_folder
from ..progress import Progress, Report
from . import hybrid
from .calibrated import Calibrated, wanted_inputs
from .calibration import LENGTH, Calibration, Ids, sequences
from .dataset import read_texts
from .inputs import factor_lengths
from .level1 import Block
from .plan import plan
from .qparams import VERSION, FromParameters, Unfinished, save
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
    fingerprint: Callable[[], str]


@contextmanager
def prepared(
    recipe: Recipe,
    source: Source,
    folder: Path,
    measure: bool = False,
    resume: bool = False,
    progress: Report = None,
) -> Iterator[tuple[Formats, Quantizer]]:
    """Provide the format of each tensor and the quantizer.

    Parameters
    ----------
    folder
        Where a temporary file of the model's size in fp16 may lie while an algorithm calibrates.
        The algorithm gdq writes its ``gdq.qparams`` there.
    measure
        As for `RoundToNearest`.
    resume
        Keep in `folder` what gdq has learned when it is interrupted, and go on from there.
    progress
        For what takes long before the first tensor is packed.

    Raises
    ------
    InvalidArgumentError
        A format does not fit a matrix, the hybrid rate fits no layer, the calibration text is too short, or the
        qparams belong to another model.
    UnsupportedModelError
        torch is needed and not installed, or the algorithm does not support the model.
    """
    formats = plan(source.shapes, recipe.quantized_dtype, recipe.head_format)
    inputs = wanted_inputs(source.spec, source.shapes, formats)
    learns = recipe.algorithm == "gdq"
    if not any(inputs) or not recipe.calibrates:
        formats = hybrid.mixed(formats, source.shapes, {}, recipe.hybrid_rate)
        given = recipe.extra_qparams
        yield formats, _from_parameters(given, formats, source, measure) if given else RoundToNearest(formats, measure)
        return
    with _float_model(source, folder) as model:
        texts = sequences(model, read_texts(recipe.dataset))
        if recipe.hybrid_rate:
            samples = Calibration(model, texts, inputs, grams=False)
            loss = hybrid.losses(source.spec, formats, source.tensor, samples)
            formats = hybrid.mixed(formats, source.shapes, loss, recipe.hybrid_rate)
        if learns and recipe.extra_qparams:
            yield formats, _from_parameters(recipe.extra_qparams, formats, source, measure)
            return
        if not learns and recipe.optimization_level == 0:
            yield formats, RoundToNearest(formats, measure)
            return
        calibrated = Calibrated(source.spec, formats, source.tensor, Calibration(model, texts, inputs), measure)
        if learns:
            with ExitStack() as until_written:
                unfinished = until_written if resume else None
                path = _learn(recipe, source, formats, calibrated.block, texts, folder, unfinished, progress)
                yield formats, _from_parameters(path, formats, source, measure)
        else:
            yield formats, calibrated


def _learn(
    recipe: Recipe,
    source: Source,
    formats: Formats,
    start: Callable[[int], Block],
    texts: Sequence[Ids],
    folder: Path,
    unfinished: ExitStack | None,
    progress: Report,
) -> Path:
    """Write ``gdq.qparams`` and return its path. Blocks that were learned are kept until `unfinished` ends."""
    try:
        from .gdq import Learner, Settings
    except ImportError as error:
        raise UnsupportedModelError("gdq needs the package torch: pip install 'rkllm_ext[torch]'") from error
    path = folder / "gdq.qparams"
    settings = Settings(steps=recipe.steps, seed=recipe.seed)
    metadata = {"source": source.fingerprint(), "format": recipe.quantized_dtype, "seed": str(recipe.seed)}
    with Progress(progress, source.spec.size("n_layers") * recipe.steps, "learning", "steps") as done:
        learner = Learner(source.spec, formats, source.tensor, start, texts, settings, lambda: done.add(1))
        blocks = learner.blocks()
        if unfinished is not None:
            identity = f"{VERSION} {recipe.identity()} {metadata['source']} {learner.arithmetic}"
            lengths = factor_lengths(source.spec, source.shapes)
            kept = unfinished.enter_context(Unfinished(path, identity, source.shapes, lengths))
            blocks = kept.noted(learner.blocks(kept.block))
        save(path, blocks, metadata)
    return path


def _from_parameters(path: str | os.PathLike[str], formats: Formats, source: Source, measure: bool) -> FromParameters:
    lengths = factor_lengths(source.spec, source.shapes)
    return FromParameters(Path(path), formats, source.shapes, lengths, source.fingerprint(), measure)


@contextmanager
def _float_model(source: Source, folder: Path) -> Iterator[_rkllm.Handle]:
    with temporary_folder(folder, ".calibration-") as place:
        path = place / "float.rkllm"
        source.float_copy(path)
        length = min(LENGTH, source.spec.size("max_context"))
        with closing(_rkllm.Handle(path, max_context_len=length)) as model:
            model.set_options({"prefill_chunk": length})
            yield model
