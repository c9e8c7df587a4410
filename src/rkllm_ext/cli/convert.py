# SPDX-License-Identifier: Apache-2.0
"""``rkllm-ext convert``"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import FILE, format_options, read_text

if TYPE_CHECKING:
    from ..quant.recipe import Recipe


@click.command("convert", short_help="Make a .rkllm file.")
@click.argument("source")
@click.argument("out", type=FILE)
@format_options
@click.option("--algorithm", default="normal", show_default=True, help="normal, or gdq, which learns (4 bits; torch).")
@click.option("--opt", "level", type=int, default=0, show_default=True, help="0: round to nearest. 1: calibrate.")
@click.option("--dataset", type=FILE, help='A JSON list of {"input", "target"} to calibrate with.')
@click.option(
    "--hybrid-rate", type=float, default=0.0, help="Share of layers with groups in formats without, or the reverse."
)
@click.option("--steps", type=int, default=50, show_default=True, help="gdq: steps to learn each block.")
@click.option("--seed", type=int, default=0, show_default=True, help="gdq: order of the texts.")
@click.option("--extra-qparams", type=FILE, help="gdq: the gdq.qparams of an earlier conversion.")
@click.option("--platform", default="cpu", show_default=True, help="rk3588, rk3576 or cpu.")
@click.option("--npu-cores", type=int, help="NPU cores to use; default: all of the platform.")
@click.option(
    "--lora",
    type=FILE,
    help="A LoRA adapter of SOURCE (PEFT folder or GGUF file): written beside OUT as <OUT>_lora.rkllm.",
)
@click.option("--dry-run", is_flag=True, help="Tell size, formats and memory; write nothing.")
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Keep what is done when interrupted; the same command goes on from there.",
)
@click.option(
    "--report",
    "reports",
    multiple=True,
    type=FILE,
    help="Write a report with the error of each tensor: .html or .json.",
)
@click.option("--report-text", type=FILE, help="For the report: a text to measure the loss on.")
def command(
    source: str,
    out: str,
    dtype: str,
    head_format: str | None,
    algorithm: str,
    level: int,
    dataset: str | None,
    hybrid_rate: float,
    steps: int,
    seed: int,
    extra_qparams: str | None,
    platform: str,
    npu_cores: int | None,
    lora: str | None,
    dry_run: bool,
    resume: bool,
    reports: tuple[str, ...],
    report_text: str | None,
) -> None:
    """Convert SOURCE (a GGUF file, a Hugging Face folder, or hf:REPOSITORY) to the .rkllm file OUT."""
    from ..convert import convert
    from ..errors import InvalidArgumentError
    from ..quant.dataset import BUILT_IN_USED
    from ..quant.recipe import Recipe
    from ..report import write_report
    from ..sources import locate
    from ..writer import check_target

    if report_text is not None and not reports:
        raise click.UsageError("--report-text needs a --report to go into")
    for name in reports:
        if Path(name).suffix not in (".html", ".json"):
            raise click.BadParameter(f"{name!r} ends neither with .html nor with .json", param_hint="--report")
        check_target(name)
    if report_text is not None and not read_text(report_text).strip():
        raise InvalidArgumentError(f"{report_text}: is empty; a text is needed to measure the loss on")
    path = locate(source)
    recipe = Recipe(dtype, algorithm, level, dataset, hybrid_rate, extra_qparams, head_format, steps, seed)
    if dry_run:
        click.echo(_estimate(path, recipe, platform, npu_cores))
        return
    if lora is not None:  # first: an adapter that does not fit is found out before the long part
        _convert_lora(lora, path, Path(out), dtype)
    if recipe.calibrates and dataset is None:
        click.echo(f"rkllm-ext: {BUILT_IN_USED}", err=True)
    with _saying_what_is_kept(Path(out)):
        report = convert(
            path,
            out,
            dtype,
            algorithm=algorithm,
            optimization_level=level,
            dataset=dataset,
            hybrid_rate=hybrid_rate,
            steps=steps,
            seed=seed,
            extra_qparams=extra_qparams,
            platform=platform,
            head_format=head_format,
            npu_cores=npu_cores,
            measure=bool(reports),
            resume=resume,
            progress=True,
        )
    evaluation = _evaluation(path, report.path, report_text) if report_text else None
    for name in reports:
        write_report(name, report, evaluation)
    click.echo(
        f"{report.path}: {report.quantized_dtype}, {report.n_parameters / 1e6:.1f} M parameters, "
        f"{report.file_bytes / 1e6:.1f} MB, {report.seconds:.1f} s"
    )


def _estimate(source: Path, recipe: Recipe, platform: str, npu_cores: int | None) -> str:
    from ..estimate import estimate

    found = estimate(source, recipe, platform=platform, npu_cores=npu_cores)
    about = "about " if recipe.hybrid_rate else ""
    lines = [
        f"{source}: {found.source}",
        f"{recipe.quantized_dtype} for {platform}: {about}{found.file_bytes:,} bytes, "
        f"{found.peak_bytes / 1e6:.1f} MB of memory{' and what calibration takes' if recipe.calibrates else ''}",
        "",
        f"{'tensors':<30}{'count':>6}  {'format':<12}{'shape':<16}{'bytes':>14}",
    ]
    for kind in found.kinds:
        shape = f"{kind.rows} x {kind.cols}" if kind.format else str(kind.cols)
        lines.append(f"{kind.name:<30}{kind.count:>6}  {kind.format or 'plain':<12}{shape:<16}{kind.n_bytes:>14,}")
    return "\n".join(lines)


@contextlib.contextmanager
def _saying_what_is_kept(out: Path) -> Iterator[None]:
    from ..journal import partial_path

    try:
        yield
    except KeyboardInterrupt:
        if partial_path(out).exists():
            click.echo(f"kept in {partial_path(out)}; the same command goes on from there", err=True)
        raise


def _evaluation(source: Path, model: Path, text: str) -> dict[str, Any]:
    """Return the perplexity of the converted model and of one that is not quantized, and their distance."""
    from ..convert import convert
    from ..folders import temporary_folder
    from .eval import evaluated

    with temporary_folder(model.parent, ".reference-") as folder:
        reference = folder / "fp16.rkllm"
        convert(source, reference, "fp16", progress=True)
        facts = evaluated(str(model), text, str(reference), None, None, None)
    return {"reference": "fp16", **{name: value for name, value in facts.items() if name != "against"}}


def _convert_lora(adapter: str, base: str | Path, out: Path, dtype: str) -> None:
    from ..lora import adapter_path, convert_lora

    # In a quantized model the rounding of fp16 is lost in that of the weights.
    kind = "fp32" if dtype == "fp32" else "fp16"
    report = convert_lora(adapter, base, adapter_path(out), dtype=kind, progress=True)
    click.echo(
        f"{report.path}: LoRA, {report.dtype}, {report.n_layers} layers, rank {', '.join(map(str, report.ranks))}, "
        f"{report.file_bytes / 1e6:.1f} MB, {report.seconds:.1f} s"
    )
