"""Requests and costs of a fragment by model and prompt, for the run log and its summaries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa

from pipelines.engine.runlog import read_records
from pipelines.llm.answer import Answer
from schemas.store import Store

_SUMS = ("answers", "cached", "input_tokens", "output_tokens", "cost", "paid")


def usage_fields(step: str) -> tuple[pa.Field, ...]:
    """The columns in which a step tells what the answer to a row has taken: USD, tokens, and the server's own id."""
    return (
        pa.field(f"{step}_request_id", pa.string()),
        pa.field(f"{step}_input_tokens", pa.int32()),
        pa.field(f"{step}_output_tokens", pa.int32()),
        pa.field(f"{step}_cost", pa.float64()),
    )


def usage_of(step: str, answer: Answer | None) -> dict[str, Any]:
    """The values of `usage_fields`; none for a row that brought no answer."""
    if answer is None or not answer.received:
        return {}
    tokens = (answer.usage.input, answer.usage.output) if answer.usage else (None, None)
    values = (answer.request_id, *tokens, answer.cost)
    return {field.name: value for field, value in zip(usage_fields(step), values, strict=True)}


def after_rejected(step: str, rejected: Collection[str], row: Mapping[str, Any]) -> str | None:
    """For `ChatRequest.after`: of a row that is made again because its answer was no good, the id of that answer."""
    return (row.get(f"{step}_request_id") or "") if row.get(f"{step}_status") in rejected else None


class Tally:
    """Adds up answers, and the reasons why there was none. It also keeps which rows were cache hits: no column may."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], dict[str, Any]] = defaultdict(
            lambda: {**dict.fromkeys(_SUMS, 0), "cost": 0.0, "paid": 0.0, "cached_keys": []}
        )
        self._unanswered: dict[str, dict[str, Any]] = {}

    def add(self, key: str, model: str, prompt: str, answer: Answer | None) -> None:
        """Count the answer of row `key`, or the reason why it has none; None is a row that nothing was asked about."""
        if answer is None:
            return
        if not answer.received:
            missing = self._unanswered.setdefault(str(answer.status), {"rows": 0, "detail": answer.detail})
            missing["rows"] += 1
            return
        sums = self._sums[model, prompt]
        sums["answers"] += 1
        if answer.usage is not None:
            sums["input_tokens"] += answer.usage.input
            sums["output_tokens"] += answer.usage.output
        sums["cost"] += answer.cost or 0.0
        if answer.cached:
            sums["cached"] += 1
            sums["cached_keys"].append(key)
        else:
            sums["paid"] += answer.cost or 0.0

    def report(self) -> dict[str, list[dict[str, Any]]]:
        """As `read_run` reports a run of a step: for what is asked without one."""
        events = [{name: value for name, value in one.items() if name != "cached_keys"} for one in self.events()]
        kinds = {"answers": "answered", "unanswered": "unanswered"}
        return {
            name: [
                {key: value for key, value in one.items() if key != "event"} for one in events if one["event"] == kind
            ]
            for name, kind in kinds.items()
        }

    def events(self) -> list[dict[str, Any]]:
        """One event per model and prompt, and one per reason for no answer, for `Context.log`."""
        answered = [
            {"event": "answered", "model": model, "prompt": prompt, **sums}
            for (model, prompt), sums in sorted(self._sums.items())
        ]
        missing = sorted(self._unanswered.items())
        return [*answered, *({"event": "unanswered", "status": status, **counts} for status, counts in missing)]


def read_run(dataset: str, run: str) -> dict[str, list[dict[str, Any]]]:
    """What all fragments of a run report: `answers` by model and prompt, `unanswered` by status with one row's detail.

    Both lists are empty for a run that asked nothing. `cost` (USD) is what the answers cost when they were bought,
    `paid` what those did that are not of the cache.
    """
    sums: dict[tuple[str, str], dict[str, Any]] = {}
    missing: dict[str, dict[str, Any]] = {}
    for record in read_records(Store(dataset), run):
        for event in record["events"]:
            if event.get("event") == "answered":
                counts = sums.setdefault((event["model"], event["prompt"]), dict.fromkeys(_SUMS, 0))
                for part in _SUMS:
                    counts[part] += event[part]
            elif event.get("event") == "unanswered":
                counts = missing.setdefault(event["status"], {"rows": 0, "detail": event["detail"]})
                counts["rows"] += event["rows"]
    return {
        "answers": [{"model": model, "prompt": prompt, **counts} for (model, prompt), counts in sorted(sums.items())],
        "unanswered": [{"status": status, **counts} for status, counts in sorted(missing.items())],
    }
