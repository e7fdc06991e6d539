"""Decides which captions are drawn: pure functions on blocks of rows, which Beam groups.

A *mention* is one phrase of one caption. A phrase is *frequent* when more captions mention it than it may draw; one
that is not draws all of its captions, whatever the order of phrases. So only frequent phrases have to take turns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipelines.engine.blocks import block_of

MENTIONS = pa.schema([("row", pa.int64()), ("phrase", pa.uint64()), ("draw", pa.uint64()), ("place", pa.int32())])
"""The row's number, the phrase's hash, when the row is drawn for it (the smallest first), its place in the row."""

COUNTED = pa.schema([*MENTIONS, ("count", pa.int32()), ("drawn", pa.bool_())])
"""A mention of a phrase that draws, how many captions mention it, and whether that phrase alone draws the row."""

VERDICTS = pa.schema([("row", pa.int64()), ("place", pa.int32()), ("count", pa.int32()), ("drawn", pa.bool_())])
"""The place and count of a row's rarest phrase among those that draw, and whether the row is drawn."""

CANDIDATES = pa.schema([("row", pa.int64()), ("phrase", pa.uint64()), ("count", pa.int32()), ("draw", pa.uint64())])
"""A frequent phrase of a row that is not in the pool yet."""

HELD = pa.schema([("phrase", pa.uint64()), ("rows", pa.int64())])
"""How many rows of the pool mention a frequent phrase."""


def text_hashes(texts: Sequence[str], salt: str = "") -> np.ndarray:
    """64 bits for each text and `salt`, the same in any process: uint64, shape (texts,)."""
    key = salt.encode()
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest() for text in texts)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def draws(rows: np.ndarray, phrases: np.ndarray) -> np.ndarray:
    """When each row is drawn for a phrase: uint64 of the two hashes, in another order for every phrase.

    The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), which is a bijection.
    """
    mixed = rows ^ (phrases * np.uint64(0x9E3779B97F4A7C15))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def counted(mentions: pa.RecordBatch, least: int, most: int, union: bool) -> pa.RecordBatch:
    """The mentions (`COUNTED`) of phrases that draw, given all mentions of some phrases.

    `union`: a frequent phrase draws `most` of its rows here; otherwise none yet.
    """
    order = np.lexsort([mentions.column("draw").to_numpy(), mentions.column("phrase").to_numpy()])
    phrase = mentions.column("phrase").to_numpy()[order]
    starts, counts = _runs(phrase)
    turn = np.arange(len(phrase)) - np.repeat(starts, counts)
    count = np.repeat(counts, counts)
    drawn = (turn < most) if union else (count <= most)
    kept = count >= least
    found = mentions.take(pa.array(order[kept]))
    return pa.RecordBatch.from_arrays(
        [*found.columns, pa.array(count[kept], pa.int32()), pa.array(drawn[kept])], schema=COUNTED
    )


def verdicts(mentions: pa.RecordBatch) -> pa.RecordBatch:
    """`VERDICTS`, ascending by row, given all `COUNTED` mentions of some rows."""
    columns = [mentions.column(name).to_numpy() for name in ("phrase", "count", "row")]
    order = np.lexsort(columns)
    starts, _ = _runs(columns[2][order])
    drawn = mentions.column("drawn").to_numpy(zero_copy_only=False)[order]
    rarest = mentions.take(pa.array(order[starts]))
    any_drawn = np.logical_or.reduceat(drawn, starts) if len(starts) else drawn
    return pa.RecordBatch.from_arrays(
        [rarest.column("row"), rarest.column("place"), rarest.column("count"), pa.array(any_drawn)], schema=VERDICTS
    )


def open_turns(mentions: pa.RecordBatch, most: int) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """(`CANDIDATES`, `HELD`) that frequent phrases have among some rows, given all of their `COUNTED` mentions."""
    found = verdicts(mentions)
    pool = found.column("row").to_numpy()[found.column("drawn").to_numpy(zero_copy_only=False)]
    frequent = mentions.filter(pa.array(mentions.column("count").to_numpy() > most))
    held = np.isin(frequent.column("row").to_numpy(), pool)
    phrases, rows = np.unique(frequent.column("phrase").to_numpy()[held], return_counts=True)
    return frequent.filter(pa.array(~held)).select(CANDIDATES.names), block_of({"phrase": phrases, "rows": rows})


def fill(candidates: pa.RecordBatch, held: pa.RecordBatch, most: int) -> np.ndarray:
    """The rows that frequent phrases draw in turn, the rarest phrase first: int64, ascending, each once.

    A phrase draws until `most` rows of the pool mention it. Phrases of one count take turns by their hash.
    """
    row, phrase, count, draw = (candidates.column(name).to_numpy() for name in CANDIDATES.names)
    order = np.lexsort([draw, phrase, count])
    row, phrase = row[order], phrase[order]
    rows, place = np.unique(row, return_inverse=True)
    starts, counts = _runs(phrase)
    turn = np.repeat(np.arange(len(starts)), counts)
    pool = _held(phrase[starts] if len(starts) else phrase, held)
    by_row = np.argsort(place, kind="stable")
    row_starts = np.searchsorted(place[by_row], np.arange(len(rows) + 1))
    phrases_of, drawn = turn[by_row], np.zeros(len(rows), bool)
    for number, (start, length) in enumerate(zip(starts.tolist(), counts.tolist(), strict=True)):
        needed = most - pool[number]
        if needed <= 0:
            continue
        own = place[start : start + length]
        taken = own[~drawn[own]][:needed]
        drawn[taken] = True
        for first, last in zip(row_starts[taken].tolist(), row_starts[taken + 1].tolist(), strict=True):
            pool[phrases_of[first:last]] += 1
    return rows[drawn]


def _held(phrases: np.ndarray, held: pa.RecordBatch) -> np.ndarray:
    """How many rows of the pool mention each of `phrases`, each of which is once there: int64."""
    order = np.argsort(phrases)
    known, rows = held.column("phrase").to_numpy(), held.column("rows").to_numpy()
    index = np.searchsorted(phrases[order], known)
    present = index < len(phrases)
    present[present] = phrases[order][index[present]] == known[present]
    total = np.zeros(len(phrases), np.int64)
    np.add.at(total, order[index[present]], rows[present])
    return total


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(where runs of equal values start, how long they are), int64."""
    if not len(values):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    starts = np.append(0, np.flatnonzero(values[1:] != values[:-1]) + 1)
    return starts, np.diff(np.append(starts, len(values)))
