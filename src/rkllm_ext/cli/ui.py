# SPDX-License-Identifier: Apache-2.0
"""``rkllm-ext ui``"""

from __future__ import annotations

import socket
from typing import Any

import click

from .options import FILE


def _name_and_password(_: click.Context, option: click.Parameter, given: str | None) -> tuple[str, str] | None:
    if given is None:
        return None
    name, colon, password = given.partition(":")
    if not name or not colon or not password:
        raise click.BadParameter("give NAME:PASSWORD", param=option)
    return name, password


@click.command("ui", short_help="Talk to a .rkllm file on a web page.")
@click.argument("model", type=FILE)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: all.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option(
    "--auth",
    envvar="RKLLM_EXT_UI_AUTH",
    metavar="NAME:PASSWORD",
    callback=_name_and_password,
    help="What the page asks for. Or in RKLLM_EXT_UI_AUTH.",
)
@click.option("--system", default="", help="The system prompt that the page begins with.")
@click.option("--parallel", default=4, show_default=True, type=click.IntRange(1, 64), help="Answers computed at once.")
@click.option("--max-queue", default=64, show_default=True, type=click.IntRange(0, 4096), help="Answers that may wait.")
@click.option("--name", help="The model's name on the page. Default: the file's name.")
@click.option("--context", "max_context_len", type=click.IntRange(1), help="Most tokens of conversation and answer.")
@click.option("--threads", "n_threads", type=click.IntRange(1, 256), help="Default: the machine's cores.")
@click.option("--kv-type", type=click.Choice(["f16", "f32", "int8"]), help="How keys and values are kept.")
@click.option("--timeout", default=600.0, show_default=True, help="Seconds that an answer may take.")
@click.option("--drain", default=30.0, show_default=True, help="Seconds that answers have to end after SIGTERM.")
def command(
    model: str,
    host: str,
    port: int,
    auth: tuple[str, str] | None,
    system: str,
    parallel: int,
    max_queue: int,
    name: str | None,
    timeout: float,
    drain: float,
    **settings: Any,
) -> int:
    """Serve a web page that talks to the .rkllm file MODEL."""
    from ..deploy.service import READY

    try:
        from ..server.model import Model
        from ..server.ui import create_page, run_page
    except ImportError as error:
        sentence = f"ui needs Python 3.10 and the package {error.name}; pip install 'rkllm_ext[ui]'"
        raise click.ClickException(sentence) from None
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror}") from None
    given = {option: value for option, value in settings.items() if value is not None}
    with listening:
        loaded = Model(model, name, **given)
        app = create_page(loaded, parallel=parallel, max_queue=max_queue, system=system, auth=auth, timeout=timeout)
        if auth is None and host not in ("127.0.0.1", "localhost", "::1"):
            click.echo("anybody who reaches this address can use the page; set --auth", err=True)
        port = listening.getsockname()[1]
        click.echo(READY, err=True)
        click.echo(f"{loaded.name} is served on http://{host}:{port}, {parallel} answers at once", err=True)
        return 0 if run_page(app, listening, drain) else 1
