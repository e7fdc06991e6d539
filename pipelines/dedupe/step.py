"""The `dedupe` step: clusters of equal and nearly equal pictures over a whole dataset. Nothing is deleted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, ClassVar

import pyarrow as pa

from pipelines.dedupe.cluster import Member, Verdict, bands, components, near_pairs, verdicts_of
from pipelines.dedupe.keys import DedupeConfig, DedupeKeys
from pipelines.engine.step import DatasetStep, Place


class DedupeStatus(StrEnum):
    """What a row is among all others."""

    ok = "ok"  # the only one of its kind, or the one that represents its cluster
    copy = "copy"  # the bytes of `duplicate_of`
    near_copy = "near_copy"  # looks like `duplicate_of`, directly or by way of others in the cluster
    no_image = "no_image"  # nothing to compare


class Dedupe(DatasetStep[DedupeConfig]):
    """Writes the cluster of every picture (named after its smallest key), its size, and which picture it repeats.

    The largest picture of a cluster represents it; among equals the first one of the dataset.
    """

    name = "dedupe"
    version = 1
    Config = DedupeConfig
    keys = DedupeKeys
    reads = ("key", "dedupe_sha256", "dedupe_phash", "dedupe_width", "dedupe_height")
    adds: ClassVar[tuple[pa.Field, ...]] = (
        pa.field("cluster", pa.string()),
        pa.field("cluster_size", pa.int32()),
        pa.field("duplicate_of", pa.string()),
    )
    statuses = DedupeStatus

    def key(self, batch: pa.RecordBatch) -> Iterable[Member | None]:
        """What is compared: a row without bytes takes no part; a small one only by its bytes."""
        for row in batch.to_pylist():
            if row["dedupe_sha256"] is None:
                yield None
                continue
            width, height = row["dedupe_width"] or 0, row["dedupe_height"] or 0
            compares = self.config.near and min(width, height) >= self.config.near_min_size and row["dedupe_phash"]
            near = row["dedupe_phash"] if compares else None
            yield Member(row["key"], row["dedupe_sha256"], near, width * height)

    def verdicts(self, keys: Any) -> Any:
        """(Place, Member) -> (Place, Verdict), for members of clusters of two or more."""
        import apache_beam as beam

        distance = self.config.near_distance
        roots = (
            keys
            | "bands" >> beam.FlatMap(_by_band, distance)
            | "share a band" >> beam.GroupByKey()
            | "compare" >> beam.FlatMap(_pairs, distance)
            | "in one place" >> beam.GroupByKey()
            | "connect" >> beam.FlatMap(_roots)
        )
        return (
            keys
            | "name cluster" >> beam.Map(_by_cluster, beam.pvalue.AsDict(roots))
            | "cluster" >> beam.GroupByKey()
            | "decide" >> beam.FlatMap(_judged)
        )

    def judge(self, batch: pa.RecordBatch, verdicts: list[Verdict | None]) -> pa.RecordBatch:
        keys, hashes = batch.column("key").to_pylist(), batch.column("dedupe_sha256").to_pylist()
        rows = [_row(*row) for row in zip(keys, hashes, verdicts, strict=True)]
        return self.rows_to_batch(rows)


def _row(key: str, exact: str | None, verdict: Verdict | None) -> dict[str, Any]:
    if exact is None:
        return {"status": DedupeStatus.no_image}
    if verdict is None:
        return {"cluster": key, "cluster_size": 1, "status": DedupeStatus.ok}
    repeats = DedupeStatus.copy if verdict.same_bytes else DedupeStatus.near_copy
    return {
        "cluster": verdict.cluster,
        "cluster_size": verdict.size,
        "duplicate_of": verdict.duplicate_of,
        "status": repeats if verdict.duplicate_of else DedupeStatus.ok,
    }


Placed = tuple[Place, Member]
Group = str
"""What surely belongs together: one perceptual hash, or for rows without it one sha256 (both in hex)."""


def _by_band(placed: Placed, distance: int) -> Iterator[tuple[tuple[int, str], str]]:
    near = placed[1].near
    if near is not None:
        for band in bands(near, distance):
            yield band, near


def _pairs(grouped: tuple[tuple[int, str], Iterable[str]], distance: int) -> Iterator[tuple[int, tuple[str, str]]]:
    """Close hashes of one band, all under one key: they are few, and who is connected is known only in one place."""
    (band, _), hashes = grouped
    for pair in near_pairs(hashes, band, distance):
        yield 0, pair


def _roots(grouped: tuple[int, Iterable[tuple[str, str]]]) -> Iterator[tuple[Group, Group]]:
    yield from components(grouped[1]).items()


def _by_cluster(placed: Placed, roots: Mapping[Group, Group]) -> tuple[Group, Placed]:
    group = placed[1].near or placed[1].exact
    return roots.get(group, group), placed


def _order(place: Place) -> tuple[int, str, int]:
    """Places in the order of the dataset: fragment ids begin with their number, of four digits or more."""
    number = place[0].partition("-")[0]
    return len(number), number, place[1]


def _judged(grouped: tuple[Group, Iterable[Placed]]) -> Iterator[tuple[Place, Verdict]]:
    placed = sorted(grouped[1], key=lambda entry: _order(entry[0]))
    if len(placed) > 1:
        verdicts = verdicts_of([member for _, member in placed])
        yield from zip((place for place, _ in placed), verdicts, strict=True)
