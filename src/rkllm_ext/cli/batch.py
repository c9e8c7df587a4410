# SPDX-License-Identifier: Apache-2.0
"""``rkllm-ext batch``"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import click

from .options import FILE


@click.command("batch", short_help="Answer a file of requests, in OpenAI's batch format.")
@click.argument("requests", type=FILE)
@click.argument("answers", type=FILE)
@click.option(
    "--model",
    type=FILE,
    help="A .rkllm file that answers all requests. Default: each request's model is the path of one.",
)
@click.option("--parallel", default=4, show_default=True, type=click.IntRange(1, 64), help="Answers computed at once.")
@click.option("--context", "max_context_len", type=click.IntRange(1), help="Most tokens of a prompt and its answer.")
@click.option("--threads", "n_threads", type=click.IntRange(1, 256), help="Default: the machine's cores.")
@click.option("--kv-type", type=click.Choice(["f16", "f32", "int8"]), help="How keys and values are kept.")
@click.option("--ray", "with_ray", is_flag=True, help="Spread the work over a Ray cluster.")
@click.option(
    "--replicas", type=click.IntRange(1), help="With --ray: processes that load the model. Default: 1 a node."
)
def command(
    requests: str,
    answers: str,
    model: str | None,
    parallel: int,
    with_ray: bool,
    replicas: int | None,
    **settings: Any,
) -> int:
    """Answer the requests of the file REQUESTS into the file ANSWERS, one JSON object a line.

    What is answered there already is skipped: the same command goes on where it was interrupted.
    """
    if replicas is not None and not with_ray:
        raise click.UsageError("--replicas is only possible with --ray")
    try:
        from ..server.batch import Answers, requests_of

        if with_ray:
            import ray.data  # noqa: F401
    except ImportError as error:
        extra = "ray" if with_ray and error.name != "flask" else "server"
        raise click.ClickException(f"batch needs the package {error.name}; pip install 'rkllm_ext[{extra}]'") from None
    from ..progress import Progress

    names: set[str] = set()
    total = 0
    for line in requests_of(requests):  # all of it is looked at before the first answer
        total += 1
        names.add(str(line["body"].get("model", "")))
    models = _models(model, names, requests)
    given = {option: value for option, value in settings.items() if value is not None}
    choice: dict[str, Any] = {"models": models, "whatever": model is not None, "parallel": parallel, **given}
    failed = 0
    with Answers(answers) as file:
        left = [line for line in requests_of(requests) if line["custom_id"] not in file.done]
        with Progress(True, len(left), "answering", "requests") as progress:
            found: Iterable[dict[str, Any]]
            found = _of_cluster(left, replicas, choice) if with_ray else _here(left, choice)
            for answer in found:
                file.add(answer)
                failed += answer["response"] is None or answer["response"]["status_code"] != 200
                progress.add(1)
    click.echo(f"{len(left) - failed} answered, {failed} failed, {total - len(left)} were there already", err=True)
    return 1 if failed else 0


def _here(left: list[dict[str, Any]], choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from ..server.batch import Answerer

    if left:
        with Answerer(**choice) as answerer:
            yield from answerer.answers(left)


def _of_cluster(left: list[dict[str, Any]], replicas: int | None, choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from ..server.ray import answers

    if left:
        yield from answers(left, replicas, choice)


def _models(model: str | None, names: set[str], requests: str) -> dict[str, str]:
    # Paths by the names that requests have for them.
    if model is not None:
        return {os.path.splitext(os.path.basename(model))[0]: model}
    missing = sorted(name for name in names if not os.path.isfile(name))
    if missing:
        raise click.ClickException(
            f"{requests}: the model {missing[0]!r} is no file; name one that answers with --model"
        )
    return {name: name for name in sorted(names)}
