"""Shared by `dedupe`, `dedupe_text` and `dedupe_semantic`: columns, and the path from edges to decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dedupe.cluster import MEMBERS, VERDICTS, companions, meeting_points, with_roots
from pipelines.engine.blocks import Ranges, aligned, concatenate, divide, part_of, unpack
from pipelines.engine.components import FOREST, connect, forest_block
from pipelines.engine.rereading import reread
from pipelines.engine.step import Config, DatasetStep
from schemas.standing import EVERY_CHOICE, LEFT_OUT, Use

if TYPE_CHECKING:
    import apache_beam as beam

C = TypeVar("C", bound=Config)
Grouped = tuple[int, Iterable[bytes]]
"""A group's number and its blocks."""
COMPANIONS = MEMBERS.append(pa.field("root", pa.uint64()))


def cluster_columns(prefix: str = "") -> tuple[pa.Field, ...]:
    """The cluster of a row, how many rows it has, and the key of the row that this one repeats."""
    return (
        pa.field(f"{prefix}cluster", pa.string()),
        pa.field(f"{prefix}cluster_size", pa.int32()),
        pa.field(f"{prefix}duplicate_of", pa.string()),
    )


class ClusterStep(DatasetStep[C]):
    """A dataset-wide step whose verdict is a cluster. Its statuses have `ok`, `copy`, `near_copy`."""

    prefix = ""
    """Of the names of `adds`."""
    compares: str
    """A column of `reads` that is null where a row takes no part."""
    absent: str
    """The status of such rows."""
    datasets = ("against",)
    verdict_schema = VERDICTS

    @property
    def use(self) -> Use:
        """Rows that earlier steps left out take part, but represent no others."""
        return Use(takes=EVERY_CHOICE)

    def judge(self, rows: pa.RecordBatch, verdicts: pa.RecordBatch) -> pa.RecordBatch:
        own = aligned(verdicts, rows.num_rows)
        compared, copies = rows.column(self.compares).is_valid(), own.column("duplicate_of").is_valid()
        cluster = pc.coalesce(own.column("cluster"), rows.column("key"))
        size = pc.coalesce(own.column("size"), pa.scalar(1, pa.int32()))
        status = pc.if_else(copies, pc.if_else(own.column("same_bytes"), "copy", "near_copy"), "ok")
        columns = {
            f"{self.prefix}cluster": pc.if_else(compared, cluster, pa.scalar(None, pa.string())),
            f"{self.prefix}cluster_size": pc.if_else(compared, size, pa.scalar(None, pa.int32())),
            f"{self.prefix}duplicate_of": own.column("duplicate_of"),
            f"{self.name}_status": pc.if_else(compared, status, self.absent),
            f"{self.name}_detail": pa.nulls(rows.num_rows, pa.string()),
        }
        return pa.RecordBatch.from_pydict(columns, schema=self.output_schema)


def left_out(rows: pa.RecordBatch) -> pa.Array:
    """Whether an earlier step left each row out; none in batches that the engine did not make."""
    if LEFT_OUT not in rows.schema.names:
        return pa.repeat(pa.scalar(False), rows.num_rows)
    return rows.column(LEFT_OUT).is_valid()


def by_key(config: Any) -> bool:
    """Whether the smallest key represents equals, by the option `among_equals`."""
    return config.among_equals == "smallest_key"


def clustered(
    keys: beam.PCollection[bytes],
    forests: beam.PCollection[tuple[int, bytes]],
    groups: int,
    ranges: Ranges,
    columns: Sequence[str],
    judged: Callable[[pa.RecordBatch], pa.RecordBatch],
) -> beam.PCollection[tuple[int, bytes]]:
    """Blocks of `MEMBERS`, and the forests of `groups` groups over their values `near` -> verdicts by range.

    `judged` gets all rows of some clusters, with `root` and with `columns` of the datasets that they come from.
    """
    import apache_beam as beam

    roots = connect(forests, groups) | "roots" >> beam.FlatMap(_rooted, ranges.parts)
    rows = keys | "rows" >> beam.FlatMap(_by_hash, ranges.parts)
    candidates = (
        {"rows": rows, "roots": roots}
        | "share a hash" >> beam.CoGroupByKey()
        | "not alone" >> beam.FlatMap(_accompanied, ranges.parts)
    )
    if columns:
        candidates = reread("more", candidates, ranges, columns)
    return candidates | "share a cluster" >> beam.GroupByKey() | "decide" >> beam.FlatMap(_decided, ranges, judged)


def _rooted(block: bytes, parts: int) -> Iterator[tuple[int, bytes]]:
    forest = unpack(block)
    nodes, roots = with_roots(*(forest.column(name).to_numpy() for name in FOREST.names))
    yield from divide(forest_block(nodes, roots), part_of(nodes, parts))


def _by_hash(block: bytes, parts: int) -> Iterator[tuple[int, bytes]]:
    members = unpack(block).select(MEMBERS.names)
    yield from divide(members, part_of(meeting_points(members), parts))


def _accompanied(joined: tuple[int, dict[str, Iterable[bytes]]], parts: int) -> Iterator[tuple[int, bytes]]:
    """The rows of one part that are not alone, where the whole cluster of each meets."""
    forest = concatenate(joined[1]["roots"], FOREST)
    nodes, roots = (forest.column(name).to_numpy() for name in FOREST.names)
    found = companions(concatenate(joined[1]["rows"], MEMBERS), nodes, roots)
    yield from divide(found, part_of(found.column("root").to_numpy(), parts))


def _decided(
    grouped: Grouped, ranges: Ranges, judged: Callable[[pa.RecordBatch], pa.RecordBatch]
) -> Iterator[tuple[int, bytes]]:
    decided = judged(concatenate(grouped[1], COMPANIONS))
    yield from divide(decided, ranges.of_rows(decided.column("row").to_numpy()))
