# SPDX-License-Identifier: Apache-2.0
"""``rkllm-ext convert``"""

from __future__ import annotations

from pathlib import Path

import click

from .options import format_options


@click.command("convert", short_help="Make a .rkllm file.")
@click.argument("source")
@click.argument("out", type=click.Path())
@format_options
@click.option("--algorithm", default="normal", show_default=True, help="How codes and scales are found.")
@click.option("--opt", "level", type=int, default=0, show_default=True, help="0: round to nearest. 1: calibrate.")
@click.option("--dataset", type=click.Path(), help='A JSON list of {"input", "target"} to calibrate with.')
@click.option(
    "--hybrid-rate", type=float, default=0.0, help="Share of layers with groups in formats without, or the reverse."
)
@click.option("--platform", default="cpu", show_default=True, help="rk3588, rk3576 or cpu.")
@click.option("--npu-cores", type=int, help="NPU cores to use; default: all of the platform.")
@click.option(
    "--lora",
    type=click.Path(),
    help="A LoRA adapter of SOURCE (PEFT folder or GGUF file): written beside OUT as <OUT>_lora.rkllm.",
)
def command(
    source: str,
    out: str,
    dtype: str,
    head_format: str | None,
    algorithm: str,
    level: int,
    dataset: str | None,
    hybrid_rate: float,
    platform: str,
    npu_cores: int | None,
    lora: str | None,
) -> None:
    """Convert SOURCE (a GGUF file, a Hugging Face folder, or hf:REPOSITORY) to the .rkllm file OUT."""
    from ..convert import convert
    from ..sources import locate

    path = locate(source)
    if lora is not None:  # first: an adapter that does not fit is found out before the long part
        _convert_lora(lora, path, Path(out), dtype)
    report = convert(
        path,
        out,
        dtype,
        algorithm=algorithm,
        optimization_level=level,
        dataset=dataset,
        hybrid_rate=hybrid_rate,
        platform=platform,
        head_format=head_format,
        npu_cores=npu_cores,
        progress=True,
    )
    click.echo(
        f"{report.path}: {report.quantized_dtype}, {report.n_parameters / 1e6:.1f} M parameters, "
        f"{report.file_bytes / 1e6:.1f} MB, {report.seconds:.1f} s"
    )


def _convert_lora(adapter: str, base: str | Path, out: Path, dtype: str) -> None:
    from ..lora import adapter_path, convert_lora

    # In a quantized model the rounding of fp16 is lost in that of the weights.
    kind = "fp32" if dtype == "fp32" else "fp16"
    report = convert_lora(adapter, base, adapter_path(out), dtype=kind, progress=True)
    click.echo(
        f"{report.path}: LoRA, {report.dtype}, {report.n_layers} layers, rank {', '.join(map(str, report.ranks))}, "
        f"{report.file_bytes / 1e6:.1f} MB, {report.seconds:.1f} s"
    )
