"""Score distributions in the report, with the rows at both ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.report.charts import bars
from pipelines.report.counts import is_walked
from pipelines.report.pictures import Thumbnail, thumbnail
from schemas.dataset import Dataset, Fragment

STEP = "score"
SHOWN = 6
"""Rows at each end."""
BINS = 40
WORDS = 160
"""Characters of a row's text that are shown."""
OUTSIDE = 0.5
"""Per cent of the values at each end that the end bars take in: one outlier would flatten all others."""


@dataclass(frozen=True)
class Example:
    """A row at an end: its value, its picture (None where there is none to show), its text and key."""

    value: float
    picture: Thumbnail | None
    text: str
    key: str


@dataclass(frozen=True)
class Scores:
    """One column of scores. `labels` has (value, rows) of a column of words, the largest first."""

    name: str
    rows: int
    missing: int
    chart: str = ""
    middle: tuple[float, ...] = ()
    """Quantiles: 5%, 50%, 95%."""
    lowest: list[Example] = field(default_factory=list)
    highest: list[Example] = field(default_factory=list)
    labels: list[tuple[str, int]] = field(default_factory=list)


def scores_of(dataset: Dataset, fragments: Sequence[int]) -> list[Scores]:
    """Every column of scores, in the dataset's order: of all rows, or, in a large dataset, of some `fragments`.

    They are the columns of the step `score`, and of each step that adds a number under its own name (a filter).
    """
    read = range(len(dataset.fragments)) if is_walked(dataset) else fragments
    return [made for name in _columns(dataset) if (made := _scores(dataset, name, read)) is not None]


def _columns(dataset: Dataset) -> Iterator[str]:
    for step in dataset.manifest.steps:
        owned = next((own for one in dataset.fragments[:1] if (own := _owned(one, step))), [])
        yield from (name for name in owned if step in (STEP, name))


def _owned(fragment: Fragment, step: str) -> list[str]:
    file = fragment.entry.files.get(step)
    return [name for name in file.columns if not name.endswith(("_status", "_detail"))] if file is not None else []


def _scores(dataset: Dataset, name: str, fragments: Sequence[int]) -> Scores | None:
    """None for a column of anything but numbers and words."""
    starts = np.cumsum([0, *dataset.manifest.fragments.row_counts.tolist()]).tolist()
    values: list[np.ndarray] = []
    numbers: list[np.ndarray] = []
    words: Counter[str] = Counter()
    rows = 0
    for number in fragments:
        if name not in dataset.fragments[number].owner:
            continue
        column = dataset.fragments[number].read([name]).column(0).combine_chunks()
        rows += len(column)
        there = column.drop_null()
        if pa.types.is_string(column.type):
            words.update(there.to_pylist())
        elif pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            values.append(there.to_numpy(zero_copy_only=False).astype(np.float64))
            numbers.append(starts[number] + np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False)))
        else:
            return None
    if words:
        return Scores(name, rows, rows - words.total(), labels=words.most_common(12))
    if not values or not sum(map(len, values)):
        return Scores(name, rows, rows)
    return _distributed(dataset, name, rows, np.concatenate(values), np.concatenate(numbers))


def _distributed(dataset: Dataset, name: str, rows: int, values: np.ndarray, numbers: np.ndarray) -> Scores:
    low, high = (float(one) for one in np.percentile(values, (OUTSIDE, 100 - OUTSIDE)))
    counts, _ = np.histogram(np.clip(values, low, high), BINS, (low, high if high > low else low + 1))
    order = np.argsort(values, kind="stable")
    ends = [order[:SHOWN], order[::-1][:SHOWN]]
    lowest, highest = ([_example(dataset, name, int(numbers[one]), float(values[one])) for one in end] for end in ends)
    middle = tuple(float(one) for one in np.percentile(values, (5, 50, 95)))
    return Scores(name, rows, rows - len(values), bars(counts.tolist(), low, high, ""), middle, lowest, highest)


def _example(dataset: Dataset, name: str, number: int, value: float) -> Example:
    step = dataset.manifest.steps.get(STEP)
    text_column = step.config.get("text") if step is not None else None
    columns = [
        one for one in dict.fromkeys(["key", "image", text_column, "caption", "messages"]) if one in dataset.columns
    ]
    (row,) = dataset.take([number], columns)
    texts = (_words(row.get(one)) for one in (text_column, "caption", "messages") if one)
    return Example(value, thumbnail(row.get("image")), next(filter(None, texts), ""), row["key"])


def _words(value: Any) -> str:
    """The text of a cell: words, the first of a list of them, or the turns of a conversation."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        parts = (part.get("text") for message in value for part in message.get("content") or ())
        value = " / ".join(filter(None, parts))
    if isinstance(value, list):
        value = next((one for one in value if isinstance(one, str)), None)
    text = value if isinstance(value, str) else ""
    return text if len(text) <= WORDS else f"{text[:WORDS]}…"
