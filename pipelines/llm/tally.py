"""What a fragment asked and what it cost, by model and prompt: for the run log and its summaries."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pyarrow as pa

from pipelines.llm.answer import Answer


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
    if answer is None or answer.request_id is None:
        return {}
    tokens = (answer.usage.input, answer.usage.output) if answer.usage else (None, None)
    values = (answer.request_id, *tokens, answer.cost)
    return {field.name: value for field, value in zip(usage_fields(step), values, strict=True)}


class Tally:
    """Adds up answers. It also keeps which rows were cache hits, as no column may say."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], dict[str, Any]] = defaultdict(
            lambda: {"answers": 0, "cached": 0, "input_tokens": 0, "output_tokens": 0, "cost": 0.0, "cached_keys": []}
        )

    def add(self, key: str, model: str, prompt: str, answer: Answer | None) -> None:
        """Count the answer of row `key`; a request that brought none counts nothing."""
        if answer is None or answer.request_id is None:
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

    def events(self) -> list[dict[str, Any]]:
        """One event per model and prompt, for `Context.log`."""
        return [
            {"event": "answered", "model": model, "prompt": prompt, **sums}
            for (model, prompt), sums in sorted(self._sums.items())
        ]
