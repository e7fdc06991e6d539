"""The `balance` step: LLaVA's concept balancing over a whole dataset. Nothing is deleted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.balance.draw import (
    CANDIDATES,
    COUNTED,
    HELD,
    MENTIONS,
    VERDICTS,
    counted,
    draws,
    fill,
    open_turns,
    text_hashes,
    verdicts,
)
from pipelines.balance.keys import PHRASES, BalanceConfig, BalanceKeys, KeyStatus
from pipelines.engine.blocks import Ranges, aligned, block_of, concatenate, divide, no_rows, pack, part_of, unpack
from pipelines.engine.step import DatasetStep
from schemas.standing import LEFT_OUT, Use

if TYPE_CHECKING:
    import apache_beam as beam

BALANCED_OUT = "balanced_out"


class BalanceStatus(StrEnum):
    """What becomes of a caption."""

    ok = "ok"  # drawn
    balanced_out = "balanced_out"  # its phrases have enough captions without it
    rare_phrases = "rare_phrases"  # it has only phrases in fewer captions than `min_count`
    no_phrase = "no_phrase"  # no noun phrase in it
    no_caption = "no_caption"  # nothing to balance by
    skipped_input = "skipped_input"  # an earlier step left the row out


class Balance(DatasetStep[BalanceConfig]):
    """Writes for every caption whether it is drawn, and the rarest of its phrases that draw.

    Phrases draw captions, the rarest first, until each has `max_per_phrase` (Liu et al., arXiv 2304.08485, appendix on
    CC3M). Rows that an earlier step left out take no part.
    """

    name = "balance"
    takes = "images"
    version = 1
    Config = BalanceConfig
    keys = BalanceKeys
    reads = ("key", PHRASES, "balance_keys_status")
    adds = (pa.field("rarest_phrase", pa.string()), pa.field("rarest_phrase_captions", pa.int32()))
    statuses = BalanceStatus
    passed_over = frozenset({BalanceStatus.no_caption, BalanceStatus.skipped_input})
    by_choice: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (BalanceStatus.balanced_out, BalanceStatus.rare_phrases, BalanceStatus.no_phrase), BALANCED_OUT
    )
    verdict_schema = VERDICTS

    @property
    def use(self) -> Use:
        return Use()

    def key(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The mentions (`MENTIONS`) of all rows that take part."""
        takes_part = pc.and_(pc.is_valid(rows.column(PHRASES)), pc.invert(_left_out(rows)))
        numbers = np.flatnonzero(takes_part.to_numpy(zero_copy_only=False))
        if not len(numbers):
            return no_rows(MENTIONS)
        lists = rows.column(PHRASES).take(pa.array(numbers))
        lengths = pc.list_value_length(lists).to_numpy()
        hashes = text_hashes(rows.column("key").take(pa.array(numbers)).to_pylist(), str(self.config.seed))
        named = lists.flatten().dictionary_encode()
        phrase = text_hashes(named.dictionary.to_pylist())[named.indices.to_numpy()]
        place = np.arange(len(phrase)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        columns = [np.repeat(numbers, lengths), phrase, draws(np.repeat(hashes, lengths), phrase), place]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, MENTIONS, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=MENTIONS)

    def verdicts(self, keys: beam.PCollection[bytes], ranges: Ranges) -> beam.PCollection[tuple[int, bytes]]:
        import apache_beam as beam

        least, most, union = self.config.min_count, self.config.max_per_phrase, self.config.rule == "union"
        by_row = (
            keys
            | "phrases" >> beam.FlatMap(_by_phrase, ranges.parts)
            | "share a phrase" >> beam.GroupByKey()
            | "count" >> beam.FlatMap(_counted, ranges, least, most, union)
            | "of a row" >> beam.GroupByKey()
        )
        decided = by_row | "decide" >> beam.FlatMap(_decided)
        if union:
            return decided
        candidates, held = (
            by_row | f"{name}" >> beam.FlatMap(_open, most, index) for index, name in enumerate(("candidates", "held"))
        )
        filled = (
            {"candidates": candidates, "held": held}
            | "all frequent phrases" >> beam.CoGroupByKey()
            | "in turn" >> beam.FlatMap(_filled, ranges, most)
        )
        return (
            {"decided": decided, "filled": filled}
            | "of a range" >> beam.CoGroupByKey()
            | "join" >> beam.FlatMap(_joined)
        )

    def judge(self, rows: pa.RecordBatch, verdicts: pa.RecordBatch) -> pa.RecordBatch:
        own = aligned(verdicts, rows.num_rows)
        status = pc.if_else(own.column("drawn"), BalanceStatus.ok.value, BalanceStatus.balanced_out.value)
        status = pc.coalesce(status, pa.scalar(BalanceStatus.rare_phrases.value))
        for known in (KeyStatus.no_phrase.value, KeyStatus.no_caption.value):
            status = pc.if_else(pc.equal(rows.column("balance_keys_status"), known), known, status)
        columns = {
            "rarest_phrase": _at(rows.column(PHRASES), own.column("place")),
            "rarest_phrase_captions": own.column("count"),
            "balance_status": pc.if_else(_left_out(rows), BalanceStatus.skipped_input.value, status),
            "balance_detail": pa.nulls(rows.num_rows, pa.string()),
        }
        return pa.RecordBatch.from_pydict(columns, schema=self.output_schema)


def _left_out(rows: pa.RecordBatch) -> pa.Array:
    """Whether an earlier step left each row out; none in batches that the engine did not make."""
    if LEFT_OUT not in rows.schema.names:
        return pa.repeat(pa.scalar(False), rows.num_rows)
    return rows.column(LEFT_OUT).is_valid()


def _at(lists: pa.ListArray, places: pa.Array) -> pa.Array:
    """The value of each list at its place, null where the place is: shape (rows,)."""
    starts = pa.array(lists.offsets.to_numpy()[:-1])
    return lists.values.take(pc.add(starts, pc.cast(places, starts.type)))


Grouped = tuple[int, Iterable[bytes]]
"""A group's number and its blocks."""


def _by_phrase(block: bytes, parts: int) -> Iterator[tuple[int, bytes]]:
    mentions = unpack(block)
    yield from divide(mentions, part_of(mentions.column("phrase").to_numpy(), parts))


def _counted(grouped: Grouped, ranges: Ranges, least: int, most: int, union: bool) -> Iterator[tuple[int, bytes]]:
    found = counted(concatenate(grouped[1], MENTIONS), least, most, union)
    yield from divide(found, ranges.of_rows(found.column("row").to_numpy()))


def _decided(grouped: Grouped) -> Iterator[tuple[int, bytes]]:
    yield grouped[0], pack(verdicts(concatenate(grouped[1], COUNTED)))


def _open(grouped: Grouped, most: int, index: int) -> Iterator[tuple[int, bytes]]:
    """What a range has for the one place where frequent phrases take turns: candidates (index 0), or held rows (1)."""
    yield 0, pack(open_turns(concatenate(grouped[1], COUNTED), most)[index])


def _filled(joined: tuple[int, dict[str, Iterable[bytes]]], ranges: Ranges, most: int) -> Iterator[tuple[int, bytes]]:
    candidates, held = (
        concatenate(joined[1][name], schema) for name, schema in (("candidates", CANDIDATES), ("held", HELD))
    )
    rows = fill(candidates, held, most)
    yield from divide(block_of({"row": rows}), ranges.of_rows(rows))


def _joined(joined: tuple[int, dict[str, Iterable[bytes]]]) -> Iterator[tuple[int, bytes]]:
    """The verdicts on a range, with the rows that frequent phrases drew in turn."""
    decided = concatenate(joined[1]["decided"], VERDICTS)
    filled = concatenate(joined[1]["filled"], pa.schema([VERDICTS.field("row")]))
    late = np.isin(decided.column("row").to_numpy(), filled.column("row").to_numpy())
    drawn = pc.or_(decided.column("drawn"), pa.array(late))
    yield joined[0], pack(decided.set_column(VERDICTS.get_field_index("drawn"), VERDICTS.field("drawn"), drawn))
