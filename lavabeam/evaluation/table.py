"""Aggregate scored units: per category and in total, each with its confidence interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lavabeam.evaluation.interval import LEVEL, RESAMPLES, SEED, Metric, percentiles, resampled_means


@dataclass(frozen=True)
class Total:
    """A figure over several categories. `how`: `pooled` draws all their units together, `mean` and `sum` combine the
    categories' own figures. `categories`: all, when empty. `metric`: the table's first, when empty."""

    name: str
    how: Literal["pooled", "mean", "sum"] = "pooled"
    categories: tuple[str, ...] = ()
    metric: str = ""


@dataclass(frozen=True)
class Table:
    """Scored units. `columns`: [units, columns]; `labels`: the categories of each unit; `metrics`: figures by name,
    the headline first; `unit`: what a row is; `scores`: one per question, as it is written beside the answers, None for
    one that enters no figure; `reasons`: why those have none, by their place in `scores`."""

    columns: np.ndarray
    labels: Sequence[tuple[str, ...]]
    metrics: Mapping[str, Metric]
    totals: tuple[Total, ...]
    scores: Sequence[float | None]
    unit: str = "question"
    more: Mapping[str, Any] = field(default_factory=dict)
    reasons: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Drawn:
    exact: np.ndarray
    again: np.ndarray


def figures(table: Table) -> dict[str, Any]:
    """`scores`: each total with its value and interval, in the benchmark's own unit (mostly per cent); `categories`:
    all metrics of each; `counts` and what else the benchmark says."""
    groups = _groups(table.labels)
    generator = np.random.default_rng(SEED)
    drawn = {name: _draw(table.columns[rows], generator) for name, rows in groups.items()}
    every = np.arange(len(table.labels))
    scores = {}
    for total in table.totals:
        if total.how == "pooled":
            wanted = [groups[name] for name in total.categories if name in groups]
            rows = every if not total.categories else np.unique(np.concatenate([*wanted, every[:0]]))
            if not len(rows):
                continue
            pooled = drawn.get(total.categories[0]) if len(total.categories) == 1 else None
            scores[total.name] = _figure(pooled or _draw(table.columns[rows], generator), _metric(table, total))
        elif parts := [drawn[name] for name in (total.categories or groups) if name in drawn]:
            scores[total.name] = _combined(parts, _metric(table, total), np.mean if total.how == "mean" else np.sum)
    categories = {
        name: {"units": len(groups[name]), **{key: _figure(part, metric) for key, metric in table.metrics.items()}}
        for name, part in sorted(drawn.items())
    }
    drawing = {"level": LEVEL, "resamples": RESAMPLES, "unit": table.unit}
    return {"scores": scores, "categories": categories, "interval": drawing, **table.more}


def _groups(labels: Sequence[tuple[str, ...]]) -> dict[str, np.ndarray]:
    rows: dict[str, list[int]] = {}
    for number, names in enumerate(labels):
        for name in names:
            rows.setdefault(name, []).append(number)
    return {name: np.array(numbers) for name, numbers in rows.items()}


def _draw(units: np.ndarray, generator: np.random.Generator) -> _Drawn:
    return _Drawn(units.mean(axis=0), resampled_means(units, generator))


def _metric(table: Table, total: Total) -> Metric:
    return table.metrics[total.metric or next(iter(table.metrics))]


def _figure(part: _Drawn, metric: Metric) -> dict[str, float | None]:
    return _written(metric(part.exact), metric(part.again))


def _combined(parts: list[_Drawn], metric: Metric, combine: Any) -> dict[str, float | None]:
    exact = combine([metric(part.exact) for part in parts], axis=0)
    return _written(exact, combine([metric(part.again) for part in parts], axis=0))


def _written(exact: Any, again: np.ndarray) -> dict[str, float | None]:
    """None stands for what is no number: JSON has none for it."""
    numbers = zip(("value", "low", "high"), (float(exact), *percentiles(again)), strict=True)
    return {name: number if np.isfinite(number) else None for name, number in numbers}


def share(column: int = 0) -> Metric:
    """100 times the mean of a column."""
    return lambda means: 100 * means[..., column]
