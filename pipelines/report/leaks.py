"""Leaks that `decontaminate` found: by evaluation set, how many rows of a dataset, and how much of the set."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import pyarrow.compute as pc

from pipelines.report.counts import is_walked
from schemas.dataset import Dataset

STEP, COLUMN = "decontaminate", "leaks"


@dataclass(frozen=True)
class Leaks:
    """Of one evaluation set.

    rows: rows of the dataset that are like one of the set. found: different rows of the set among their nearest ones,
    so at least so many leaked, of `of` that it has (0: not known). kinds: rows of the dataset by kind of hash.
    """

    name: str
    rows: int
    found: int
    of: int
    kinds: list[tuple[str, int]]

    @property
    def rate(self) -> float:
        """The share of the set that leaked, 0 to 1."""
        return self.found / self.of if self.of else 0.0


def leaks_of(dataset: Dataset) -> list[Leaks]:
    """For each set of the index, in its order; none where the step has not run, and in datasets too large to walk."""
    if COLUMN not in dataset.columns or STEP not in dataset.manifest.steps or not is_walked(dataset):
        return []
    sizes: dict[str, int] = dataset.manifest.steps[STEP].depends_on.get("sets", {})
    rows: Counter[str] = Counter()
    kinds: defaultdict[str, Counter[str]] = defaultdict(Counter)
    found: defaultdict[str, set[str]] = defaultdict(set)
    for fragment in dataset.fragments:
        column = fragment.read([COLUMN]).column(0)
        for hits in column.filter(pc.greater(pc.list_value_length(column), 0)).to_pylist():
            rows.update({hit["set"] for hit in hits})
            for hit in hits:
                kinds[hit["set"]][hit["kind"]] += 1
                found[hit["set"]].add(hit["row"])
    names = dict.fromkeys([*sizes, *rows])
    return [Leaks(one, rows[one], len(found[one]), sizes.get(one, 0), sorted(kinds[one].items())) for one in names]
