"""Prometheus metrics (text format 0.0.4): requests, latencies, running models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

from lavabeam.serving.registry import Registry
from lavabeam.serving.worker import Piece

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
STATES = ("starting", "ready", "restarting", "idle", "failed", "stopping")


class Metrics:
    """Counters of one gateway. Names of models are labels; names that there are not are `unknown`."""

    def __init__(self, registry: Registry):
        self._collected = CollectorRegistry()
        shared: dict[str, Any] = {"registry": self._collected, "namespace": "lavabeam"}
        self._requests = Counter("requests", "Chat requests by HTTP status", ["model", "status"], **shared)
        self._seconds = Histogram(
            "request_seconds", "Time to the complete answer", ["model"], buckets=_SECONDS, **shared
        )
        self._first = Histogram(
            "first_piece_seconds", "Time to the first token of a stream", ["model"], buckets=_SECONDS, **shared
        )
        self._prompt = Counter("prompt_tokens", "Tokens of answered prompts, pictures included", ["model"], **shared)
        self._answer = Counter("answer_tokens", "Tokens of answers", ["model"], **shared)
        self._collected.register(_Running(registry))

    def text(self) -> bytes:
        return generate_latest(self._collected)

    def began(self, model: str, seconds: float) -> None:
        self._first.labels(model).observe(seconds)

    def ended(self, model: str, status: int, seconds: float, last: Piece | None = None) -> None:
        """status: of HTTP; 499 for a client that went away, as nginx writes it."""
        self._requests.labels(model, str(status)).inc()
        if last is not None:
            self._seconds.labels(model).observe(seconds)
            self._prompt.labels(model).inc(last.prompt_tokens)
            self._answer.labels(model).inc(last.answer_tokens)


class _Running:
    """What holds at the moment, read from the registry when it is asked for."""

    def __init__(self, registry: Registry):
        self._registry = registry

    def collect(self) -> Iterator[GaugeMetricFamily]:
        state = GaugeMetricFamily(
            "lavabeam_model_state", "1 for the current state of a model", labels=["model", "state"]
        )
        asked = GaugeMetricFamily("lavabeam_questions", "Running and queued requests", labels=["model"])
        restarts = GaugeMetricFamily("lavabeam_worker_restarts", "Number of worker crashes", labels=["model"])
        for model in self._registry.models():
            for name in STATES:
                state.add_metric([model.spec.name, name], float(model.host.state == name))
            asked.add_metric([model.spec.name], model.host.asked.get(model.label, 0))
            restarts.add_metric([model.spec.name], model.host.restarts)
        yield from (state, asked, restarts)
