# SPDX-License-Identifier: Apache-2.0
"""Several machines by Ray (extra `ray`): the application on Ray Serve, and batches by Ray Data."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from ray import serve

from .serving import to_json

_SPARE_THREADS = 8  # of a replica, for requests that are answered at once
_ROWS = 64  # requests of a batch that a process takes at once


def deployment(
    model: str | os.PathLike[str],
    *,
    replicas: int = 1,
    replicas_per_node: int | None = None,
    parallel: int = 4,
    max_queue: int = 64,
    cpus: float = 1,
    drain: float = 30.0,
    **settings: Any,
) -> serve.Application:
    """Return the application of `create_app` as one of Ray Serve's: `serve.run(deployment("model.rkllm", replicas=4))`.

    Parameters
    ----------
    model : path
        Of the file on every node.
    replicas : int
        Processes, each with the model in memory.
    replicas_per_node : int, optional
        At most; one is best where its threads are all of a node's cores.
    parallel : int
        Answers that a replica computes together. Further requests wait in the queue of Ray Serve, not in the replica's.
    max_queue : int
        Requests that may wait there; more are refused with 503.
    cpus : float
        Of a replica, as Ray counts them.
    drain : float
        Seconds that requests have to end when the application is taken down.
    **settings
        Of `create_app`: api_key, timeout, others, max_context_len, n_threads, ...
    """
    path = os.path.abspath(model)

    def build() -> Any:
        from .app import create_app
        from .asgi import AsgiApp

        # A request may ask for several answers: these have a queue of their own.
        return AsgiApp(create_app(path, parallel=parallel, max_queue=max_queue, **settings), parallel + _SPARE_THREADS)

    class Replica:
        """One process of the application."""

    limits: dict[str, Any] = {} if replicas_per_node is None else {"max_replicas_per_node": replicas_per_node}
    deployed: Any = serve.deployment(
        name="rkllm_ext",
        num_replicas=replicas,
        max_ongoing_requests=parallel + 1,  # one more is made ready meanwhile
        max_queued_requests=max_queue,
        graceful_shutdown_timeout_s=drain,
        ray_actor_options={"num_cpus": cpus},
        **limits,
    )(serve.ingress(build)(Replica))
    return deployed.bind()


class _Worker:
    """A process of a batch."""

    def __init__(self, choice: dict[str, Any]) -> None:
        from .batch import Answerer

        self._answerer = Answerer(**choice)

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[str]]:
        lines = [json.loads(text) for text in rows["line"]]
        return {"answer": [to_json(answer) for answer in self._answerer.answers(lines)]}


def answers(lines: Sequence[dict[str, Any]], replicas: int | None, choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the answers of a batch's requests as they come from a cluster: the one of `RAY_ADDRESS`, or this machine.

    Parameters
    ----------
    lines : sequence of dict
        As `requests_of` yields them.
    replicas : int, optional
        Processes that load the model; None: as many as there are nodes.
    choice : dict
        Arguments of `Answerer`; paths must be the same on every node.
    """
    import ray.data

    if not ray.is_initialized():
        ray.init(logging_level=logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False  # the command has one
    replicas = replicas or sum(bool(node["Alive"]) for node in ray.nodes())
    choice = {**choice, "models": {name: os.path.abspath(path) for name, path in choice["models"].items()}}
    blocks = max(replicas, min(-(-len(lines) // _ROWS), 1000))
    # As text: a table wants the same fields in each row.
    rows = ray.data.from_items([{"line": to_json(line)} for line in lines], override_num_blocks=blocks)
    found = rows.map_batches(
        _Worker,
        fn_constructor_args=(choice,),
        batch_size=_ROWS,
        compute=ray.data.ActorPoolStrategy(size=replicas),
        num_cpus=1,
    )
    for row in found.iter_rows():
        yield json.loads(row["answer"])
