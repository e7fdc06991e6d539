"""The `dedupe` step: clusters of equal and nearly equal pictures over a whole dataset. Nothing is deleted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dedupe.cluster import (
    CELL_MEANS,
    MEMBERS,
    decide,
    hash_numbers,
    refined,
    sha256_bytes,
)
from pipelines.dedupe.clustering import ClusterStep, Grouped, by_key, cluster_columns, clustered, left_out
from pipelines.dedupe.hamming import band_mask, near_forest
from pipelines.dedupe.keys import DedupeConfig, DedupeKeys
from pipelines.engine.blocks import Place, Ranges, block_of, concatenate, distinct, divide, pack, part_of, unpack
from pipelines.engine.components import forest_block

if TYPE_CHECKING:
    import apache_beam as beam

GROUP_ROWS = 1 << 18
"""Hashes of one band that are compared in one group, about: 100 bytes each while they are."""
NO_CHECK = 255
"""No two values of a signature differ by more, so near-copies are not checked a second time."""
HASHES = pa.schema([("hash", pa.uint64())])


class DedupeStatus(StrEnum):
    """What a row is among all others."""

    ok = "ok"  # the only one of its kind, or the one that represents its cluster
    copy = "copy"  # the bytes of `duplicate_of`
    near_copy = "near_copy"  # looks like `duplicate_of`, directly or by way of others in the cluster
    no_image = "no_image"  # nothing to compare


class Dedupe(ClusterStep[DedupeConfig]):
    """Writes the cluster of every picture (named after its smallest key), its size, and which picture it repeats.

    Near-copies have hashes within `near_distance` bits, directly or by way of others, and within such a group details
    within `near_detail`, again by way of others: what tells charts, cards or slides of one template apart. The largest
    picture of a cluster that may be used represents it; among equals the first one of the dataset, unless
    `among_equals` says otherwise. A row that repeats one of another dataset (`against`) is a copy of that one.
    """

    name = "dedupe"
    takes = "images"
    version = 2
    Config = DedupeConfig
    keys = DedupeKeys
    reads = ("key", "dedupe_sha256", "dedupe_phash", "dedupe_width", "dedupe_height")
    adds = cluster_columns()
    compares = "dedupe_sha256"
    absent = DedupeStatus.no_image.value
    statuses = DedupeStatus
    passed_over = frozenset({DedupeStatus.no_image})
    by_choice: ClassVar[Mapping[str, str]] = {DedupeStatus.copy: "duplicate", DedupeStatus.near_copy: "duplicate"}

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
            left_out(rows),
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
        limit = self.config.near_detail if self.config.near and self.config.near_detail < NO_CHECK else None
        columns = [] if limit is None or not ranges.places else [CELL_MEANS]
        judged = partial(_decided, others=ranges.places[1:], by_key=by_key(self.config), limit=limit)
        return clustered(keys, forests, (distance + 1) * groups, ranges, columns, judged)


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


def _decided(members: pa.RecordBatch, others: Sequence[Place], by_key: bool, limit: int | None) -> pa.RecordBatch:
    if CELL_MEANS in members.schema.names and limit is not None:
        members = refined(members, limit)
    return decide(members, by_key, others)
