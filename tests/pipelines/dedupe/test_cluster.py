"""Who is in which cluster and what its rows learn, beside a plain answer row by row."""

from itertools import combinations

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dedupe import Dedupe, DedupeConfig
from pipelines.dedupe.cluster import (
    MEMBERS,
    VERDICTS,
    companions,
    decide,
    from_hex,
    hash_numbers,
    meeting_points,
    sha256_bytes,
    with_roots,
)
from pipelines.dedupe.hamming import near_forest
from pipelines.engine.blocks import Ranges, distinct, pack, unpack

DIGEST = "0123456789abcdef" * 4


def test_hex_digits_are_read_whatever_buffer_they_are_cut_from():
    column = pa.array(["x", "00ff", None, "A0ff", "10", "fffe"]).slice(1)
    found, valid = from_hex(column, 2)
    assert valid.tolist() == [True, False, False, False, True]
    assert found[valid].tolist() == [[0, 255], [255, 254]]
    assert from_hex(column.slice(0, 0), 2)[0].shape == (0, 2)


def test_hashes_and_digests():
    column = pa.array(["00000000000000ff", "8000000000000000", None, "", "ff", "0x0000000000000f"])
    assert hash_numbers(column).to_pylist() == [255, 2**63, None, None, None, None]
    known, odd, again, empty = sha256_bytes(pa.array([DIGEST, "5ha", "5ha", ""])).to_pylist()
    assert known == bytes.fromhex(DIGEST)
    assert odd == again != empty and len(odd) == len(empty) == 32


# near: one of few hashes, some of them close; sha256 and keys repeat. The last says whether the row was left out.
HASHES = st.sampled_from([None, 0, 1, 3, 2**63, 2**63 + 7, 2**40 - 1, 2**64 - 1])
ROW = st.tuples(
    HASHES,
    st.integers(0, 4),
    st.integers(0, 3),
    st.sampled_from(["é", "e", "z", "日本", "", "𝄞", "\uffff"]),
    st.booleans(),
)
ROWS = st.lists(ROW, max_size=24)


def members_of(rows):
    """A block of (near, number of a sha256, area, key, left out) rows."""
    near, sha256, area, key, left_out = zip(*rows, strict=True) if rows else ([], [], [], [], [])
    digests = [bytes([number]) * 32 for number in sha256]
    return pa.RecordBatch.from_pydict(
        {
            "row": range(len(rows)),
            "near": near,
            "area": area,
            "left_out": left_out,
            "sha256": digests,
            "key": key,
        },
        schema=MEMBERS,
    )


def plain_clusters(rows, distance):
    """Sets of rows: near hashes connect, and so do equal bytes of rows without a hash."""
    clusters = [{number} for number in range(len(rows))]
    for first, second in combinations(range(len(rows)), 2):
        one, other = rows[first], rows[second]
        if one[0] is None or other[0] is None:
            alike = one[0] is other[0] is None and one[1] == other[1]
        else:
            alike = (one[0] ^ other[0]).bit_count() <= distance
        if alike:
            mine, theirs = (next(own for own in clusters if row in own) for row in (first, second))
            if mine is not theirs:
                mine |= theirs
                clusters.remove(theirs)
    return clusters


def plain_verdicts(rows, distance):
    """Row -> (cluster, size, duplicate_of, same_bytes), for rows in clusters of two or more."""
    found = {}
    for cluster in plain_clusters(rows, distance):
        best = max(sorted(cluster), key=lambda row: (not rows[row][4], rows[row][2]))
        for row in cluster if len(cluster) > 1 else ():
            name = min(rows[member][3] for member in cluster)
            repeats = None if row == best else rows[best][3]
            found[row] = (name, len(cluster), repeats, rows[row][1] == rows[best][1])
    return found


def as_dictionary(*batches):
    rows = [tuple(row.values()) for batch in batches for row in batch.to_pylist()]
    found = {row[0]: row[1:] for row in rows}
    assert len(found) == len(rows)
    return found


def whole(rows, distance, by_key=False):
    """All verdicts, without a pipeline."""
    members = members_of(rows)
    hashes = distinct(members.column("near").drop_null().to_numpy())
    return as_dictionary(decide(companions(members, *with_roots(*near_forest(hashes, distance))), by_key))


@given(ROWS, st.sampled_from([0, 1, 6, 16]))
def test_verdicts_are_those_of_a_plain_answer(rows, distance):
    assert whole(rows, distance) == plain_verdicts(rows, distance)


@given(ROWS, st.randoms())
def test_the_order_of_rows_decides_only_among_equals(rows, random):
    order = random.sample(range(len(rows)), len(rows))
    here, there = whole(rows, 6), whole([rows[row] for row in order], 6)
    assert {order[row]: verdict[:2] for row, verdict in there.items()} == {
        row: verdict[:2] for row, verdict in here.items()
    }


@given(ROWS, st.randoms())
def test_by_key_the_order_of_rows_decides_nothing(rows, random):
    named = [(*row[:3], f"{random.random()}/{number}", row[4]) for number, row in enumerate(rows)]
    order = random.sample(range(len(named)), len(named))
    there = whole([named[row] for row in order], 6, by_key=True)
    assert {order[row]: verdict for row, verdict in there.items()} == whole(named, 6, by_key=True)


@given(ROWS)
def test_rows_that_belong_together_meet(rows):
    points = meeting_points(members_of(rows)).tolist()
    for first, second in combinations(range(len(rows)), 2):
        one, other = rows[first], rows[second]
        if one[0] == other[0] and (one[0] is not None or one[1] == other[1]):
            assert points[first] == points[second]


@pytest.mark.parametrize(("cuts", "distance"), [((), 0), ((7, 50), 6), (range(1, 90, 3), 6)])
def test_a_pipeline_gives_the_same_however_rows_are_cut(cuts, distance):
    random = np.random.default_rng(1)
    hashes = [None, 0, 1, 3, 2**63, 2**63 + 7, 2**40 - 1, *(int(value) for value in random.integers(0, 2**62, 50))]
    rows = [
        (
            hashes[random.integers(len(hashes))],
            int(random.integers(9)),
            int(random.integers(3)),
            f"k{number:02}",
            bool(random.integers(2)),
        )
        for number in random.permutation(90)
    ]
    members, starts = members_of(rows), sorted({0, *cuts})
    blocks = [
        pack(members.slice(start, end - start)) for start, end in zip(starts, [*starts[1:], len(rows)], strict=True)
    ]

    def right(ranged):
        verdicts = [(number, unpack(block)) for number, block in ranged]
        assert as_dictionary(*(batch for _, batch in verdicts)) == plain_verdicts(rows, distance)
        for number, batch in verdicts:
            assert batch.schema.equals(VERDICTS)
            assert set(ranges.of_rows(batch.column("row").to_numpy()).tolist()) == {number}

    ranges = Ranges(tuple(starts), len(rows))
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        keys = pipeline | beam.Create(blocks)
        assert_that(Dedupe(DedupeConfig(near_distance=distance)).verdicts(keys, ranges), right)
