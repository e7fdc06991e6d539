"""The `dedupe` step: clusters of equal and nearly equal pictures over a whole dataset. Nothing is deleted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dedupe.cluster import (
    DETAIL,
    MEMBERS,
    VERDICTS,
    companions,
    decide,
    hash_numbers,
    meeting_points,
    refined,
    sha256_bytes,
    with_roots,
)
from pipelines.dedupe.hamming import band_mask, near_forest
from pipelines.dedupe.keys import DedupeConfig, DedupeKeys
from pipelines.engine.blocks import Ranges, aligned, block_of, concatenate, distinct, divide, pack, part_of, unpack
from pipelines.engine.components import FOREST, connect, forest_block
from pipelines.engine.rereading import reread
from pipelines.engine.step import DatasetStep
from schemas.standing import EVERY_CHOICE, LEFT_OUT, Use

if TYPE_CHECKING:
    import apache_beam as beam

GROUP_ROWS = 1 << 18
"""Hashes of one band that are compared in one group, about: 100 bytes each while they are."""
NO_CHECK = 255
"""No two values of a signature differ by more, so near-copies are not checked a second time."""
HASHES = pa.schema([("hash", pa.uint64())])
COMPANIONS = MEMBERS.append(pa.field("root", pa.uint64()))


class DedupeStatus(StrEnum):
    """What a row is among all others."""

    ok = "ok"  # the only one of its kind, or the one that represents its cluster
    copy = "copy"  # the bytes of `duplicate_of`
    near_copy = "near_copy"  # looks like `duplicate_of`, directly or by way of others in the cluster
    no_image = "no_image"  # nothing to compare


class Dedupe(DatasetStep[DedupeConfig]):
    """Writes the cluster of every picture (named after its smallest key), its size, and which picture it repeats.

    Near-copies have hashes within `near_distance` bits, directly or by way of others, and within such a group details
    within `near_detail`, again by way of others: what tells charts, cards or slides of one template apart. The largest
    picture of a cluster that may be used represents it; among equals the first one of the dataset, unless
    `among_equals` says otherwise. A row that repeats one of another dataset (`against`) is a copy of that one.
    """

    name = "dedupe"
    takes = "images"
    version = 2
    datasets = ("against",)
    Config = DedupeConfig
    keys = DedupeKeys
    reads = ("key", "dedupe_sha256", "dedupe_phash", "dedupe_width", "dedupe_height")
    adds = (
        pa.field("cluster", pa.string()),
        pa.field("cluster_size", pa.int32()),
        pa.field("duplicate_of", pa.string()),
    )
    statuses = DedupeStatus
    passed_over = frozenset({DedupeStatus.no_image})
    by_choice: ClassVar[Mapping[str, str]] = {DedupeStatus.copy: "duplicate", DedupeStatus.near_copy: "duplicate"}
    verdict_schema = VERDICTS

    @property
    def use(self) -> Use:
        """Rows that earlier steps left out take part, but represent no others."""
        return Use(takes=EVERY_CHOICE)

    def key(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """What is compared (`MEMBERS`): a row without bytes takes no part; a small one only by its bytes.

        So does one whose perceptual hash is not 16 hex digits.
        """
        row_numbers = np.flatnonzero(rows.column("dedupe_sha256").is_valid().to_numpy(zero_copy_only=False))
        rows = rows.take(pa.array(row_numbers))
        sides = [rows.column(name).fill_null(0).cast(pa.int64()) for name in ("dedupe_width", "dedupe_height")]
        width, height = (side.to_numpy() for side in sides)
        near = hash_numbers(rows.column("dedupe_phash"))
        large = self.config.near & (np.minimum(width, height) >= self.config.near_min_size)
        columns = [
            pa.array(row_numbers),
            pc.if_else(pa.array(large), near, pa.scalar(None, pa.uint64())),
            pa.array(width * height),
            _left_out(rows),
            sha256_bytes(rows.column("dedupe_sha256")),
            rows.column("key"),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=MEMBERS)

    def verdicts(self, keys: beam.PCollection[bytes], ranges: Ranges) -> beam.PCollection[tuple[int, bytes]]:
        import apache_beam as beam

        distance, groups = self.config.near_distance, -(-ranges.rows // GROUP_ROWS) or 1
        forests = (
            keys
            | "bands" >> beam.FlatMap(_banded, distance, groups)
            | "share a band" >> beam.GroupByKey()
            | "compare" >> beam.FlatMap(_forest, distance, groups)
        )
        roots = connect(forests, (distance + 1) * groups) | "roots" >> beam.FlatMap(_rooted, ranges.parts)
        rows = keys | "rows" >> beam.FlatMap(_by_hash, ranges.parts)
        candidates = (
            {"rows": rows, "roots": roots}
            | "share a hash" >> beam.CoGroupByKey()
            | "not alone" >> beam.FlatMap(_accompanied, ranges.parts)
        )
        checked = self.config.near and self.config.near_detail < NO_CHECK and bool(ranges.places)
        if checked:
            candidates = reread("details", candidates, ranges, [DETAIL])
        return (
            candidates
            | "share a cluster" >> beam.GroupByKey()
            | "decide"
            >> beam.FlatMap(
                _decided,
                ranges,
                self.config.among_equals == "smallest_key",
                self.config.near_detail if checked else None,
            )
        )

    def judge(self, rows: pa.RecordBatch, verdicts: pa.RecordBatch) -> pa.RecordBatch:
        own = aligned(verdicts, rows.num_rows)
        compared, copies = rows.column("dedupe_sha256").is_valid(), own.column("duplicate_of").is_valid()
        cluster = pc.coalesce(own.column("cluster"), rows.column("key"))
        size = pc.coalesce(own.column("size"), pa.scalar(1, pa.int32()))
        copied = pc.if_else(own.column("same_bytes"), DedupeStatus.copy.value, DedupeStatus.near_copy.value)
        status = pc.if_else(copies, copied, DedupeStatus.ok.value)
        columns = {
            "cluster": pc.if_else(compared, cluster, pa.scalar(None, pa.string())),
            "cluster_size": pc.if_else(compared, size, pa.scalar(None, pa.int32())),
            "duplicate_of": own.column("duplicate_of"),
            "dedupe_status": pc.if_else(compared, status, DedupeStatus.no_image.value),
            "dedupe_detail": pa.nulls(rows.num_rows, pa.string()),
        }
        return pa.RecordBatch.from_pydict(columns, schema=self.output_schema)


def _left_out(rows: pa.RecordBatch) -> pa.Array:
    """Whether an earlier step left each row out; none in batches that the engine did not make."""
    if LEFT_OUT not in rows.schema.names:
        return pa.repeat(pa.scalar(False), rows.num_rows)
    return rows.column(LEFT_OUT).is_valid()


Grouped = tuple[int, Iterable[bytes]]
"""A group's number and its blocks."""


def _banded(block: bytes, distance: int, groups: int) -> Iterator[tuple[int, bytes]]:
    """The hashes of a block, once for each band of bits; those that agree on a band go to one group of that band."""
    hashes = distinct(unpack(block).column("near").drop_null().to_numpy())
    batch = block_of({"hash": hashes})
    for band in range(distance + 1):
        group = band * groups + part_of(hashes & np.uint64(band_mask(distance, band)), groups)
        yield from divide(batch, group)


def _forest(grouped: Grouped, distance: int, groups: int) -> Iterator[tuple[int, bytes]]:
    """What a group connects: hashes that agree on one band."""
    group, blocks = grouped
    hashes = distinct(concatenate(blocks, HASHES).column("hash").to_numpy())
    nodes, roots = near_forest(hashes, distance, band_mask(distance, group // groups))
    if len(nodes):
        yield group, pack(forest_block(nodes, roots))


def _rooted(block: bytes, parts: int) -> Iterator[tuple[int, bytes]]:
    forest = unpack(block)
    nodes, roots = with_roots(*(forest.column(name).to_numpy() for name in FOREST.names))
    yield from divide(forest_block(nodes, roots), part_of(nodes, parts))


def _by_hash(block: bytes, parts: int) -> Iterator[tuple[int, bytes]]:
    members = unpack(block)
    yield from divide(members, part_of(meeting_points(members), parts))


def _accompanied(joined: tuple[int, dict[str, Iterable[bytes]]], parts: int) -> Iterator[tuple[int, bytes]]:
    """The rows of one part that are not alone, where the whole cluster of each meets."""
    forest = concatenate(joined[1]["roots"], FOREST)
    nodes, roots = (forest.column(name).to_numpy() for name in FOREST.names)
    found = companions(concatenate(joined[1]["rows"], MEMBERS), nodes, roots)
    yield from divide(found, part_of(found.column("root").to_numpy(), parts))


def _decided(grouped: Grouped, ranges: Ranges, by_key: bool, limit: int | None) -> Iterator[tuple[int, bytes]]:
    members = concatenate(grouped[1], COMPANIONS)
    if limit is not None:
        members = refined(members, limit)
    decided = decide(members, by_key, ranges.places[1:])
    yield from divide(decided, ranges.of_rows(decided.column("row").to_numpy()))
