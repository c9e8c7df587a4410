# SPDX-License-Identifier: Apache-2.0
"""``rkllm-ext bench``"""

from __future__ import annotations

import json

import click

from .options import FILE, activations_option


@click.command("bench", short_help="Measure how fast a .rkllm file runs here.")
@click.argument("model", type=FILE)
@click.option("-p", "--prompt", type=click.IntRange(1), help="Tokens to read. Default: 512, or as many as fit.")
@click.option("-n", "--generate", type=click.IntRange(2), default=128, show_default=True, help="Tokens to write.")
@click.option("-t", "--threads", help="Numbers of threads, 1,2,4. Default: the library's own choice.")
@activations_option
@click.option("-r", "--repeats", type=click.IntRange(1), default=3, show_default=True, help="Runs for the medians.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    model: str,
    prompt: int | None,
    generate: int,
    threads: str | None,
    activations: str | None,
    repeats: int,
    as_json: bool,
) -> None:
    """Print how many tokens a second the .rkllm file MODEL reads and writes, and how near to the limit of this
    machine's memory that is."""
    from dataclasses import asdict

    from ..bench import measure

    rows = []
    for row in measure(model, prompt, generate, _counts(threads), repeats, activations):
        rows.append(asdict(row))
        if as_json:
            continue
        if len(rows) == 1:
            what = f"{row.format}, activations {row.activations}, {row.isa}"
            click.echo(f"{row.model}: {what}, loaded in {row.load_ms:.0f} ms")
            click.echo(f"threads  prefill {row.n_prompt:>5}  decode {generate:>5}  weights GB/s  memory GB/s  share")
        click.echo(
            f"{row.n_threads:7d}  {row.prefill:13.1f}  {row.decode:12.1f}  "
            f"{row.weight_gbs:12.1f}  {row.read_gbs:11.1f}  {100 * row.memory_share:4.0f} %"
        )
    if as_json:
        click.echo(json.dumps(rows, indent=2))


def _counts(text: str | None) -> list[int | None]:
    if text is None:
        return [None]
    try:
        counts: list[int | None] = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or not all(1 <= count <= 256 for count in counts if count is not None):
        raise click.BadParameter(f"{text!r} is no list of numbers 1 ... 256 like 1,2", param_hint="--threads")
    return counts
