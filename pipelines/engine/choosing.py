"""`limit` and `sample`: which rows a costly step processes for now. The others keep their place as `not_chosen`.

Rows are chosen by a hash of their key, so a small choice is part of every larger one: a later run with more, or without
a limit, works on what is missing and on nothing twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipelines.engine.step import Config, Derive, Runtime, Step
from schemas.columnfile import read_column_file
from schemas.standing import LEFT_OUT

if TYPE_CHECKING:
    from schemas.dataset import Dataset, Fragment
    from schemas.manifest import FileEntry
    from schemas.store import Store

NOT_CHOSEN = "not_chosen"
"""The status of rows that `limit` or `sample` leave for a later run: one of a step's `unfinished` and `passed_over`."""
_ALL = 2**64


class ChosenRows(Config):
    """The part of a configuration that says how many rows are worked on."""

    limit: Annotated[int | None, Runtime()] = Field(default=None, ge=1)
    """Process at most this many rows, chosen by a hash of their keys; a later run with a larger limit adds the rest."""
    sample: Annotated[float | None, Runtime()] = Field(default=None, gt=0, le=1)
    """Process this share of the rows, chosen by a hash of their keys: 0.01 is one in a hundred."""


@dataclass(frozen=True)
class Choice:
    """The rows whose key hashes to less than `below`, of 2^64. Small and picklable: it travels to workers."""

    below: int

    def of(self, keys: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Which rows are chosen, shape (rows,), bool."""
        if self.below >= _ALL:
            return pa.array(np.ones(len(keys), bool))
        return pa.array(_hashes(keys) < np.uint64(self.below))


def choice_of(step: Step, dataset: Dataset) -> Choice | None:
    """What the configuration of `step` chooses of `dataset`; None for all rows, also where a limit leaves none out.

    A limit counts rows that the step would work on: none that earlier steps or its own options leave out. It reads the
    keys of all rows once, and keeps `limit` hashes.
    """
    config = step.config
    if not isinstance(config, ChosenRows) or (config.limit is None and config.sample is None):
        return None
    below = _ALL if config.sample is None else round(config.sample * _ALL)
    if config.limit is not None:
        below = min(below, _limit(config.limit, _candidates(step, dataset)))
    return Choice(below) if below < _ALL else None


def with_choice(step: Step, table: pa.Table) -> pa.Table:
    """For a step that makes other rows: rows that are not chosen are left out as `not_chosen`, in `left_out`.

    Not those that the step would not ask about: they say so themselves.
    """
    if step.choice is None:
        return table
    reasons, chosen = table.column(LEFT_OUT), _or_never(step.choice.of(table.column("key")), step.would_ask(table))
    reasons = pc.coalesce(reasons, pc.if_else(chosen, pa.scalar(None, pa.string()), NOT_CHOSEN))
    return table.set_column(table.schema.get_field_index(LEFT_OUT), LEFT_OUT, reasons)


def made_now(step: Step, rows: Fragment) -> pa.Array | pa.ChunkedArray:
    """Which rows a run that chooses makes, shape (rows,), bool.

    The chosen ones, and all that the step never works on: they cost nothing, and have a separate status.
    """
    assert step.choice is not None
    keys, wanted = _wanted(step, rows)
    return _or_never(step.choice.of(keys), wanted)


def left_to_do(
    step: Step, store: Store, file: FileEntry | None, again: frozenset[str], rows: Fragment
) -> dict[str, int]:
    """Those of `again` that rows of the finished `file` have, and how many of the rows that a run makes now.

    The other rows are not this run's affair. `rows` are what the file was made of, as many for a column file.
    """
    if file is None or again.isdisjoint(file.statuses):
        return {}
    if step.choice is None:
        return {status: count for status, count in file.statuses.items() if status in again}
    statuses, now = _statuses(step, store, file, rows)
    return {status: count for status, count in _counts(statuses.filter(now)).items() if status in again}


def unmade_rows(step: Step, store: Store, file: FileEntry, rows: Fragment) -> int:
    """How many finished rows of `file` become `not_chosen` when a run that chooses makes it with other options."""
    if step.choice is None:
        return 0
    statuses, now = _statuses(step, store, file, rows)
    counts = _counts(statuses.filter(pc.invert(now)))
    return sum(count for status, count in counts.items() if status not in step.passed_over)


def _statuses(
    step: Step, store: Store, file: FileEntry, rows: Fragment
) -> tuple[pa.ChunkedArray, pa.Array | pa.ChunkedArray]:
    """The statuses in `file`, and which of its rows are of those that are made now."""
    assert step.status_column is not None
    now = made_now(step, rows)
    made = read_column_file(store, file, [step.status_column, *(step.chosen_by if isinstance(step, Derive) else ())])
    if isinstance(step, Derive):
        now = pc.is_in(step.keys_of(made), value_set=rows.read(["key"]).column("key").filter(now).combine_chunks())
    return made.column(step.status_column), now


def _counts(statuses: pa.ChunkedArray) -> dict[str, int]:
    return {one["values"]: one["counts"] for one in pc.value_counts(statuses).to_pylist()}


def _or_never(chosen: pa.Array, wanted: pa.Array | pa.ChunkedArray | None) -> pa.Array | pa.ChunkedArray:
    """The rows that are chosen or not wanted at all."""
    return chosen if wanted is None else pc.or_(chosen, pc.invert(wanted))


def _wanted(step: Step, fragment: Fragment) -> tuple[pa.ChunkedArray, pa.Array | pa.ChunkedArray | None]:
    """The keys of a fragment, and which rows the step would work on, shape (rows,), bool; None for all."""
    present = [name for name in step.asks_by if name in fragment.owner]
    rows = fragment.read(["key", *present])
    wanted = step.would_ask(rows)
    if step.standing:
        kept = pc.is_null(step.standing.of_fragment(fragment))
        wanted = kept if wanted is None else pc.and_(wanted, kept)
    return rows.column("key"), wanted


def _candidates(step: Step, dataset: Dataset) -> Iterator[np.ndarray]:
    """The hashes of the keys of rows that the step would work on, fragment by fragment: shape (rows,), uint64."""
    for fragment in step.fragments(dataset):
        keys, wanted = _wanted(step, fragment)
        yield _hashes(keys if wanted is None else keys.filter(wanted))


def _limit(most: int, hashes: Iterator[np.ndarray]) -> int:
    """What the `most` smallest hashes are below of; 2^64 where there are no others."""
    smallest, seen = np.empty(0, np.uint64), 0
    for some in hashes:
        seen += len(some)
        smallest = np.concatenate([smallest, some])
        if len(smallest) > most:
            smallest = np.partition(smallest, most - 1)[:most]
    return _ALL if seen <= most else int(smallest.max()) + 1


def _hashes(keys: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """64 bits of each key's BLAKE2b, the same on every machine: shape (rows,), uint64."""
    made = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys.to_pylist())
    return np.frombuffer(made, dtype=">u8").astype(np.uint64)
