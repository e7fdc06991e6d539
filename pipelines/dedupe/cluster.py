"""Cluster assignment and the resulting columns: pure functions on blocks of rows, which Beam groups.

Columns of rows that take part (`MEMBERS`): the row's number in the dataset, its perceptual hash (null: only equal bytes
count), width times height, whether an earlier step left it out, the sha256 of its bytes, its key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dedupe.alike import connect_alike
from pipelines.engine.blocks import Place, distinct
from pipelines.engine.components import Components

MEMBERS = pa.schema(
    [
        ("row", pa.int64()),
        ("near", pa.uint64()),
        ("area", pa.int64()),
        ("left_out", pa.bool_()),
        ("sha256", pa.binary(32)),
        ("key", pa.string()),
    ]
)
VERDICTS = pa.schema(
    [
        ("row", pa.int64()),
        ("cluster", pa.string()),
        ("size", pa.int32()),
        ("duplicate_of", pa.string()),
        ("same_bytes", pa.bool_()),
    ]
)
"""What the rows of clusters of two or more learn: the cluster's smallest key, its number of rows, the key of the
picture that represents it (null for that one itself), and whether the bytes equal those of the representative."""

CELL_MEANS = "dedupe_cells"

_DIGITS = np.full(256, 255, np.uint8)
_DIGITS[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


def from_hex(column: pa.Array, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(bytes of shape (rows, size), which rows are 2 * size lower-case hex digits); the others' bytes are 0.

    `column`: strings.
    """
    fits = pc.fill_null(pc.equal(pc.binary_length(column), 2 * size), False).to_numpy(zero_copy_only=False)
    text = column.filter(pa.array(fits)).cast(pa.binary()).cast(pa.binary(2 * size))
    digits = _DIGITS[np.frombuffer(b"".join(_fixed(text)), np.uint8).reshape(-1, 2 * size)]
    proper = (digits < 16).all(axis=1)
    found = np.zeros((len(column), size), np.uint8)
    where = np.flatnonzero(fits)[proper]
    found[where] = digits[proper, 0::2] << 4 | digits[proper, 1::2]
    valid = np.zeros(len(column), bool)
    valid[where] = True
    return found, valid


def sha256_bytes(column: pa.Array) -> pa.Array:
    """Digests in hex as binary(32). Any other text is represented by its own sha256, so equal stays equal."""
    found, valid = from_hex(column, 32)
    for row in np.flatnonzero(~valid):
        found[row] = np.frombuffer(hashlib.sha256((column[row].as_py() or "").encode()).digest(), np.uint8)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(found), [None, pa.py_buffer(found)])


def hash_numbers(column: pa.Array) -> pa.Array:
    """Hashes of 16 hex digits as uint64; null for anything else."""
    found, valid = from_hex(column, 8)
    return pa.array(found.view(">u8").ravel().astype(np.uint64), mask=~valid)


def meeting_points(members: pa.RecordBatch) -> np.ndarray:
    """A uint64 per row, equal for rows with the same perceptual hash, or, without one, with the same bytes."""
    digests = np.frombuffer(b"".join(_fixed(members.column("sha256"))), "<u8").reshape(-1, 4)
    folded = digests[:, 0] ^ digests[:, 1] ^ digests[:, 2] ^ digests[:, 3]
    near = members.column("near")
    return np.where(near.is_valid(), near.fill_null(0).to_numpy(), folded)


def companions(members: pa.RecordBatch, nodes: np.ndarray, roots: np.ndarray) -> pa.RecordBatch:
    """The rows that are not alone, with a column `root` that is the same for all rows of a cluster.

    Rows with a perceptual hash and rows without one may have equal numbers there, and are no cluster for that.

    `members` holds all rows of each hash (and of each sha256 without a hash) that it holds. `nodes`, `roots`: hashes
    that have a near copy, and the hash that stands for each one's cluster, itself included; uint64.
    """
    near = members.column("near")
    hashed = near.is_valid().to_numpy(zero_copy_only=False)
    values = near.fill_null(0).to_numpy()
    root, crowded = np.zeros(len(values), np.uint64), np.zeros(len(values), bool)

    order = np.argsort(nodes)
    nodes, roots = np.append(nodes[order], np.uint64(0)), np.append(roots[order], np.uint64(0))
    index = np.searchsorted(nodes[:-1], values)
    known = hashed & (nodes[index] == values) & (index < len(nodes) - 1)
    root[hashed] = np.where(known, roots[index], values)[hashed]
    crowded[hashed] = _shared(near.filter(near.is_valid()))[0] | known[hashed]

    alike, codes = _shared(members.column("sha256").filter(pa.array(~hashed)))
    rows = members.column("row").to_numpy()[~hashed]
    lowest = np.full(codes.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(lowest, codes, rows)
    root[~hashed], crowded[~hashed] = lowest[codes], alike
    return members.append_column("root", pa.array(root)).filter(pa.array(crowded))


def refined(members: pa.RecordBatch, limit: int) -> pa.RecordBatch:
    """`members` with the roots of clusters of pictures whose details agree as well; those left alone are not in it.

    `members` (with `root` and a column `dedupe_cells`, binary) hold all rows of some clusters. Within each, rows
    connect whose signatures differ by at most `limit` in every cell, which have no signature, or whose bytes are equal.
    """
    roots, details = members.column("root").to_numpy(), members.column(CELL_MEANS)
    hashed = members.column("near").is_valid().to_numpy(zero_copy_only=False)
    sets, digests, values = Components(len(roots)), _codes(members.column("sha256")), _codes(details)
    _join_equal(sets, np.lexsort((digests, roots, hashed)), hashed, roots, digests)
    order = np.lexsort((values, roots, hashed))
    _join_equal(sets, order, hashed, roots, values)
    first = order[_new(hashed[order], roots[order], values[order])]  # one of each that is equal in all three
    first = first[(hashed & details.is_valid().to_numpy(zero_copy_only=False))[first]]
    if len(first):
        own = Components(len(first))
        signatures = np.frombuffer(b"".join(_fixed(details.take(pa.array(first)))), np.int8).reshape(len(first), -1)
        connect_alike(signatures, np.cumsum(_new(roots[first])), limit, own)
        sets.join(first, first[own.roots(np.arange(len(first)))])
    return with_sets(members.drop_columns([CELL_MEANS]), sets)


def with_sets(members: pa.RecordBatch, sets: Components) -> pa.RecordBatch:
    """`members` with the smallest row of its set as each row's `root`; without those that are alone in theirs."""
    found = sets.roots(np.arange(members.num_rows))
    lowest = np.full(len(found), np.iinfo(np.int64).max)
    np.minimum.at(lowest, found, members.column("row").to_numpy())
    crowded = np.bincount(found, minlength=len(found))[found] > 1
    index = members.schema.get_field_index("root")
    return members.set_column(index, "root", pa.array(lowest[found].astype(np.uint64))).filter(pa.array(crowded))


def decide(members: pa.RecordBatch, by_key: bool = False, others: Sequence[Place] = ()) -> pa.RecordBatch:
    """The verdict on each row (`VERDICTS`, in any order), given all rows of some clusters with their `root`.

    The largest of those that were not left out represents its cluster, among equals the first of the dataset, or the
    smallest key (`by_key`): copies of a picture that nobody may use would be lost with it. A row of one of `others`
    comes before all of the dataset's own; it has no verdict and does not count.
    """
    row, area, root = (members.column(name).to_numpy() for name in ("row", "area", "root"))
    hashed = members.column("near").is_valid().to_numpy(zero_copy_only=False)
    left_out = members.column("left_out").to_numpy(zero_copy_only=False)
    own = row < others[0].start if others else np.ones(len(row), bool)
    equals = (row, pc.rank(members.column("key"), tiebreaker="min").to_numpy()) if by_key else (row,)
    order = np.lexsort((*equals, -area, left_out, own, root, hashed))
    root, hashed, own = root[order], hashed[order], own[order]
    starts = np.flatnonzero(_new(hashed, root))
    sizes = np.diff(np.append(starts, len(root)))
    first = np.repeat(starts, sizes)  # the representative's place, for each row

    members = members.take(pa.array(order))
    keys, digests = members.column("key"), members.column("sha256").dictionary_encode().indices.to_numpy()
    ranks = pc.rank(keys, sort_keys="ascending", tiebreaker="first").to_numpy()
    row_of_rank = np.zeros(len(ranks) + 2, np.int64)
    row_of_rank[ranks] = np.arange(len(ranks))
    ranks = np.where(own, ranks, len(ranks) + 1)
    smallest = row_of_rank[np.minimum.reduceat(ranks, starts)] if len(starts) else starts
    counts = np.add.reduceat(own.astype(np.int64), starts) if len(starts) else starts
    itself = np.arange(len(root)) == first
    columns = [
        members.column("row"),
        keys.take(pa.array(np.repeat(smallest, sizes))),
        pa.array(np.repeat(counts, sizes).astype(np.int32)),
        _named(members, others).take(pa.array(first, mask=itself)),
        pa.array(digests == digests[first]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=VERDICTS).filter(pa.array(own))


def _named(members: pa.RecordBatch, others: Sequence[Place]) -> pa.Array:
    """Keys as `duplicate_of` gives them: `NAME:key` for rows of other datasets, NAME being the folder's name."""
    keys, rows = members.column("key"), members.column("row").to_numpy()
    for place in others:
        inside = pa.array((rows >= place.start) & (rows < place.start + place.rows))
        name = place.dataset.rstrip("/").rpartition("/")[2]
        keys = pc.if_else(inside, pc.binary_join_element_wise(name, keys, ":"), keys)
    return keys


def with_roots(nodes: np.ndarray, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A forest's (node, root) pairs and (root, root) for each root."""
    own = distinct(roots)
    return np.concatenate([nodes, own]), np.concatenate([roots, own])


def _codes(column: pa.Array) -> np.ndarray:
    """A number per different value, -1 for null: int64, shape (rows,)."""
    return column.dictionary_encode().indices.fill_null(-1).to_numpy().astype(np.int64)


def _new(*columns: np.ndarray) -> np.ndarray:
    """Where any of the columns differs from the row before, the first row included: bool, shape (rows,)."""
    differs = [column[1:] != column[:-1] for column in columns]
    return np.append(True, np.logical_or.reduce(differs))[: len(columns[0])]


def _join_equal(sets: Components, places: np.ndarray, *columns: np.ndarray) -> None:
    """Join the rows that are equal in all columns, given an order (int64) in which they are neighbours."""
    equal = ~_new(*(column[places] for column in columns))[1:]
    sets.join(places[1:][equal], places[:-1][equal])


def _shared(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(whether another row has the same value, a number per different value), for each row; no nulls."""
    codes = column.dictionary_encode().indices.to_numpy().astype(np.int64)
    return (np.bincount(codes)[codes] > 1 if len(codes) else np.zeros(0, bool)), codes


def _fixed(column: pa.FixedSizeBinaryArray) -> list[memoryview]:
    """The bytes of a column without nulls, whatever slice of a buffer it is."""
    width, buffer = column.type.byte_width, column.buffers()[1]
    if not len(column) or buffer is None:
        return []
    return [memoryview(buffer)[column.offset * width : (column.offset + len(column)) * width]]
