"""The `dedupe_semantic` step: clusters of rows with nearly equal embeddings. Exact, and quadratic.

All pairs are compared, in blocks of products: n^2 d / 2 multiplications for n rows of d numbers. What is left to save
is memory: a block of each side is held, never all rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipelines.dedupe.cluster import MEMBERS, decide
from pipelines.dedupe.clustering import ClusterStep, by_key, cluster_columns, clustered, left_out
from pipelines.dedupe.options import Against, Representative
from pipelines.engine.blocks import Ranges, canonical, pack, unpack
from pipelines.engine.components import Components, forest_block
from pipelines.engine.rereading import read_rows
from pipelines.engine.step import Config, Step
from schemas.config import nearest
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.fingerprint import fingerprint

if TYPE_CHECKING:
    import apache_beam as beam

BLOCK_ROWS = 8192
"""Rows of a side that are held: 32 MB for 1,024 numbers each."""
PRODUCT_ROWS = 1024
"""Rows of the left side whose products are made at a time: 32 MB."""
SLACK = 1e-4
"""Products in float32 this near to the threshold are made again in float64, so that the order in which a library adds
up decides nothing."""
ROUNDING = 1e-6
"""Equal vectors, made 1 long in float32, have a product that is less than 1 by about 1e-7."""
DIGEST = "semantic_digest"


class SemanticConfig(Config):
    """When two embeddings count as the same."""

    column: str = Field("embedding", description="lists of one length of float16, float32 or float64")
    threshold: float = Field(0.95, gt=-1, le=1, description="minimum cosine similarity of near-copies")
    against: Against = ()
    among_equals: Representative = "first"


class SemanticKeyStatus(StrEnum):
    """What is known about a row."""

    ok = "ok"
    no_embedding = "no_embedding"  # the column is null
    unusable = "unusable"  # all zeros, or a value that is no finite number: it has no direction


class DedupeSemanticKeys(Step[SemanticConfig]):
    """Adds the sha256 of each embedding that has a direction, as float64 numbers."""

    name = "dedupe_semantic_keys"
    version = 1
    Config = SemanticConfig
    statuses = SemanticKeyStatus
    batch_rows = 1024
    adds = (pa.field(DIGEST, pa.binary(32)),)

    @property
    def reads(self) -> tuple[str, ...]:
        return ("key", self.config.column)

    def fingerprint(self, inputs: dict[str, str]) -> str:
        """The column alone decides the keys."""
        return fingerprint(self.name, self.version, {"column": self.config.column}, inputs)

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        column = fixed(batch.column(self.config.column))
        vectors, usable = directions(column)
        given = numbers_of(column).astype("<f8")
        digests = [
            hashlib.sha256(row.tobytes()).digest() if ok else None for row, ok in zip(given, usable, strict=True)
        ]
        bad = pc.if_else(column.is_valid(), SemanticKeyStatus.unusable.value, SemanticKeyStatus.no_embedding.value)
        columns = {
            DIGEST: pa.array(digests, pa.binary(32)),
            f"{self.name}_status": pc.if_else(pa.array(usable), SemanticKeyStatus.ok.value, bad),
            f"{self.name}_detail": pa.nulls(len(vectors), pa.string()),
        }
        return canonical(pa.RecordBatch.from_pydict(columns, schema=self.output_schema))


class SemanticStatus(StrEnum):
    """What a row's embedding is among all others."""

    ok = "ok"  # the only one of its kind, or the one that represents its cluster
    copy = "copy"  # the same numbers as `semantic_duplicate_of`
    near_copy = "near_copy"  # a cosine of at least the threshold, directly or through others in the cluster
    no_embedding = "no_embedding"  # null, or without a direction (`dedupe_semantic_keys_status` tells which)


class DedupeSemantic(ClusterStep[SemanticConfig]):
    """Writes the cluster of every embedding, its size, and which row it repeats; clusters are connected components."""

    name = "dedupe_semantic"
    version = 1
    Config = SemanticConfig
    keys = DedupeSemanticKeys
    prefix = "semantic_"
    adds = cluster_columns("semantic_")
    reads = ("key", DIGEST)
    compares = DIGEST
    absent = SemanticStatus.no_embedding.value
    statuses = SemanticStatus
    passed_over = frozenset({SemanticStatus.no_embedding})
    by_choice: ClassVar[Mapping[str, str]] = {
        SemanticStatus.copy: "duplicate_semantic",
        SemanticStatus.near_copy: "duplicate_semantic",
    }

    def check(self, dataset: Dataset) -> None:
        others = [Dataset.open(path, at=self.dataset_versions[name]) for name, path in self.dataset_paths.items()]
        sizes: dict[int, str] = {}
        for one in (dataset, *others):
            for size, where in _sizes(one, self.config.column):
                sizes.setdefault(size, where)
        if len(sizes) > 1:
            said = ", ".join(f"{size} in {where}" for size, where in sizes.items())
            raise InputError(
                f"--column {self.config.column}: embeddings of several sizes cannot be compared: {said}. "
                "Embed all of them with one model."
            )

    def key(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """What is compared (`MEMBERS`): `near` becomes the row's number."""
        row_numbers = np.flatnonzero(rows.column(DIGEST).is_valid().to_numpy(zero_copy_only=False))
        rows = rows.take(pa.array(row_numbers))
        zeros = np.zeros(len(row_numbers), np.int64)
        columns = [
            pa.array(row_numbers),
            pa.array(zeros.astype(np.uint64)),
            pa.array(zeros),
            left_out(rows),
            rows.column(DIGEST),
            rows.column("key"),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=MEMBERS)

    def verdicts(self, keys: beam.PCollection[bytes], ranges: Ranges) -> beam.PCollection[tuple[int, bytes]]:
        import apache_beam as beam

        keys = keys | "nodes" >> beam.Map(_by_row)
        forests = (
            keys
            | "pairs of ranges" >> beam.FlatMap(_paired, ranges)
            | "spread pairs" >> beam.Reshuffle()
            | "compare" >> beam.FlatMap(_forest, ranges, self.config.column, self.config.threshold)
        )
        judged = partial(decide, by_key=by_key(self.config), others=ranges.places[1:])
        return clustered(keys, forests, ranges.parts**2, ranges, [], judged)


def fixed(column: pa.Array) -> pa.FixedSizeListArray:
    """Lists of one length as such; raises InputError where lengths differ. Null lists stay null."""
    if pa.types.is_fixed_size_list(column.type):
        return column
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    lengths = set(pc.list_value_length(column).drop_null().to_pylist())
    if len(lengths) > 1:
        raise InputError(f"embeddings of several sizes cannot be compared: {sorted(lengths)}. Use one model for all.")
    size = lengths.pop() if lengths else 1
    places = np.full((len(column), size), -1)
    places[valid] = np.arange(valid.sum() * size).reshape(-1, size)
    numbers = column.flatten().take(pa.array(places.ravel(), pa.int64(), mask=places.ravel() < 0))
    return pa.FixedSizeListArray.from_arrays(numbers, size, mask=pa.array(~valid))


def numbers_of(column: pa.FixedSizeListArray) -> np.ndarray:
    """The numbers of all rows, zeros for null: shape (rows, size), of the column's type."""
    size = column.type.list_size
    flat = pc.fill_null(column.flatten(), 0.0).to_numpy(zero_copy_only=False)
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    found = np.zeros((len(column), size), flat.dtype)
    found[valid] = flat.reshape(-1, size)
    return found


def directions(column: pa.FixedSizeListArray) -> tuple[np.ndarray, np.ndarray]:
    """(vectors of length 1, float32, shape (rows, size); which rows have a direction). The others are zeros."""
    numbers = numbers_of(column).astype(np.float64)
    nulls = column.flatten().is_null().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    whole = np.zeros(len(column), bool)
    whole[column.is_valid().to_numpy(zero_copy_only=False)] = ~nulls.any(axis=1)
    usable = whole & np.isfinite(numbers).all(axis=1)
    numbers[~usable] = 0.0
    # Squares of very large and very small numbers are no float64; divided by the largest, they have the same direction.
    largest = np.abs(numbers).max(axis=1, initial=0.0)
    numbers /= np.where(largest > 0, largest, 1.0)[:, None]
    lengths = np.sqrt((numbers * numbers).sum(axis=1))
    usable &= (lengths > 0) & np.isfinite(lengths)
    return (numbers / np.where(usable, lengths, 1.0)[:, None]).astype(np.float32), usable


def _sizes(dataset: Dataset, column: str) -> Iterator[tuple[int, str]]:
    """(numbers of an embedding, where) of each fragment; raises InputError for a column of another kind."""
    if dataset.rows and column not in dataset.columns:
        raise InputError(
            f"{dataset.path}: --column {column}: no such column. {nearest(column, dataset.columns)} "
            "Import or compute embeddings first."
        )
    for fragment in dataset.fragments if dataset.rows else ():
        where = f"{dataset.path}, fragment {fragment.id}"
        values = fragment.read([column]).column(column).combine_chunks()
        kind = values.type
        lists = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if not (lists and pa.types.is_floating(kind.value_type)):
            raise InputError(
                f"{where}: --column {column} holds {kind}, expected lists of one length of float16, float32 or float64."
            )
        if pa.types.is_fixed_size_list(kind):
            yield kind.list_size, where
            continue
        for size in pc.list_value_length(values).unique().drop_null().to_pylist():
            yield size, where


def _by_row(block: bytes) -> bytes:
    members = unpack(block)
    rows = members.column("row").to_numpy().astype(np.uint64)
    return pack(members.set_column(1, "near", pa.array(rows)))


def _paired(block: bytes, ranges: Ranges) -> Iterator[tuple[int, int]]:
    """The range of a block, with itself and every later one."""
    rows = unpack(block).column("row").to_numpy()
    for own in ranges.of_rows(rows[:1]).tolist():
        yield from ((own, other) for other in range(own, ranges.parts))


def _forest(pair: tuple[int, int], ranges: Ranges, column: str, threshold: float) -> Iterator[tuple[int, bytes]]:
    """What the rows of two ranges connect."""
    ends = [*ranges.starts[1:], ranges.rows]
    left, right = ((ranges.starts[one], ends[one]) for one in pair)
    sets, offset = Components(left[1] - left[0] + right[1] - right[0]), left[1] - left[0]
    if pair[0] == pair[1]:
        offset = 0
    for first in range(*left, BLOCK_ROWS):
        ours = _vectors(ranges, first, min(first + BLOCK_ROWS, left[1]), column)
        for second in range(first if offset == 0 else right[0], right[1], BLOCK_ROWS):
            theirs = _vectors(ranges, second, min(second + BLOCK_ROWS, right[1]), column)
            if ours.shape[1] != theirs.shape[1]:  # a block of nulls alone knows no size
                continue
            for one, other in near_pairs(ours, theirs, threshold):
                sets.join(one + (first - left[0]), other + (second - right[0] + offset))
    members, roots = sets.stars()
    if len(members):
        rows = np.concatenate([np.arange(*left), np.arange(*right)] if offset else [np.arange(*left)])
        made = forest_block(rows[members].astype(np.uint64), rows[roots].astype(np.uint64))
        yield pair[0] * ranges.parts + pair[1], pack(made)


def near_pairs(ours: np.ndarray, theirs: np.ndarray, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows of `ours`, rows of `theirs`) whose product is at least `threshold`; vectors of length 1, or zeros."""
    for start in range(0, len(ours), PRODUCT_ROWS):
        products = ours[start : start + PRODUCT_ROWS] @ theirs.T
        first, second = np.nonzero(products >= threshold - SLACK)
        sure = products[first, second] >= threshold + SLACK
        close = np.flatnonzero(~sure)
        again = ours[start + first[close]].astype(np.float64) * theirs[second[close]]
        sure[close] = again.sum(axis=1) >= threshold - ROUNDING
        there = sure & ours[start + first].any(axis=1) & theirs[second].any(axis=1)
        yield first[there] + start, second[there]


def _vectors(ranges: Ranges, first: int, last: int, column: str) -> np.ndarray:
    return directions(fixed(read_rows(ranges, np.arange(first, last), [column]).column(column)))[0]
