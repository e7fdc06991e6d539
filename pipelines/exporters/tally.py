"""Statistics of the exported rows, for the card and export.json."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from pipelines.exporters.source import Row

NAMED = 1000
"""Sources, licences and prompts that are counted by name; the rows of others are counted together."""
OTHER = "others"
NOT_STATED = "not stated"

_COUNTERS = ("sources", "kinds", "licences", "prompts")
_SUMS = ("rows", "pictures", "picture_bytes", "turns", "tokens", "input_tokens", "output_tokens")


class Tally:
    """Counters of rows and sums; `to_json` and `Tally(json)` let a killed export resume counting."""

    def __init__(self, kept: dict[str, Any] | None = None):
        kept = kept or {}
        self.counters = {name: Counter[str](kept.get(name, {})) for name in _COUNTERS}
        self.sums = {name: int(kept.get(name, 0)) for name in _SUMS}
        self.costs = {name: float(cost) for name, cost in kept.get("costs", {}).items()}

    def add(self, row: Row) -> None:
        values, sums = row.values, self.sums
        sums["rows"] += 1
        sums["pictures"] += len(row.pictures)
        sums["picture_bytes"] += sum(len(one.content) for one in row.pictures)
        sums["turns"] += sum(message["role"] == "assistant" for message in values.get("messages") or ())
        sums["tokens"] += values.get("tokens") or 0
        source = values.get("source") or NOT_STATED
        self._count("sources", source)
        if values.get("kind"):
            self._count("kinds", values["kind"])
        for picture in row.pictures:
            self._count("licences", json.dumps([source, picture.license or NOT_STATED], ensure_ascii=False))
        if values.get("generator"):
            self._generator(values["generator"])

    def _generator(self, made: dict[str, Any]) -> None:
        name = json.dumps([made.get(one) for one in ("provider", "model", "prompt_id", "prompt_version")])
        self._count("prompts", name)
        self.costs[name] = self.costs.get(name, 0.0) + (made.get("cost") or 0.0)
        self.sums["input_tokens"] += made.get("input_tokens") or 0
        self.sums["output_tokens"] += made.get("output_tokens") or 0

    def _count(self, counter: str, name: str) -> None:
        counts = self.counters[counter]
        counts[name if name in counts or len(counts) < NAMED else OTHER] += 1

    def to_json(self) -> dict[str, Any]:
        return {**{name: dict(found) for name, found in self.counters.items()}, **self.sums, "costs": self.costs}
