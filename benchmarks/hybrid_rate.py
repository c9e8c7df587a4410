# SPDX-License-Identifier: Apache-2.0
"""What does hybrid_rate buy? Size, perplexity and time per token of a checkpoint at several rates: a table and a plot.

    python benchmarks/hybrid_rate.py SOURCE --text FILE [--dtype w4a16] [--dataset texts.json]
        [--rates 0,0.2,0.4,0.6,0.8] [--tokens 16384] [--svg docs/hybrid-rate.svg]

Time is that of the processor for a token decoded by one thread behind 64 others; the files take turns, and the least of
all rounds is given, since other work on the machine only adds to it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import rkllm_ext
from rkllm_ext.evaluate import perplexity

_PLOT = 280, 200  # width and height of one plot's frame


@dataclass(frozen=True)
class Point:
    rate: float
    megabytes: float
    perplexity: float
    milliseconds: float  # of the processor for one token


def processor_time(llm: rkllm_ext.LLM, decoded: int) -> float:
    """Return the time of the processor for one decoded token, ms."""
    with llm.session() as session:
        session.prefill(np.arange(64, dtype=np.int32) + 100)
        started = time.process_time()
        for token in range(100, 100 + decoded):
            session.step(token)
        return 1000 * (time.process_time() - started) / decoded


def measure(options: argparse.Namespace, folder: Path) -> list[Point]:
    """Convert the checkpoint at each rate and return the figures."""
    paths = {rate: folder / f"{rate}.rkllm" for rate in options.rates}
    values, times = {}, {rate: float("inf") for rate in paths}
    for rate, path in paths.items():
        rkllm_ext.convert(options.source, path, options.dtype, hybrid_rate=rate, dataset=options.dataset)
        with rkllm_ext.LLM(path, max_context_len=512, n_threads=1) as llm:
            ids = llm.tokenize(options.text.read_text(encoding="utf-8"), parse_special=False)[: options.tokens]
            values[rate] = perplexity(llm, ids, 512).value
    for _ in range(options.rounds):
        for rate, path in paths.items():
            with rkllm_ext.LLM(path, max_context_len=512, n_threads=1) as llm:
                times[rate] = min(times[rate], processor_time(llm, options.decoded))
    return [Point(rate, path.stat().st_size / 1e6, values[rate], times[rate]) for rate, path in paths.items()]


def plot(points: Sequence[Point], title: str) -> str:
    """Return perplexity and time, each by the size of the file, as SVG."""
    width, height = _PLOT
    frames = [
        frame(points, 50, "perplexity", lambda point: point.perplexity),
        frame(points, 50 + width + 60, "processor time per token, ms", lambda point: point.milliseconds),
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * width + 130}" height="{height + 70}" '
            'font-family="sans-serif" font-size="11">',
            "<!-- SPDX-License-Identifier: Apache-2.0 -->",
            f'<rect width="{2 * width + 130}" height="{height + 70}" fill="white"/>',
            *frames,
            f'<text x="{width + 65}" y="{height + 64}" text-anchor="middle">{title}, by file size in MB '
            "(points: hybrid_rate)</text>",
            "</svg>\n",
        ]
    )


def frame(points: Sequence[Point], left: int, title: str, value: Callable[[Point], float]) -> str:
    """Return one plot, its frame's corner at (left, 22)."""
    width, height = _PLOT
    xs, ys = [point.megabytes for point in points], [value(point) for point in points]

    def x(number: float) -> float:
        return left + 10 + (width - 20) * (number - min(xs)) / (max(xs) - min(xs) or 1)

    def y(number: float) -> float:
        return 22 + height - 10 - (height - 20) * (number - min(ys)) / (max(ys) - min(ys) or 1)

    spots = [(x(a), y(b)) for a, b in zip(xs, ys)]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in spots)
    parts = [
        f'<text x="{left}" y="16" font-weight="bold">{title}</text>',
        f'<rect x="{left}" y="22" width="{width}" height="{height}" fill="none" stroke="#bbb"/>',
        f'<polyline fill="none" stroke="#1f77b4" stroke-width="2" points="{line}"/>',
    ]
    for point, (a, b) in zip(points, spots):
        parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="#1f77b4"/>')
        parts.append(f'<text x="{a + 5:.1f}" y="{b - 4:.1f}">{point.rate:g}</text>')
    for number in (min(xs), max(xs)):
        parts.append(f'<text x="{x(number):.1f}" y="{height + 38}" text-anchor="middle">{number:.1f}</text>')
    for number in (min(ys), max(ys)):
        parts.append(f'<text x="{left - 4}" y="{y(number) + 4:.1f}" text-anchor="end">{number:.1f}</text>')
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--dtype", default="w4a16")
    parser.add_argument("--dataset", type=Path, default=None)
    parser.add_argument("--rates", default="0,0.2,0.4,0.6,0.8", type=lambda text: [float(r) for r in text.split(",")])
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--decoded", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--svg", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        points = measure(options, Path(folder))
    print("| rate | MB | perplexity | ms per token |\n|--:|--:|--:|--:|")
    for point in points:
        print(f"| {point.rate:g} | {point.megabytes:.2f} | {point.perplexity:.3f} | {point.milliseconds:.2f} |")
    if options.svg is not None:
        options.svg.write_text(plot(points, f"{options.source.name}, {options.dtype}"), encoding="utf-8")


if __name__ == "__main__":
    main()
