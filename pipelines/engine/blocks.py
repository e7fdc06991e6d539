"""Blocks: many rows as one pipeline element, used for dataset-wide grouping.

A block is an Arrow record batch, serialised: one Python object per row costs 10 to 30 us at every GroupByKey, a row of
a block well under one. The rows of a dataset are numbered in its order, as int64: a fragment's rows follow those of the
fragments before it. A dataset is read in *ranges* of consecutive fragments, so that blocks are large however small the
fragments are, and the number of elements stays far below the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.manifest import FragmentEntry

RANGE_ROWS = 1 << 17
"""Rows of a range, about: 128k rows of 100 bytes are 13 MB."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio, odd (Knuth, The Art of Computer Programming, volume 3, section 6.4)."""


@dataclass(frozen=True)
class Range:
    """Consecutive fragments of a dataset; the first row of the first one has the number `start`."""

    number: int
    start: int
    fragments: tuple[FragmentEntry, ...]
    dataset: str = ""
    """Where the fragments are; empty for the dataset that is worked on."""

    def placed(self) -> Iterator[tuple[int, FragmentEntry]]:
        """Each fragment with the number of its first row in the dataset."""
        start = self.start
        for fragment in self.fragments:
            yield start, fragment
            start += fragment.rows


@dataclass(frozen=True)
class Place:
    """One version of a dataset whose rows take part; the first of them has the number `start`."""

    dataset: str
    manifest: int
    start: int
    rows: int


@dataclass(frozen=True)
class Ranges:
    """Where the ranges of a dataset begin: small enough to travel with every function of a pipeline."""

    starts: tuple[int, ...]
    """The number of the first row of each range, ascending."""
    rows: int
    """Rows of all ranges."""
    places: tuple[Place, ...] = ()
    """Where rows can be read again: the dataset that is worked on, then those that it is compared with."""

    @classmethod
    def of(cls, ranges: Sequence[Range], places: Sequence[Place] = ()) -> Ranges:
        rows = sum(fragment.rows for part in ranges for fragment in part.fragments)
        return cls(tuple(part.start for part in ranges), rows, tuple(places))

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """The number of the range that holds each of `rows` (numbers of the dataset, int64)."""
        return np.searchsorted(np.array(self.starts, np.int64), rows, side="right") - 1

    @property
    def parts(self) -> int:
        """Into how many parts to divide what all rows are grouped by: then a part is as large as a range."""
        return max(1, len(self.starts))


def cut(fragments: Sequence[FragmentEntry], workers: int = 1) -> list[Range]:
    """All fragments in order, in ranges of about `RANGE_ROWS` rows, or of fewer, so that `workers` get four each."""
    rows = sum(fragment.rows for fragment in fragments)
    most = max(1, min(RANGE_ROWS, -(-rows // (4 * workers))))
    ranges: list[Range] = []
    held: list[FragmentEntry] = []
    start = count = 0
    for fragment in fragments:
        if held and count + fragment.rows > most:
            ranges.append(Range(len(ranges), start, tuple(held)))
            start, count, held = start + count, 0, []
        held.append(fragment)
        count += fragment.rows
    if held:
        ranges.append(Range(len(ranges), start, tuple(held)))
    return ranges


def pack(batch: pa.RecordBatch) -> bytes:
    """`batch` as a block. Only the rows of a slice are written, not the buffers that they are cut from."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def unpack(block: bytes) -> pa.RecordBatch:
    """The batch of a block, without a copy."""
    return next(iter(pa.ipc.open_stream(block)))


def concatenate(blocks: Iterable[bytes], schema: pa.Schema) -> pa.RecordBatch:
    """All rows of `blocks` (any number, also none) as one batch with `schema`."""
    batches = [unpack(block) for block in blocks]
    return pa.concat_batches(batches) if batches else no_rows(schema)


def no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def block_of(columns: Mapping[str, np.ndarray]) -> pa.RecordBatch:
    """Arrays of one length as a batch, without a copy."""
    return pa.RecordBatch.from_arrays([pa.array(column) for column in columns.values()], names=list(columns))


def with_row_offset(batch: pa.RecordBatch, offset: int) -> pa.RecordBatch:
    """`batch` with `offset` added to its column `row`."""
    index = batch.schema.get_field_index("row")
    return batch.set_column(index, batch.schema.field(index), pc.add(batch.column(index), offset))


def part_of(values: np.ndarray, parts: int) -> np.ndarray:
    """One of `parts` (below 2^32) for each uint64, evenly also for values that count up; equal values stay together."""
    mixed = values ^ (values >> np.uint64(32))
    high = (mixed * _GOLDEN) >> np.uint64(32)
    return ((high * np.uint64(parts)) >> np.uint64(32)).astype(np.int64)


def divide(batch: pa.RecordBatch, keys: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """(key, block of the rows that have it) for each value of `keys`, ascending; rows keep their order.

    `keys`: shape (rows,), integers.
    """
    if not len(keys):
        return
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    cuts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    ordered_batch = batch if len(cuts) == 0 else batch.take(pa.array(order))
    for start, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(keys)], strict=True):
        yield int(ordered[start]), pack(ordered_batch.slice(start, end - start))


def aligned(batch: pa.RecordBatch, rows: int) -> pa.RecordBatch:
    """One row for each of `rows`: the row of `batch` whose column `row` has its number, or nulls."""
    row_numbers = batch.column("row").to_numpy()
    index = np.zeros(rows, np.int64)
    index[row_numbers] = np.arange(len(row_numbers))
    absent = np.ones(rows, bool)
    absent[row_numbers] = False
    return batch.take(pa.array(index, mask=absent))


def canonical(batch: pa.RecordBatch) -> pa.RecordBatch:
    """`batch` in the buffers that its values alone decide, so that equal rows are written as equal bytes.

    A slice is written with the bytes that follow it, up to a multiple of 64, and kernels leave numbers behind nulls.
    """
    everything, columns = pa.array(np.arange(batch.num_rows)), []
    for column in batch.columns:
        if pa.types.is_integer(column.type) and column.null_count:
            valid = column.is_valid().to_numpy(zero_copy_only=False)
            columns.append(pa.array(column.fill_null(0).to_numpy(), column.type, mask=~valid))
        else:
            columns.append(column.take(everything))
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def distinct(values: np.ndarray) -> np.ndarray:
    """The different values, ascending. By sorting: `np.unique` of uint64 hashes them, at ten times the cost."""
    ordered = np.sort(values)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered
