"""Dataset-wide counts of a report: excluded rows, and copies.

Up to `WALKED` fragments every row is looked at. Beyond, counts are those that the manifest keeps, and only fragments
of which it counts failures are read, until there are enough rows to show.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import pyarrow.compute as pc

from schemas.dataset import Dataset
from schemas.entries import StatusRule
from schemas.standing import Standing, detail_column, reason_of, status_rules

WALKED = 1000
"""Fragments, at about 3 ms of CPU each."""

SHOWN = 12
"""Rows that are left out, as examples."""


@dataclass(frozen=True)
class Failure:
    """A row that is left out: what it is called, the reason, and the step's detail."""

    name: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Failures:
    """Rows that cannot be used: the first of them, and how many there are.

    In a large dataset `reasons` has (reason, rows), the largest first, and `rows` is their sum: a row that two steps
    refuse counts twice, and one without a picture that no step reported is not counted.
    """

    shown: list[Failure] = field(default_factory=list)
    rows: int = 0
    reasons: list[tuple[str, int]] = field(default_factory=list)


def is_walked(dataset: Dataset) -> bool:
    """Whether every row is looked at."""
    return len(dataset.fragments) <= WALKED


def failures(dataset: Dataset, standing: Standing) -> Failures:
    """The rows that `standing`, which takes every choice, leaves out."""
    if not is_walked(dataset):
        reasons = _reasons(dataset)
        return Failures(list(_first(dataset, standing, _failing(dataset))), sum(rows for _, rows in reasons), reasons)
    rows = sum(len(one) - one.null_count for one in map(standing.of_fragment, dataset.fragments))
    return Failures(list(_first(dataset, standing, iter(range(len(dataset.fragments))))), rows)


def count_clusters(dataset: Dataset) -> int:
    """Clusters of two or more pictures in all of the dataset; each has the key of one of its rows."""
    if not {"cluster", "cluster_size"} <= set(dataset.columns):
        return 0
    count = 0
    for fragment in dataset.fragments:
        rows = fragment.read(["key", "cluster", "cluster_size"])
        named = pc.and_(pc.equal(rows["key"], rows["cluster"]), pc.greater(rows["cluster_size"], 1))
        count += pc.sum(named).as_py() or 0
    return count


def count_copies(dataset: Dataset) -> int:
    """Rows that are left out by choice, such as copies, as the manifest counts them."""
    rules, counts = status_rules(dataset), dataset.manifest.statuses()
    chosen = ((name, status) for name, rule in rules.items() for status in rule.by_choice)
    return sum(counts.get(name, {}).get(status, 0) for name, status in chosen)


def _unusable(dataset: Dataset) -> Iterator[tuple[str, StatusRule, dict[str, int]]]:
    """(column file, its rule, rows by status) of statuses that the manifest counts and that nobody can use."""
    for name, rule in status_rules(dataset).items():
        counts = dataset.manifest.statuses().get(name, {})
        found = {one: rows for one, rows in counts.items() if one not in rule.by_choice and reason_of(rule, one)}
        if found:
            yield name, rule, found


def _reasons(dataset: Dataset) -> list[tuple[str, int]]:
    counted = [
        (reason_of(rule, status) or status, rows)
        for _, rule, counts in _unusable(dataset)
        for status, rows in counts.items()
    ]
    return sorted(counted, key=lambda pair: -pair[1])


def _failing(dataset: Dataset) -> Iterator[int]:
    """The numbers of the fragments that have failures, ascending, from the manifest alone."""
    numbers = (dataset.manifest.fragments.having(name, counts) for name, _, counts in _unusable(dataset))
    return (number for number, _ in groupby(heapq.merge(*numbers)))


def _first(dataset: Dataset, standing: Standing, fragments: Iterator[int]) -> Iterator[Failure]:
    """The first `SHOWN` rows that are left out, of some fragments."""
    starts = np.cumsum([0, *dataset.manifest.fragments.row_counts.tolist()]).tolist()
    rules, found = {rule.step: rule for rule in standing.rules}, 0
    for number in fragments:
        reasons = standing.of_fragment(dataset.fragments[number])
        for row in np.flatnonzero(reasons.is_valid().to_numpy(zero_copy_only=False)).tolist():
            reason = reasons[row].as_py()
            yield _failure(dataset, starts[number] + row, reason, rules.get(reason.partition("=")[0]))
            found += 1
            if found == SHOWN:
                return


def _failure(dataset: Dataset, number: int, reason: str, rule: StatusRule | None) -> Failure:
    detail = detail_column(rule) if rule is not None else ""
    columns = [name for name in ("key", "url", detail) if name in dataset.columns]
    (row,) = dataset.take([number], columns)
    return Failure(row.get("url") or row["key"], reason, row.get(detail) or "")
