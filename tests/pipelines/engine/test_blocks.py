"""Blocks and ranges: what a pipeline groups by."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.blocks import (
    RANGE_ROWS,
    Ranges,
    aligned,
    block_of,
    canonical,
    concatenate,
    cut,
    distinct,
    divide,
    pack,
    part_of,
    unpack,
    with_row_offset,
)
from schemas.manifest import FragmentEntry

SCHEMA = pa.schema([("row", pa.int64()), ("key", pa.string())])


def batch_of(*keys):
    return pa.RecordBatch.from_pydict({"row": range(len(keys)), "key": list(keys)}, schema=SCHEMA)


def entries(sizes):
    return [FragmentEntry(id=f"{number:04d}", rows=rows, files={}) for number, rows in enumerate(sizes)]


def test_a_block_of_a_slice_has_the_slice_only():
    batch = batch_of(*(f"key-{number}-é" for number in range(10_000)))
    block = pack(batch.slice(5000, 3))
    assert unpack(block).equals(batch.slice(5000, 3))
    assert len(block) < 1500


def test_blocks_are_put_one_after_the_other():
    assert concatenate([], SCHEMA).equals(batch_of())
    blocks = [pack(batch_of("a", "b")), pack(batch_of()), pack(batch_of(None))]
    assert concatenate(blocks, SCHEMA).column("key").to_pylist() == ["a", "b", None]


@given(st.lists(st.integers(0, 5)), st.integers(2, 4))
def test_divided_rows_keep_their_order_and_their_key(keys, count):
    keys = np.array(keys, np.int64) % count
    batch = block_of({"row": np.arange(len(keys))})
    parts = {key: unpack(block).column("row").to_pylist() for key, block in divide(batch, keys)}
    assert parts == {key: np.flatnonzero(keys == key).tolist() for key in np.unique(keys)}


@pytest.mark.parametrize("values", [np.arange(10_000), np.arange(10_000) << 48, np.arange(10_000) * 2**40])
def test_parts_are_even_for_values_that_count_up(values):
    parts = part_of(values.astype(np.uint64), 7)
    assert parts.min() >= 0 and parts.max() < 7
    assert np.bincount(parts, minlength=7).max() < 2 * 10_000 / 7


@given(st.lists(st.integers(0, 90), max_size=40), st.integers(1, 5))
def test_ranges_hold_every_fragment_once_and_in_order(sizes, workers):
    fragments = entries(sizes)
    ranges = cut(fragments, workers)
    assert [entry for part in ranges for entry in part.fragments] == fragments
    assert [part.number for part in ranges] == list(range(len(ranges)))
    starts = np.cumsum([0, *sizes])[:-1].tolist()
    assert [start for part in ranges for start, _ in part.placed()] == starts
    rows = np.arange(sum(sizes))
    for number, row in zip(Ranges.of(ranges).of_rows(rows).tolist(), rows.tolist(), strict=True):
        part = ranges[number]
        assert part.start <= row < part.start + sum(entry.rows for entry in part.fragments)


def test_ranges_follow_the_rows_and_the_workers():
    assert cut([]) == [] and Ranges.of([]).parts == 1
    million = cut(entries([1000] * 1000))
    assert 8 <= len(million) <= 10
    assert max(sum(entry.rows for entry in part.fragments) for part in million) <= RANGE_ROWS
    assert len(cut(entries([1000] * 100), workers=8)) >= 32
    assert len(cut(entries([RANGE_ROWS * 3]))) == 1


def test_rows_are_aligned_with_a_fragment():
    sparse = pa.RecordBatch.from_pydict({"row": [1, 3], "key": ["b", "d"]}, schema=SCHEMA)
    assert aligned(sparse, 5).column("key").to_pylist() == [None, "b", None, "d", None]
    assert aligned(batch_of(), 2).column("key").to_pylist() == [None, None]
    assert aligned(batch_of(), 0).num_rows == 0
    assert with_row_offset(sparse, 7).column("row").to_pylist() == [8, 10]


def test_equal_rows_are_written_as_equal_bytes():
    numbers = pa.array(np.array([5, 6, 7], np.int32), mask=np.array([False, True, False]))
    made = pa.RecordBatch.from_arrays([numbers, pa.array(["a", None, "c"])], names=["number", "text"])
    longer = pa.concat_batches([made, made, made]).slice(3, 3)
    plain = pa.RecordBatch.from_pylist(made.to_pylist(), schema=made.schema)
    assert pack(canonical(longer)) == pack(canonical(made)) == pack(plain)


def test_distinct_values():
    assert distinct(np.array([3, 1, 3, 2], np.uint64)).tolist() == [1, 2, 3]
    assert distinct(np.zeros(0, np.uint64)).tolist() == []
