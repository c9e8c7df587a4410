# SPDX-License-Identifier: Apache-2.0
"""``rkllm-ext serve``"""

from __future__ import annotations

import os
from typing import Any

import click

from .options import FILE


def _pairs(given: tuple[str, ...], option: str) -> list[tuple[str, str]]:
    # NAME=PATH, or PATH alone, whose name is the file's without its ending.
    found: list[tuple[str, str]] = []
    for text in given:
        name, _, path = text.rpartition("=")
        name = name or os.path.splitext(os.path.basename(path))[0]
        if name in dict(found):
            raise click.UsageError(f"{option}: the name {name!r} is given twice")
        found.append((name, path))
    return found


@click.command("serve", short_help="Serve a .rkllm file over HTTP.")
@click.argument("model", type=FILE)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: all.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option("--api-key", envvar="RKLLM_EXT_API_KEY", help="What clients must send. Or in RKLLM_EXT_API_KEY.")
@click.option("--cors-origin", "cors_origins", multiple=True, metavar="ORIGIN", help="A site whose pages may ask.")
@click.option("--trusted-proxy", metavar="ADDRESS", help="A proxy whose X-Forwarded-For names the client; * any.")
@click.option("--parallel", default=4, show_default=True, type=click.IntRange(1, 64), help="Answers computed at once.")
@click.option("--max-queue", default=64, show_default=True, type=click.IntRange(0, 4096), help="Answers that may wait.")
@click.option("--lora", multiple=True, metavar="[NAME=]PATH", help="An adapter that requests may name. Several times.")
@click.option("--prompt-cache", multiple=True, metavar="[NAME=]PATH", help="A saved state that prompts start from.")
@click.option("--also", multiple=True, metavar="[NAME=]PATH", help="A further model, loaded when it is asked for.")
@click.option("--name", help="What clients call the model. Default: the file's name.")
@click.option("--context", "max_context_len", type=click.IntRange(1), help="Most tokens of conversation and answer.")
@click.option("--threads", "n_threads", type=click.IntRange(1, 256), help="Default: the machine's cores.")
@click.option("--kv-type", type=click.Choice(["f16", "f32", "int8"]), help="How keys and values are kept.")
@click.option("--timeout", default=600.0, show_default=True, help="Seconds that a request may take.")
@click.option("--drain", default=30.0, show_default=True, help="Seconds that requests have to end after SIGTERM.")
@click.option("--log-json", is_flag=True, help="Log JSON objects, one a line.")
def command(
    model: str,
    host: str,
    port: int,
    api_key: str | None,
    cors_origins: tuple[str, ...],
    trusted_proxy: str | None,
    parallel: int,
    max_queue: int,
    lora: tuple[str, ...],
    prompt_cache: tuple[str, ...],
    also: tuple[str, ...],
    name: str | None,
    timeout: float,
    drain: float,
    log_json: bool,
    **settings: Any,
) -> int:
    """Serve the .rkllm file MODEL over HTTP, as OpenAI, Ollama and the vendor's server do."""
    loras, caches, others = _pairs(lora, "--lora"), _pairs(prompt_cache, "--prompt-cache"), _pairs(also, "--also")
    from ..deploy.service import READY

    try:
        from ..server.app import create_app
        from ..server.model import Model
        from ..server.request import LOG
        from ..server.serve import Server, log_to_stderr
    except ImportError as error:
        raise click.ClickException(f"serve needs the package {error.name}; pip install 'rkllm_ext[server]'") from None
    log_to_stderr(log_json)
    given = {option: value for option, value in settings.items() if value is not None}
    loaded = Model(model, name, **given)
    for each, path in loras:
        loaded.load_lora(path, each)
    for each, path in caches:
        loaded.load_prompt_cache(path, each)
    app = create_app(
        loaded,
        others=dict(others),
        parallel=parallel,
        max_queue=max_queue,
        api_key=api_key,
        timeout=timeout,
        cors_origins=cors_origins,
        **given,
    )
    try:
        server = Server(app, host, port, drain, trusted_proxy)
    except (OSError, ValueError) as error:  # the latter for a host that does not exist
        reason = error.strerror if isinstance(error, OSError) else "there is no such address"
        raise click.ClickException(f"cannot listen on {host}:{port}: {reason}") from None
    server.stop_on_signals()
    if api_key is None and host not in ("127.0.0.1", "localhost", "::1"):
        LOG.warning("anybody who reaches this address can use the server; set --api-key")
    LOG.info(READY)
    LOG.info("%s is served on http://%s:%d, %d answers at once", loaded.name, host, server.port, parallel)
    return 0 if server.run() else 1
