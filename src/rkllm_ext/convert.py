# SPDX-License-Identifier: Apache-2.0
"""The conversion of a model: open, resolve, plan, then tensor by tensor load, quantize, pack and write.

One tensor is in memory at a time, so the peak does not grow with the number of layers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import numpy as np
from numpy.typing import NDArray

from . import _rkllm
from .arch import Located, resolve
from .errors import InvalidArgumentError, ModelFileError, RKLLMError
from .metadata import model_keys
from .progress import Progress, Report
from .quant import rtn
from .quant.formats import check_platform, find_format
from .quant.plan import plan
from .readers import Checkpoint, open_checkpoint
from .writer import Entry, ModelWriter, check_target

if TYPE_CHECKING:
    from ._rkllm import Format

Codes = NDArray[Any]
Scales = NDArray[np.float32]
Algorithm = Callable[[NDArray[np.float32], "Format"], tuple[Codes, Scales]]

_ALGORITHMS: Mapping[str, Algorithm] = {"normal": rtn.quantize}
_LOSSLESS = "w4a16_g32"  # the format that holds GGUF's Q4_0 as it is
_F16_MAX = 65504.0


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did."""

    path: Path
    quantized_dtype: str
    platform: str
    num_npu_core: int  # 0: the platform has no NPU
    n_tensors: int
    n_parameters: int
    file_bytes: int
    lossless_matrices: int  # whose 4-bit codes and scales are the source's own
    seconds: float


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    quantized_dtype: str = "w4a16_g32",
    *,
    algorithm: str = "normal",
    platform: str = "cpu",
    head_format: str | None = None,
    num_npu_core: int | None = None,
    progress: Report = None,
) -> ConversionReport:
    """Convert a model to a ``.rkllm`` file. The same source gives the same bytes.

    Parameters
    ----------
    source
        A Hugging Face directory or a GGUF file.
    out
        The file to write; it is replaced as a whole at the end, or left alone.
    quantized_dtype
        The weight format: fp32, fp16, w8a8, w8a8_g128, _g256, _g512, w4a16, w4a16_g32, _g64 or _g128.
    algorithm
        How codes and scales are found: ``normal`` rounds to the nearest.
    platform
        rk3588, rk3576 or cpu; not every platform runs every format.
    head_format
        The format of the embedding and the output matrix; None: see `quant.plan.plan`.
    num_npu_core
        NPU cores to use; None: all of the platform.
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
    if algorithm not in _ALGORITHMS:
        raise InvalidArgumentError(f"the algorithm {algorithm!r} does not exist; known: {', '.join(_ALGORITHMS)}")
    cores = check_platform(platform, find_format(quantized_dtype).name, num_npu_core)
    target = check_target(out)

    with open_checkpoint(source) as checkpoint:
        with _naming(checkpoint.path):
            shapes = {name: checkpoint.shape(name) for name in checkpoint.tensor_names}
            spec, tensors = resolve(checkpoint.config, checkpoint.kind, shapes)
            formats = plan({name: tensor.shape for name, tensor in tensors.items()}, quantized_dtype, head_format)
            entries = [_entry(name, tensor, formats[name]) for name, tensor in tensors.items()]
        work = checkpoint.total_bytes + sum(entry.n_bytes for entry in entries)
        lossless = 0
        with Progress(progress, work, f"converting to {quantized_dtype}") as done:
            fingerprint = checkpoint.fingerprint(done.add)
            with _naming(checkpoint.path):
                how = {"format": quantized_dtype, "algorithm": algorithm, "platform": platform}
                keys = model_keys(checkpoint, spec, fingerprint, **how)
            with ModelWriter(target, keys, entries) as file:
                for entry in entries:
                    with _naming(checkpoint.path):
                        data, as_it_was = _packed(checkpoint, entry.name, tensors[entry.name], formats, algorithm)
                    file.write(data)
                    lossless += as_it_was
                    done.add(entry.n_bytes)
    return ConversionReport(
        path=target,
        quantized_dtype=quantized_dtype,
        platform=platform,
        num_npu_core=cores,
        n_tensors=len(entries),
        n_parameters=sum(entry.rows * entry.cols for entry in entries if not entry.name.startswith("rope_inv_freq")),
        file_bytes=file.n_bytes,
        lossless_matrices=lossless,
        seconds=time.monotonic() - started,
    )


def _entry(name: str, tensor: Located, format: Format | None) -> Entry:
    if format is None:
        return Entry(name, "", 1, int(np.prod(tensor.shape)))
    return Entry(name, format.name, *tensor.shape)


def _packed(
    checkpoint: Checkpoint, name: str, tensor: Located, formats: Mapping[str, Format | None], algorithm: str
) -> tuple[bytes | bytearray, bool]:
    """Return the bytes of a tensor, and whether its codes are the source's own."""
    format = formats[name]
    if format is not None and format.name == _LOSSLESS:
        taken = _taken_over(checkpoint, tensor)
        if taken is not None:
            codes, scales = taken
            _refuse_non_finite(scales, name, tensor)
            return _rkllm.pack(format.name, codes, scales), True
    weights = np.ascontiguousarray(tensor.source.build(checkpoint.load), np.float32)
    _refuse_non_finite(weights, name, tensor)
    if format is None:
        return weights.astype("<f4", copy=False).tobytes(), False
    if format.scale_bits:
        return _rkllm.pack(format.name, *_ALGORITHMS[algorithm](weights, format)), False
    if format.bits == 16 and weights.size and max(weights.max(), -weights.min()) > _F16_MAX:
        raise ModelFileError(
            f"{name}: holds {np.abs(weights).max():g}, but {format.name} ends at {_F16_MAX:g}; use fp32"
        )
    return _rkllm.pack(format.name, weights), False


def _taken_over(checkpoint: Checkpoint, tensor: Located) -> tuple[Codes, Scales] | None:
    # Codes and scales both have a row per output, so what moves rows moves them alike.
    if not tensor.source.moves_rows_only:
        return None
    stored = {name: checkpoint.load_q4_0(name) for name in tensor.source.wants(tensor.shape)}
    found = {name: pair for name, pair in stored.items() if pair is not None}
    if len(found) < len(stored):
        return None
    codes = tensor.source.build(lambda name: found[name][0])
    scales = tensor.source.build(lambda name: found[name][1])
    return np.ascontiguousarray(codes.view(np.int8)), np.ascontiguousarray(scales, np.float32)


def _refuse_non_finite(values: NDArray[Any], name: str, tensor: Located) -> None:
    # The extremes are NaN or infinite if any value is; no second array of the tensor's size is made.
    if values.size and not (np.isfinite(values.max()) and np.isfinite(values.min())):
        origin = ", ".join(tensor.source.wants(tensor.shape)) or "computed"
        raise ModelFileError(f"{name} ({origin}): holds a NaN or an infinite weight; the checkpoint is damaged")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let errors begin with the path of the source."""
    try:
        yield
    except RKLLMError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error
