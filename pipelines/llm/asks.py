"""The base class of steps that call an LLM: one method returns the requests, for the run and for its estimate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.engine.makers import input_batches
from pipelines.engine.step import C, Step
from pipelines.engine.work import batches_to_retry
from schemas.dataset import Dataset

if TYPE_CHECKING:
    from pipelines.llm.request import ChatRequest
    from pipelines.llm.settings import EndpointConfig


class AsksLlm(Step[C]):
    """Base of such steps. Commands give them an estimate, and print the answers and the cost of their runs."""

    @property
    def endpoint(self) -> EndpointConfig:
        """Whom it asks. Raises InputError where this configuration asks nobody."""
        raise TypeError(f"step {self.name!r} does not define endpoint")

    def requests(self, batch: pa.RecordBatch) -> Iterator[tuple[ChatRequest, int]]:
        """Each first request that a run sends about `batch`, and the output tokens to expect of its answer."""
        raise TypeError(f"step {self.name!r} does not define requests")

    def requests_again(
        self, batch: pa.RecordBatch, previous: pa.Table, retry: tuple[str, ...]
    ) -> Iterator[tuple[ChatRequest, int]]:
        """Each request that a run sends about `batch` of which it makes again what of `previous` ended as `retry`."""
        return self.requests(batch)

    def estimate(self, dataset: str | Path, target: str | Path | None = None, retry: str = "") -> dict[str, Any] | None:
        """What a run over all of `dataset` would take (estimate.py), or None where it asks nobody; sends nothing.

        With `retry`, of what that makes again in `dataset`, or in the `target` of a step that makes another one.
        Rejected answers that are asked again, and repairs, come on top.
        """
        # Here, because every command asks whether its step is one of these, and prices take a while to import.
        from pipelines.llm.estimate import estimate_requests

        asked = self._retried(dataset, target, retry) if retry else self._all_requests(Dataset.open(dataset))
        return estimate_requests(self.endpoint, asked)

    def _retried(self, dataset: str | Path, target: str | Path | None, retry: str) -> Iterator[tuple[ChatRequest, int]]:
        for batch, previous, statuses in batches_to_retry(self, dataset, target, retry):
            yield from self.requests(batch) if previous is None else self.requests_again(batch, previous, statuses)

    def _all_requests(self, dataset: Dataset) -> Iterator[tuple[ChatRequest, int]]:
        for batch in input_batches(self, dataset):
            yield from self.requests(batch)
