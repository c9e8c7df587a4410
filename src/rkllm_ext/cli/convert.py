# SPDX-License-Identifier: Apache-2.0
"""``rkllm-ext convert``"""

from __future__ import annotations

import click

from .options import format_options


@click.command("convert", short_help="Make a .rkllm file.")
@click.argument("source")
@click.argument("out", type=click.Path())
@format_options
@click.option("--algorithm", default="normal", show_default=True, help="normal: round to nearest.")
@click.option("--platform", default="cpu", show_default=True, help="rk3588, rk3576 or cpu.")
@click.option("--npu-cores", type=int, help="NPU cores to use; default: all of the platform.")
def command(
    source: str,
    out: str,
    dtype: str,
    head_format: str | None,
    algorithm: str,
    platform: str,
    npu_cores: int | None,
) -> None:
    """Convert SOURCE (a GGUF file, a Hugging Face folder, or hf:REPOSITORY) to the .rkllm file OUT."""
    from ..convert import convert
    from ..sources import locate

    report = convert(
        locate(source),
        out,
        dtype,
        algorithm=algorithm,
        platform=platform,
        head_format=head_format,
        npu_cores=npu_cores,
        progress=True,
    )
    click.echo(
        f"{report.path}: {report.quantized_dtype}, {report.n_parameters / 1e6:.1f} M parameters, "
        f"{report.file_bytes / 1e6:.1f} MB, {report.seconds:.1f} s"
    )
