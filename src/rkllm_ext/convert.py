# SPDX-License-Identifier: Apache-2.0
"""The conversion of a model: open, resolve, plan, then tensor by tensor load, quantize, pack and write.

One tensor is loaded and packed at a time while those before it are written: the peak does not grow with the number of
layers.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Union

import numpy as np
from numpy.typing import NDArray

from .errors import ModelFileError
from .metadata import source_key
from .progress import Progress, Report
from .quant.formats import check_platform
from .quant.inputs import factor_lengths
from .quant.prepare import Formats, Source, prepared
from .quant.quantizer import Facts
from .quant.recipe import FileName, Recipe
from .source_model import open_model
from .writer import Entry, ModelWriter, check_target

Packed = tuple[Union[bytes, bytearray], Facts]


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
    recipe: Recipe
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
    steps: int = 50,
    seed: int = 0,
    platform: str = "cpu",
    npu_cores: int | None = None,
    head_format: str | None = None,
    measure: bool = False,
    resume: bool = False,
    progress: Report = None,
) -> ConversionReport:
    """Convert a model to a ``.rkllm`` file. The same source and arguments give the same bytes, on one machine.

    Rounding to the nearest gives them on every machine; what calibrates depends on how numpy and torch add up there.

    Parameters
    ----------
    source
        A Hugging Face directory or a GGUF file.
    out
        The file to write; it is replaced as a whole at the end, or left alone.
    quantized_dtype
        The weight format: fp32, fp16, w8a8, w8a8_g128, _g256, _g512, w4a16, w4a16_g32, _g64 or _g128.
    algorithm, optimization_level, dataset, hybrid_rate, extra_qparams, steps, seed
        How codes and scales are found, see `quant.recipe.Recipe`: ``normal`` at level 0 rounds to the nearest.
        ``gdq`` writes ``gdq.qparams`` beside `out`.
    platform
        rk3588, rk3576 or cpu; not every platform runs every format.
    npu_cores
        NPU cores to use; None: all of the platform.
    head_format
        The format of the embedding and the output matrix; None: see `quant.plan.plan`.
    measure
        Find out the error of each packed tensor, for `ConversionReport.tensors`; takes a little longer.
    resume
        Keep what was done when the conversion is interrupted (Ctrl-C, a killed process), beside `out`, and go on from
        there when source and arguments are the same; with ``gdq`` the blocks that were learned, too. The bytes are
        those of a conversion that was not interrupted.
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
    recipe = Recipe(
        quantized_dtype, algorithm, optimization_level, dataset, hybrid_rate, extra_qparams, head_format, steps, seed
    )
    cores = check_platform(platform, quantized_dtype, npu_cores)
    target = check_target(out)

    with open_model(source) as model, ExitStack() as stack:
        check_target(out, model.checkpoint.files.values())
        seen = Source(
            model.spec,
            {name: each.shape for name, each in model.tensors.items()},
            model.tensor,
            lambda path: _write_float_copy(source, path),
            model.checkpoint.fingerprint,
        )
        with model.naming():
            formats, quantizer = stack.enter_context(prepared(recipe, seen, target.parent, measure, resume, progress))
            vectors = factor_lengths(model.spec, seen.shapes) if quantizer.folds else {}
            entries = list(file_entries(seen.shapes, formats, vectors))
        work = model.checkpoint.total_bytes + sum(entry.n_bytes for entry in entries)

        def packed(entry: Entry) -> Packed:
            with model.naming():
                if entry.name in vectors:
                    return _vector(quantizer.factors(entry.name), entry.cols)
                return quantizer.pack(model.tensor(entry.name))

        with Progress(progress, work, f"converting to {quantized_dtype}") as done:
            how = {"format": quantized_dtype, "algorithm": algorithm, "platform": platform}
            with ThreadPoolExecutor(2) as aside, Ahead(entries, packed) as ahead:
                described = aside.submit(model.keys, **how)
                hashed = aside.submit(model.checkpoint.fingerprint, done.add)
                if not resume:  # else what is to be packed is known when the file is open
                    ahead.start(0)
                keys = [*described.result(), source_key(hashed.result())]
                identity = f"{recipe.identity()} measured={measure}" if resume else None
                with ModelWriter(target, keys, entries, identity) as file:
                    rows = list(file.kept)
                    done.add(sum(entry.n_bytes for entry in entries[: len(rows)]))
                    for entry, (data, facts) in ahead.start(len(rows)):
                        rows.append({**_row(entry), **facts})
                        file.write(data, rows[-1])
                        done.add(entry.n_bytes)
    return ConversionReport(
        path=target,
        quantized_dtype=quantized_dtype,
        platform=platform,
        npu_cores=cores,
        n_tensors=len(entries),
        n_parameters=model.n_parameters,
        file_bytes=file.n_bytes,
        lossless_matrices=sum(bool(row.get("lossless")) for row in rows),
        seconds=time.monotonic() - started,
        recipe=recipe,
        tensors=rows,
    )


class Ahead:
    """Packs tensors in order, in a thread, a little ahead of who writes them: a context manager.

    At most two are packed or being packed beside the one that was taken last.
    """

    def __init__(self, entries: Sequence[Entry], pack: Callable[[Entry], Packed]) -> None:
        self._entries = entries
        self._pack = pack
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[tuple[Entry, Future[Packed]]] = deque()
        self._next: int | None = None

    def start(self, first: int) -> Iterator[tuple[Entry, Packed]]:
        """Begin with the entry of that number, if nothing was begun yet; return an iterator over the results."""
        if self._next is None:
            self._next = first
            self._submit()
            self._submit()
        return self._results()

    def _results(self) -> Iterator[tuple[Entry, Packed]]:
        while self._waiting:
            entry, future = self._waiting.popleft()
            found = future.result()
            self._submit()
            yield entry, found

    def _submit(self) -> None:
        assert self._next is not None
        if self._next < len(self._entries):
            entry = self._entries[self._next]
            self._waiting.append((entry, self._thread.submit(self._pack, entry)))
            self._next += 1

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        for waiting in self._waiting:
            waiting[1].cancel()
        self._thread.shutdown()


def _write_float_copy(source: str | os.PathLike[str], path: Path) -> None:
    try:
        convert(source, path, "fp16")
    except ModelFileError:  # weights beyond fp16 are the one failure that another format may not have
        convert(source, path, "fp32")


def file_entries(
    shapes: Mapping[str, tuple[int, ...]], formats: Formats, vectors: Mapping[str, int]
) -> Iterator[Entry]:
    """Yield the tensors in file order: the vectors of factors of a block before its other tensors."""
    waiting = dict(vectors)
    for name, shape in shapes.items():
        block = name[: name.index(".", 4) + 1] if name.startswith("blk.") else None
        for vector in [each for each in waiting if block and each.startswith(block)]:
            yield Entry(vector, "", 1, waiting.pop(vector))
        yield Entry.of(name, shape, formats[name])


def _vector(factors: NDArray[np.float32] | None, length: int) -> Packed:
    return (np.ones(length) if factors is None else factors).astype("<f4").tobytes(), {}


def _row(entry: Entry) -> Facts:
    return {
        "name": entry.name,
        "format": entry.format,  # "": plain float32
        "rows": entry.rows,
        "cols": entry.cols,
        "bytes": entry.n_bytes,
    }
