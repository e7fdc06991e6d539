"""Reads additional columns of some rows in the middle of a dataset-wide job, so that large columns are not shuffled.

What all rows are grouped by is small. What decides between candidates (finer signatures, texts, embeddings) is not, and
only the candidates need it: they pass by the files of their range, fragment by fragment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipelines.engine.blocks import Ranges, divide, pack, unpack
from schemas.dataset import Dataset

if TYPE_CHECKING:
    import apache_beam as beam


def reread(
    label: str, rows: beam.PCollection[tuple[int, bytes]], ranges: Ranges, columns: Sequence[str]
) -> beam.PCollection[tuple[int, bytes]]:
    """PCollection[(group, block with `row`)] -> the same groups and rows, each with `columns` of its dataset."""
    import apache_beam as beam

    return (
        rows
        | f"{label}: by range" >> beam.FlatMap(_by_range, ranges)
        | f"{label}: meet" >> beam.GroupByKey()
        | f"{label}: read" >> beam.FlatMap(_read, ranges, tuple(columns))
    )


def read_rows(ranges: Ranges, rows: np.ndarray, columns: Sequence[str]) -> pa.RecordBatch:
    """`columns` of `rows` (int64, numbered over all datasets, in any order), one row for each in their order.

    Raises SchemaError for a column that a fragment lacks.
    """
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    parts: list[pa.Table] = []
    for place in ranges.places:
        first, last = np.searchsorted(ordered, [place.start, place.start + place.rows])
        if first < last:
            parts += _of_dataset(_opened(place.dataset, place.manifest), ordered[first:last] - place.start, columns)
    table = pa.concat_tables(parts).combine_chunks()
    back = np.empty(len(rows), np.int64)
    back[order] = np.arange(len(rows))
    return table.take(pa.array(back)).combine_chunks().to_batches()[0]


def _of_dataset(dataset: Dataset, rows: np.ndarray, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Ascending rows of one dataset, a table for each fragment."""
    ends = np.cumsum(dataset.manifest.fragments.row_counts, dtype=np.int64)
    fragments = np.searchsorted(ends, rows, side="right")
    for number in np.unique(fragments).tolist():
        own = rows[fragments == number] - (ends[number - 1] if number else 0)
        yield dataset.fragments[number].read(columns).take(pa.array(own))


@lru_cache(maxsize=4)
def _opened(path: str, manifest: int) -> Dataset:
    return Dataset.open(path, at=manifest)


def _by_range(element: tuple[int, bytes], ranges: Ranges) -> Iterator[tuple[int, tuple[int, bytes]]]:
    group, block = element
    batch = unpack(block)
    for number, part in divide(batch, ranges.of_rows(batch.column("row").to_numpy())):
        yield number, (group, part)


def _read(
    grouped: tuple[int, Iterable[tuple[int, bytes]]], ranges: Ranges, columns: tuple[str, ...]
) -> Iterator[tuple[int, bytes]]:
    """All that is wanted of a range at once, so that each of its fragments is opened once."""
    parts = [(group, unpack(block)) for group, block in grouped[1]]
    rows = np.concatenate([batch.column("row").to_numpy() for _, batch in parts])
    if not len(rows):
        return
    found = read_rows(ranges, rows, columns)
    start = 0
    for group, batch in parts:
        own = found.slice(start, batch.num_rows)
        start += batch.num_rows
        wide = pa.RecordBatch.from_arrays([*batch.columns, *own.columns], names=[*batch.schema.names, *columns])
        yield group, pack(wide)
