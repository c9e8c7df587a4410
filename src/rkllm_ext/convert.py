# SPDX-License-Identifier: Apache-2.0
"""The conversion of a model: open, resolve, plan, then tensor by tensor load, quantize, pack and write.

One tensor is in memory at a time, so the peak does not grow with the number of layers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .arch import Located, resolve
from .errors import RKLLMError
from .metadata import model_keys
from .progress import Progress, Report
from .quant.formats import check_platform
from .quant.plan import plan
from .quant.quantizer import Facts, RoundToNearest
from .quant.recipe import FileName, Recipe
from .readers import Checkpoint, open_checkpoint
from .writer import Entry, ModelWriter, check_target

if TYPE_CHECKING:
    from ._rkllm import Format


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did."""

    path: Path
    quantized_dtype: str
    platform: str
    npu_cores: int  # 0: the platform has no NPU
    n_tensors: int
    n_parameters: int
    file_bytes: int
    lossless_matrices: int  # whose 4-bit codes and scales are the source's own
    seconds: float
    tensors: list[Facts] = field(default_factory=list, repr=False)  # name, format, rows, cols, bytes, what is known


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    quantized_dtype: str = "w4a16_g32",
    *,
    algorithm: str = "normal",
    optimization_level: int = 0,
    dataset: FileName = None,
    hybrid_rate: float = 0.0,
    extra_qparams: FileName = None,
    platform: str = "cpu",
    npu_cores: int | None = None,
    head_format: str | None = None,
    measure: bool = False,
    progress: Report = None,
) -> ConversionReport:
    """Convert a model to a ``.rkllm`` file. The same source and arguments give the same bytes.

    Parameters
    ----------
    source
        A Hugging Face directory or a GGUF file.
    out
        The file to write; it is replaced as a whole at the end, or left alone.
    quantized_dtype
        The weight format: fp32, fp16, w8a8, w8a8_g128, _g256, _g512, w4a16, w4a16_g32, _g64 or _g128.
    algorithm, optimization_level, dataset, hybrid_rate, extra_qparams
        How codes and scales are found, see `quant.recipe.Recipe`: ``normal`` at level 0 rounds to the nearest.
    platform
        rk3588, rk3576 or cpu; not every platform runs every format.
    npu_cores
        NPU cores to use; None: all of the platform.
    head_format
        The format of the embedding and the output matrix; None: see `quant.plan.plan`.
    measure
        Find out the error of each packed tensor, for `ConversionReport.tensors`; takes a little longer.
    progress
        True: a bar on stderr. A function is called with (done, total) bytes of work.

    Raises
    ------
    InvalidArgumentError
        An argument is wrong, or the format does not fit a layer or the platform.
    UnsupportedModelError
        The model's family or one of its features is not supported.
    ModelFileError
        The source is damaged, its tensors do not fit its configuration, a weight is not finite, or writing failed.

    Examples
    --------
    >>> report = convert(source, out, "w8a8")
    >>> report.file_bytes == report.path.stat().st_size
    True
    """
    started = time.monotonic()
    recipe = Recipe(quantized_dtype, algorithm, optimization_level, dataset, hybrid_rate, extra_qparams, head_format)
    cores = check_platform(platform, quantized_dtype, npu_cores)
    target = check_target(out)

    with open_checkpoint(source) as checkpoint:
        with _naming(checkpoint.path):
            shapes = {name: checkpoint.shape(name) for name in checkpoint.tensor_names}
            spec, tensors = resolve(checkpoint.config, checkpoint.kind, shapes)
            matrices = {name: tensor.shape for name, tensor in tensors.items()}
            formats = plan(matrices, recipe.quantized_dtype, recipe.head_format)
            entries = [_entry(name, tensor, formats[name]) for name, tensor in tensors.items()]
        work = checkpoint.total_bytes + sum(entry.n_bytes for entry in entries)
        rows: list[Facts] = []
        with Progress(progress, work, f"converting to {quantized_dtype}") as done:
            fingerprint = checkpoint.fingerprint(done.add)
            with _naming(checkpoint.path):
                how = {"format": quantized_dtype, "algorithm": algorithm, "platform": platform}
                keys = model_keys(checkpoint, spec, fingerprint, **how)
            quantizer = RoundToNearest(formats, measure)
            with ModelWriter(target, keys, entries) as file:
                for entry in entries:
                    with _naming(checkpoint.path):
                        data, facts = quantizer.pack(_SourceTensor(checkpoint, entry.name, tensors[entry.name]))
                    file.write(data)
                    rows.append({**_row(entry), **facts})
                    done.add(entry.n_bytes)
    return ConversionReport(
        path=target,
        quantized_dtype=quantized_dtype,
        platform=platform,
        npu_cores=cores,
        n_tensors=len(entries),
        n_parameters=sum(entry.rows * entry.cols for entry in entries if not entry.name.startswith("rope_inv_freq")),
        file_bytes=file.n_bytes,
        lossless_matrices=sum(bool(row.get("lossless")) for row in rows),
        seconds=time.monotonic() - started,
        tensors=rows,
    )


def _entry(name: str, tensor: Located, format: Format | None) -> Entry:
    if format is None:
        return Entry(name, "", 1, int(np.prod(tensor.shape)))
    return Entry(name, format.name, *tensor.shape)


def _row(entry: Entry) -> Facts:
    return {
        "name": entry.name,
        "format": entry.format,  # "": plain float32
        "rows": entry.rows,
        "cols": entry.cols,
        "bytes": entry.n_bytes,
    }


class _SourceTensor:
    """One canonical tensor of a checkpoint, read when an algorithm asks for it."""

    def __init__(self, checkpoint: Checkpoint, name: str, tensor: Located) -> None:
        self.name = name
        self.origin = ", ".join(tensor.source.wants(tensor.shape)) or "computed"
        self._checkpoint = checkpoint
        self._tensor = tensor

    def floats(self) -> NDArray[np.float32]:
        return np.ascontiguousarray(self._tensor.source.build(self._checkpoint.load), np.float32)

    def q4_0(self) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
        # Codes and scales both have a row per output, so what moves rows moves them alike.
        source = self._tensor.source
        if not source.moves_rows_only:
            return None
        stored = {name: self._checkpoint.load_q4_0(name) for name in source.wants(self._tensor.shape)}
        found = {name: pair for name, pair in stored.items() if pair is not None}
        if len(found) < len(stored):
            return None
        codes = source.build(lambda name: found[name][0])
        scales = source.build(lambda name: found[name][1])
        return np.ascontiguousarray(codes.view(np.int8)), np.ascontiguousarray(scales, np.float32)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let errors begin with the path of the source."""
    try:
        yield
    except RKLLMError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error
