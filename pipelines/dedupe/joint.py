"""The `dedupe_joint` step: rows that duplicate another row in every chosen respect. Nothing is deleted.

A picture with another caption, or a caption of another picture, is no repetition where both are trained on. A row
repeats another one here only when all of the chosen clusters are the same: its picture's, its text's, its embedding's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from pipelines.dedupe.cluster import MEMBERS, VERDICTS, decide
from pipelines.dedupe.clustering import Grouped, by_key, left_out
from pipelines.dedupe.options import Representative
from pipelines.engine.blocks import Ranges, aligned, canonical, concatenate, divide, part_of, unpack
from pipelines.engine.step import Config, DatasetStep, Step
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.fingerprint import fingerprint
from schemas.standing import EVERY_CHOICE, Use

if TYPE_CHECKING:
    import apache_beam as beam

DIGEST = "joint_digest"
CLUSTERS = {"cluster": "dedupe", "text_cluster": "dedupe_text", "semantic_cluster": "dedupe_semantic"}
"""Column -> the step that writes it."""


class JointConfig(Config):
    """Which clusters must be the same."""

    clusters: tuple[Literal["cluster", "text_cluster", "semantic_cluster"], ...] = Field(
        ("cluster", "text_cluster"), description="cluster columns that must all be equal, at least two"
    )
    among_equals: Representative = "first"

    @model_validator(mode="after")
    def _several(self) -> JointConfig:
        if len(set(self.clusters)) < 2:
            raise ValueError("`clusters` names fewer than two columns: a single one has a step and a status of its own")
        return self


class JointKeyStatus(StrEnum):
    """What is known about a row."""

    ok = "ok"
    no_cluster = "no_cluster"  # at least one of the clusters is null: there was nothing to compare


class DedupeJointKeys(Step[JointConfig]):
    """Adds a digest of the clusters of each row that has all of them."""

    name = "dedupe_joint_keys"
    version = 1
    Config = JointConfig
    statuses = JointKeyStatus
    batch_rows = 4096
    adds = (pa.field(DIGEST, pa.binary(32)),)

    @property
    def reads(self) -> tuple[str, ...]:
        return ("key", *sorted(set(self.config.clusters)))

    def fingerprint(self, inputs: dict[str, str]) -> str:
        return fingerprint(self.name, self.version, {"clusters": sorted(set(self.config.clusters))}, inputs)

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        rows = batch.select(sorted(set(self.config.clusters))).to_pylist()
        digests = [None if None in row.values() else _digest(list(row.values())) for row in rows]
        known = pa.array([one is not None for one in digests], pa.bool_())
        columns = {
            DIGEST: pa.array(digests, pa.binary(32)),
            f"{self.name}_status": pc.if_else(known, JointKeyStatus.ok.value, JointKeyStatus.no_cluster.value),
            f"{self.name}_detail": pa.nulls(batch.num_rows, pa.string()),
        }
        return canonical(pa.RecordBatch.from_pydict(columns, schema=self.output_schema))


class JointStatus(StrEnum):
    """What a row is among all others."""

    ok = "ok"  # no other row is in all of its clusters, or it represents those that are
    repeated = "repeated"  # `joint_duplicate_of` is in all of its clusters
    no_cluster = "no_cluster"  # it is in no cluster of one kind or the other


class DedupeJoint(DatasetStep[JointConfig]):
    """Writes which row each one repeats in all of the chosen ways."""

    name = "dedupe_joint"
    version = 1
    Config = JointConfig
    keys = DedupeJointKeys
    reads = ("key", DIGEST)
    adds = (pa.field("joint_size", pa.int32()), pa.field("joint_duplicate_of", pa.string()))
    statuses = JointStatus
    passed_over = frozenset({JointStatus.no_cluster})
    by_choice: ClassVar[Mapping[str, str]] = {JointStatus.repeated: "duplicate_joint"}
    verdict_schema = VERDICTS

    @property
    def use(self) -> Use:
        """Rows that earlier steps left out take part, but represent no others."""
        return Use(takes=EVERY_CHOICE)

    def check(self, dataset: Dataset) -> None:
        for column in self.config.clusters if dataset.rows else ():
            if column not in dataset.columns:
                raise InputError(
                    f"{dataset.path}: has no column {column!r}. Run `lavabeam {CLUSTERS[column]}` on it first, or name "
                    "other --clusters."
                )

    def key(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """What is grouped (`MEMBERS`); `near` is the beginning of the digest."""
        row_numbers = np.flatnonzero(rows.column(DIGEST).is_valid().to_numpy(zero_copy_only=False))
        rows = rows.take(pa.array(row_numbers))
        near = np.array([int.from_bytes(one[:8], "little") for one in rows.column(DIGEST).to_pylist()], np.uint64)
        zeros = pa.array(np.zeros(len(near), np.int64))
        columns = [
            pa.array(row_numbers),
            pa.array(near),
            zeros,
            left_out(rows),
            rows.column(DIGEST),
            rows.column("key"),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=MEMBERS)

    def verdicts(self, keys: beam.PCollection[bytes], ranges: Ranges) -> beam.PCollection[tuple[int, bytes]]:
        import apache_beam as beam

        return (
            keys
            | "by clusters" >> beam.FlatMap(_by_clusters, ranges.parts)
            | "share clusters" >> beam.GroupByKey()
            | "decide" >> beam.FlatMap(_decided, ranges, by_key(self.config))
        )

    def judge(self, rows: pa.RecordBatch, verdicts: pa.RecordBatch) -> pa.RecordBatch:
        own = aligned(verdicts, rows.num_rows)
        compared, repeats = rows.column(DIGEST).is_valid(), own.column("duplicate_of").is_valid()
        status = pc.if_else(repeats, JointStatus.repeated.value, JointStatus.ok.value)
        size = pc.if_else(compared, own.column("size"), pa.scalar(None, pa.int32()))
        columns = {
            "joint_size": size,
            "joint_duplicate_of": own.column("duplicate_of"),
            "dedupe_joint_status": pc.if_else(compared, status, JointStatus.no_cluster.value),
            "dedupe_joint_detail": pa.nulls(rows.num_rows, pa.string()),
        }
        return pa.RecordBatch.from_pydict(columns, schema=self.output_schema)


def _digest(clusters: list[str]) -> bytes:
    parts = [one.encode() for one in clusters]
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "little") + part for part in parts)).digest()


def _by_clusters(block: bytes, parts: int) -> Iterator[tuple[int, bytes]]:
    members = unpack(block)
    yield from divide(members, part_of(members.column("near").to_numpy(), parts))


def _decided(grouped: Grouped, ranges: Ranges, by_key: bool) -> Iterator[tuple[int, bytes]]:
    members = concatenate(grouped[1], MEMBERS)
    decided = decide(members.append_column("root", members.column("near")), by_key)
    yield from divide(decided, ranges.of_rows(decided.column("row").to_numpy()))
