# SPDX-License-Identifier: Apache-2.0
"""A conversion as a page to look at, or as JSON."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from .convert import ConversionReport
from .writer import check_target, put_text

_COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f", "#475569")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 860, 320, 56, 40, 12
_LAYER = re.compile(r"blk\.(\d+)\.(.+)")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; color: #1e293b; }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px; }
td, th { padding: 2px 12px 2px 0; text-align: left; border-bottom: 1px solid #e2e8f0; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
svg text { font: 12px system-ui, sans-serif; fill: #475569; }
"""


def write_report(
    path: str | os.PathLike[str], report: ConversionReport, evaluation: Mapping[str, Any] | None = None
) -> None:
    """Write a report of a conversion: JSON where the name ends with ``.json``, else an HTML page.

    Parameters
    ----------
    path
        The file to write.
    report
        What `convert.convert` returned, with ``measure=True`` for the errors of the tensors.
    evaluation
        Figures to put beside it, for example perplexities; ready for JSON.

    Raises
    ------
    InvalidArgumentError
        No file can be put there.
    ModelFileError
        Writing failed. A file that is there stays as it was.
    """
    facts = {**asdict(report), "evaluation": dict(evaluation) if evaluation else None}
    text = json.dumps(facts, indent=2, default=str) + "\n" if str(path).endswith(".json") else _page(facts)
    put_text(text, check_target(path))


def _page(facts: Mapping[str, Any]) -> str:
    title = escape(f"{Path(facts['path']).name}: {facts['quantized_dtype']}")
    parts = [f"<h1>{title}</h1>", _table(_summary(facts))]
    if facts["evaluation"]:
        parts += ["<h2>Evaluation</h2>", _table(list(facts["evaluation"].items()))]
    chart = _chart(facts["tensors"])
    if chart:
        parts += ["<h2>Signal-to-noise ratio of the weights, dB, by layer</h2>", chart]
    parts += ["<h2>Tensors</h2>", _tensor_table(facts["tensors"])]
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n' + (
        f"<style>{_STYLE}</style>\n{body}\n</html>\n"
    )


def _summary(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    cores = f", {facts['npu_cores']} NPU cores" if facts["npu_cores"] else ""
    return [
        ("file", facts["path"]),
        ("size", f"{facts['file_bytes'] / 1e6:.1f} MB"),
        ("parameters", f"{facts['n_parameters'] / 1e6:.1f} M in {facts['n_tensors']} tensors"),
        ("platform", f"{facts['platform']}{cores}"),
        *((name, value) for name, value in facts["recipe"].items() if value not in (None, "")),
        ("matrices taken over as they were", facts["lossless_matrices"]),
        ("time", f"{facts['seconds']:.1f} s"),
    ]


# ---- tables ---------------------------------------------------------------------------------------------------------


def _table(rows: Sequence[tuple[str, Any]]) -> str:
    cells = "\n".join(f"<tr><th>{escape(str(name))}</th>{_cell(value)}</tr>" for name, value in rows)
    return f"<table>{cells}</table>"


def _tensor_table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    lines = ["".join(_cell(row.get(name)) for name in columns) for row in rows]
    return f"<table><tr>{head}</tr>\n" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'<td class="number">{value:.4g}</td>'
    if isinstance(value, int) and not isinstance(value, bool):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{escape('' if value is None else str(value))}</td>"


# ---- the plot -------------------------------------------------------------------------------------------------------


def _chart(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a plot of the tensors' SQNR, a line over the layers for each kind of matrix; "" when none was measured."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        found = _LAYER.match(row["name"])
        if found and row.get("sqnr_db") is not None:
            lines.setdefault(found[2].removesuffix(".weight"), []).append((int(found[1]), row["sqnr_db"]))
    if not lines:
        return ""
    points = [point for line in lines.values() for point in line]
    last = max(layer for layer, _ in points)
    low, high = min(value for _, value in points), max(value for _, value in points)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if high - low <= 6 * step or step == 100)
    low, high = step * (low // step), step * (high // step + 1)
    across, down = _WIDTH - _LEFT - 150, _HEIGHT - _BOTTOM - _TOP

    def place(layer: float, value: float) -> tuple[float, float]:
        x = _LEFT + across * (layer / last if last else 0.5)
        return round(x, 1), round(_TOP + down * (high - value) / (high - low), 1)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="100%" role="img" xmlns="http://www.w3.org/2000/svg">']
    for value in range(int(low), int(high) + 1, step):
        y = place(0, value)[1]
        parts.append(f'<line x1="{_LEFT}" y1="{y}" x2="{_LEFT + across}" y2="{y}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{value}</text>')
    for layer in range(0, last + 1, max(1, last // 12)):
        parts.append(f'<text x="{place(layer, low)[0]}" y="{_HEIGHT - 20}" text-anchor="middle">{layer}</text>')
    parts.append(f'<text x="{_LEFT + across / 2}" y="{_HEIGHT - 4}" text-anchor="middle">layer</text>')
    for index, (name, line) in enumerate(lines.items()):
        parts += _line(name, [place(*point) for point in line], _COLOURS[index % len(_COLOURS)], index)
    return "\n".join([*parts, "</svg>"])


def _line(name: str, points: Sequence[tuple[float, float]], colour: str, index: int) -> list[str]:
    path = " ".join(f"{x},{y}" for x, y in points)
    dots = [f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>' for x, y in points]
    x, y = _WIDTH - 130, _TOP + 10 + 18 * index
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>',
        *dots,
        f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{colour}"/><text x="{x + 10}" y="{y}">{escape(name)}</text>',
    ]
