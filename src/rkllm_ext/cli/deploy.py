# SPDX-License-Identifier: Apache-2.0
"""``rkllm-ext deploy``"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command("deploy", short_help="Install, push a model and serve it on a board.")
@click.option("--host", "ssh_host", metavar="USER@BOARD", help="Reach the board by ssh.")
@click.option("--adb", is_flag=False, flag_value="", metavar="[SERIAL]", help="Reach the board by adb.")
@click.option("--workshop", required=True, metavar="DIR", help="The board's folder for all of it, an absolute path.")
@click.option("--model-path", "--model_path", "model", required=True, metavar="FILE",
              help="A .rkllm file: of this machine, which is pushed, or an absolute path on the board.")  # fmt: skip
@click.option("--platform", required=True, type=click.Choice(["rk3588", "rk3576", "cpu"]),
              help="The board's chip; cpu: any machine with Linux.")  # fmt: skip
@click.option("--lora-model-path", "--lora_model_path", "lora", default="", metavar="FILE", help="A LoRA adapter.")
@click.option("--prompt-cache-path", "--prompt_cache_path", "prompt_cache", default="", metavar="FILE",
              help="A prompt cache.")  # fmt: skip
@click.option("--server", type=click.Choice(["flask", "gradio"]), default="flask", show_default=True,
              help="flask: rkllm-ext serve; gradio: rkllm-ext ui.")  # fmt: skip
@click.option("--listen", default="0.0.0.0", show_default=True, metavar="ADDRESS", help="Where the server listens.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535))
@click.option("--wheel", type=click.Path(exists=True, path_type=Path), metavar="PATH",
              help="This package's wheel, or a folder of wheels.  [default: from a package index]")  # fmt: skip
@click.option("--offline", is_flag=True, help="The board has no network: packages come from this machine.")
@click.option("--python", default="python3", show_default=True, help="The board's Python.")
@click.option("--ssh-config", type=click.Path(exists=True, dir_okay=False), help="Another file than ~/.ssh/config.")
@click.option("--wait", "seconds", default=300, show_default=True, type=click.IntRange(1), metavar="SECONDS",
              help="How long the server may take to load the model.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only print the commands that would run.")
@click.option("--npu_num", hidden=True, help="Of the vendor's older scripts; the model's file has it.")
@click.option("--root", default="", hidden=True, help="The board's files are below this folder of it.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- SERVER ARGUMENTS]")
def command(
    ssh_host: str | None, adb: str | None, ssh_config: str | None, dry_run: bool, npu_num: str | None, **rest: Any
) -> None:
    """Install this package on a board, push a model, and serve it there.

    What is there already is left as it is: call it again after a failure, or with another model. What follows "--" goes
    to the server.
    """
    from ..deploy import Adb, Board, Order, Reach, Ssh, deploy

    if (ssh_host is None) == (adb is None):
        raise click.UsageError("name the board: either --host USER@BOARD or --adb [SERIAL]")
    order = Order(**rest)
    reach: Reach = Adb(adb) if adb is not None else Ssh(ssh_host or "", ssh_config)
    try:
        url = deploy(Board(reach, dry_run, click.echo), order)
    finally:
        reach.close()
    click.echo(f"the server would be at {url}" if dry_run else f"the server is at {url}")
