# SPDX-License-Identifier: Apache-2.0
"""`/metrics`: what Prometheus is told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from .models import Models
    from .ticket import Ticket

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_SPEEDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
# Fields of the engine's counters: those that only grow, and those of now.
_GROWING = {
    "requests": "Requests that were taken.",
    "refused": "Requests that were refused because the queue was full.",
    "failed": "Requests that failed after they were taken.",
    "cancelled": "Requests whose client went away.",
    "prompt_tokens": "Positions of prompts that were computed.",
    "cached_tokens": "Positions of prompts whose state was there already.",
    "completion_tokens": "Tokens of answers.",
    "steps": "Passes that brought answers on by one token.",
}
_NOW = {
    "waiting": "Answers that wait.",
    "active": "Answers that are computed.",
    "embeddings_waiting": "Requests for embeddings that wait or are computed.",
    "sessions": "Sequences that are kept, idle ones included.",
    "kv_positions": "Positions whose keys and values are in memory.",
}


class Metrics:
    """The figures of one application.

    Parameters
    ----------
    models : Models
    """

    def __init__(self, models: Models) -> None:
        self._registry = CollectorRegistry()
        self._responses = Counter(
            "rkllm_http_responses", "Responses by route and status.", ["route", "status"], registry=self._registry
        )
        self._first = Histogram(
            "rkllm_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._speed = Histogram(
            "rkllm_tokens_per_second",
            "Tokens of an answer per second, behind the first.",
            buckets=_SPEEDS,
            registry=self._registry,
        )
        self._registry.register(_EngineFigures(models))

    def responded(self, route: str, status: int) -> None:
        """Count a response."""
        self._responses.labels(route, str(status)).inc()

    def ended(self, ticket: Ticket) -> None:
        """Take the times of a request that has ended."""
        timing, tokens = ticket.timing, ticket.usage.completion_tokens
        if timing.first_token is not None:
            self._first.observe(timing.first_token - timing.submitted)
            if timing.finished is not None and tokens > ticket.request.n and timing.finished > timing.first_token:
                self._speed.observe((tokens - ticket.request.n) / (timing.finished - timing.first_token))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _EngineFigures:
    """The engines' counters, read when they are asked for."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        for names, family in ((_GROWING, CounterMetricFamily), (_NOW, GaugeMetricFamily)):
            for name, meaning in names.items():
                metric = family(f"rkllm_{name}", meaning, labels=["model"])
                for engine in self._models.loaded:
                    metric.add_metric([engine.model.name], getattr(engine.counters, name))
                yield metric
        limit = GaugeMetricFamily("rkllm_kv_positions_limit", "What rkllm_kv_positions can become.", labels=["model"])
        for engine in self._models.loaded:
            limit.add_metric([engine.model.name], engine.most_sessions * engine.model.info.max_context_len)
        yield limit
