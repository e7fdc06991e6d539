"""The `dedupe_text` step: clusters of equal and nearly equal texts of one column. Nothing is deleted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipelines.dedupe.cluster import MEMBERS, decide, with_sets
from pipelines.dedupe.clustering import ClusterStep, Grouped, by_key, cluster_columns, clustered, left_out
from pipelines.dedupe.minhash import bands_for, bands_of, connect_similar, grams
from pipelines.dedupe.options import Against, Order
from pipelines.engine.blocks import Place, Ranges, block_of, canonical, concatenate, divide, pack, part_of, unpack
from pipelines.engine.components import Components, forest_block, merge
from pipelines.engine.step import Config, Step
from pipelines.texts import normalised
from schemas.config import nearest
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.fingerprint import fingerprint

if TYPE_CHECKING:
    import apache_beam as beam

GROUP_ROWS = 1 << 20
"""Band values that meet in one group, about: 16 bytes each, and 50 while they are sorted."""
EDGES = pa.schema([("band", pa.uint64()), ("node", pa.uint64())])
BANDS, WORDS, DIGEST = "text_bands", "text_words", "text_digest"
BOTH = MEMBERS.append(pa.field(BANDS, pa.binary()))


class TextConfig(Config):
    """When two texts count as the same."""

    column: str = Field(
        "alt_text",
        description="a column of text or of lists of texts (alt_text, caption, captions), or messages of conversations",
    )
    turns: Literal["all", "answers"] = Field("all", description="for messages: all turns, or only the answers")
    ngram: int = Field(2, ge=1, le=20, description="words of the n-grams that are compared; a shorter text is one")
    threshold: float = Field(
        0.7, gt=0, le=1, description="minimum Jaccard similarity of the n-gram sets of near-copies"
    )
    against: Against = ()
    among_equals: Order = Field("first", description="which of the longest texts represents a cluster")


class TextKeyStatus(StrEnum):
    """What is known about a row."""

    ok = "ok"
    no_text = "no_text"  # the column is null, empty, or has no word


class DedupeTextKeys(Step[TextConfig]):
    """Adds a digest of the normal form (pipelines/texts.py), the number of words, and MinHash bands of its n-grams."""

    name = "dedupe_text_keys"
    version = 1
    Config = TextConfig
    statuses = TextKeyStatus
    batch_rows = 4096
    adds = (pa.field(DIGEST, pa.binary(32)), pa.field(WORDS, pa.int32()), pa.field(BANDS, pa.binary()))

    @property
    def reads(self) -> tuple[str, ...]:
        return ("key", self.config.column)

    def fingerprint(self, inputs: dict[str, str]) -> str:
        """What decides the keys: not which dataset they are compared with, nor who represents a cluster."""
        kept = {name: getattr(self.config, name) for name in ("column", "turns", "ngram", "threshold")}
        return fingerprint(self.name, self.version, kept, inputs)

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts = texts_of(batch.column(self.config.column), self.config.turns)
        numbers, ends, counts = grams(texts, self.config.ngram)
        bands = bands_of(numbers, ends, *bands_for(self.config.threshold)).astype("<u8")
        known = counts > 0
        digests = [_digest(text) if there else None for text, there in zip(texts, known.tolist(), strict=True)]
        values = [row.tobytes() if there else None for row, there in zip(bands, known.tolist(), strict=True)]
        columns = {
            DIGEST: pa.array(digests, pa.binary(32)),
            WORDS: pa.array(counts.astype(np.int32), mask=~known),
            BANDS: pa.array(values, pa.binary()),
            f"{self.name}_status": pc.if_else(pa.array(known), TextKeyStatus.ok.value, TextKeyStatus.no_text.value),
            f"{self.name}_detail": pa.nulls(batch.num_rows, pa.string()),
        }
        return canonical(pa.RecordBatch.from_pydict(columns, schema=self.output_schema))


class TextStatus(StrEnum):
    """What a row's text is among all others."""

    ok = "ok"  # the only one of its kind, or the one that represents its cluster
    copy = "copy"  # the words of `text_duplicate_of`, in the same order
    near_copy = "near_copy"  # shares most n-grams with `text_duplicate_of`, directly or through others in the cluster
    no_text = "no_text"  # nothing to compare


class DedupeText(ClusterStep[TextConfig]):
    """Writes the cluster of every text, its size, and which row's text it repeats.

    Two texts are near-copies when they share a MinHash band and the Jaccard similarity of their n-grams is at least
    `threshold`; clusters are connected components. The text with the most words represents its cluster.
    """

    name = "dedupe_text"
    version = 1
    Config = TextConfig
    keys = DedupeTextKeys
    prefix = "text_"
    adds = cluster_columns("text_")
    reads = ("key", DIGEST, WORDS, BANDS)
    compares = DIGEST
    absent = TextStatus.no_text.value
    statuses = TextStatus
    passed_over = frozenset({TextStatus.no_text})
    by_choice: ClassVar[Mapping[str, str]] = {
        TextStatus.copy: "duplicate_text",
        TextStatus.near_copy: "duplicate_text",
    }

    def check(self, dataset: Dataset) -> None:
        if not dataset.rows:
            return
        column = self.config.column
        if column not in dataset.columns:
            raise InputError(f"{dataset.path}: --column {column}: no such column. {nearest(column, dataset.columns)}")
        kind = dataset.fragments[0].read([column]).schema.field(column).type
        if not (pa.types.is_string(kind) or _is_texts(kind) or _is_messages(kind)):
            raise InputError(
                f"{dataset.path}: --column {column} holds {kind}, expected text, lists of texts, or messages."
            )

    def key(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """What is compared (`BOTH`): rows with a word. `near` is the beginning of the digest."""
        row_numbers = np.flatnonzero(rows.column(DIGEST).is_valid().to_numpy(zero_copy_only=False))
        rows = rows.take(pa.array(row_numbers))
        digests = rows.column(DIGEST).to_pylist()
        near = np.array([int.from_bytes(one[:8], "little") for one in digests], np.uint64)
        columns = [
            pa.array(row_numbers),
            pa.array(near),
            rows.column(WORDS).cast(pa.int64()),
            left_out(rows),
            rows.column(DIGEST),
            rows.column("key"),
            rows.column(BANDS),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=BOTH)

    def verdicts(self, keys: beam.PCollection[bytes], ranges: Ranges) -> beam.PCollection[tuple[int, bytes]]:
        import apache_beam as beam

        bands, _ = bands_for(self.config.threshold)
        groups = -(-ranges.rows * bands // GROUP_ROWS) or 1
        forests = (
            keys
            | "bands" >> beam.FlatMap(_banded, groups)
            | "share a band" >> beam.GroupByKey()
            | "compare" >> beam.FlatMap(_forest)
        )
        columns = [self.config.column, BANDS]
        judged = partial(_decided, config=self.config, others=ranges.places[1:])
        return clustered(keys, forests, groups, ranges, columns, judged)


def texts_of(column: pa.Array, turns: str) -> list[str]:
    """One text for each row: "" where there is none. Texts of a list, and turns, follow each other in lines."""
    rows = column.to_pylist()
    if _is_messages(column.type):
        return ["\n".join(_said(row or [], turns)) for row in rows]
    if pa.types.is_string(column.type):
        return [row or "" for row in rows]
    return ["\n".join(text for text in row or [] if text) for row in rows]


def _said(messages: Sequence[dict[str, Any]], turns: str) -> Iterator[str]:
    for message in messages:
        if turns == "all" or message["role"] == "assistant":
            yield from (part["text"] for part in message["content"] or [] if part["text"])


def _is_texts(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) and pa.types.is_string(kind.value_type)


def _is_messages(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_list(kind) else None
    return inner is not None and pa.types.is_struct(inner) and {"role", "content"} <= {field.name for field in inner}


def _digest(text: str) -> bytes:
    """Equal for texts with the same words in the same order."""
    return hashlib.sha256(normalised(text).encode()).digest()


def _banded(block: bytes, groups: int) -> Iterator[tuple[int, bytes]]:
    """(band value, text) of the different texts of a block, where all that share the value meet."""
    rows = unpack(block)
    nodes, first = np.unique(rows.column("near").to_numpy(), return_index=True)
    values = _band_values(rows.column(BANDS).take(pa.array(first)))
    batch = block_of({"band": values.ravel(), "node": np.repeat(nodes, values.shape[1] if len(nodes) else 0)})
    yield from divide(batch, part_of(values.ravel(), groups))


def _forest(grouped: Grouped) -> Iterator[tuple[int, bytes]]:
    """What a group connects: texts that share a band's value."""
    edges = concatenate(grouped[1], EDGES)
    values, texts = edges.column("band").to_numpy(), edges.column("node").to_numpy()
    order = np.lexsort((texts, values))
    same = values[order[1:]] == values[order[:-1]]
    first, second = texts[order[:-1]][same], texts[order[1:]][same]
    nodes, roots = merge(second[first != second], first[first != second])
    if len(nodes):
        yield grouped[0], pack(forest_block(nodes, roots))


def _decided(members: pa.RecordBatch, config: TextConfig, others: Sequence[Place]) -> pa.RecordBatch:
    """Candidates that share bands, divided by the true similarity of their texts."""
    nodes, first, index = np.unique(members.column("near").to_numpy(), return_index=True, return_inverse=True)
    own = members.take(pa.array(first))
    numbers, ends, _ = grams(texts_of(own.column(config.column), config.turns), config.ngram)
    found = Components(len(nodes))
    groups = own.column("root").dictionary_encode().indices.to_numpy().astype(np.int64)
    connect_similar(numbers, ends, _band_values(own.column(BANDS)), groups, config.threshold, found)
    sets = Components(members.num_rows)
    sets.join(np.arange(members.num_rows), first[found.roots(np.arange(len(nodes)))[index]])
    return decide(with_sets(members.select([*MEMBERS.names, "root"]), sets), by_key(config), others)


def _band_values(column: pa.Array) -> np.ndarray:
    """uint64, shape (rows, bands); no nulls."""
    values = np.frombuffer(b"".join(column.to_pylist()), "<u8").astype(np.uint64)
    return values.reshape(len(column), -1) if len(column) else values.reshape(0, 1)
