"""The differences between two mixes: rows, turns and tokens per source, and their settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.dataset import Dataset, Fragment
from schemas.errors import InputError
from schemas.lookup import hashes

COLUMNS = ["key", "messages", "tokens"]


@dataclass(frozen=True)
class SourceDiff:
    """Two versions of one source, each (first mix, second mix).

    added, removed, changed: rows whose keys only the second mix has, only the first one has, or whose text or length
    differs; None where one side is not made yet, but only planned.
    """

    source: str
    rows: tuple[int, int]
    turns: tuple[int, int]
    tokens: tuple[int, int]
    added: int | None = None
    removed: int | None = None
    changed: int | None = None


@dataclass(frozen=True)
class Contents:
    """The rows of one source of a mix: hashes of keys and of contents (uint64), tokens; each of shape (rows,)."""

    keys: np.ndarray
    content: np.ndarray
    tokens: np.ndarray
    turns: int


def diff_mixes(first: Dataset, second: Dataset) -> list[SourceDiff]:
    """A comparison of every source of two mixes, by the keys of their rows. Reads all text once: 28 bytes a row."""
    a, b = contents_of(first), contents_of(second)
    return [_compared(name, a.get(name, _EMPTY), b.get(name, _EMPTY)) for name in dict.fromkeys([*a, *b])]


def contents_of(mix: Dataset) -> dict[str, Contents]:
    """The rows of a mix by source. Raises InputError for a dataset that no mix made."""
    names = list(settings_of(mix)["sources"])
    parts: dict[str, list[Contents]] = {name: [] for name in names}
    for fragment in mix.fragments:
        fitting = [name for name in names if fragment.id.startswith(f"{name}-")]
        parts[max(fitting, key=len)].append(_of_fragment(fragment))
    return {name: _joined(found) for name, found in parts.items()}


def settings_of(mix: Dataset) -> dict[str, Any]:
    """The recipe that a mix was made with. Raises InputError for a dataset that no mix made."""
    entry = mix.manifest.steps.get("base")
    if entry is None or entry.name != "mix":
        raise InputError(f"{mix.path}: a {mix.schema_name} dataset that no mix made. Give the folder of a mix.")
    return dict(entry.config)


def changed_settings(first: Mapping[str, Any], second: Mapping[str, Any], under: str = "") -> Iterator[tuple]:
    """(dotted key, first value, second value) of every setting that differs; None for one that is not there."""
    for key in dict.fromkeys([*first, *second]):
        mine, other = first.get(key), second.get(key)
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            yield from changed_settings(mine, other, f"{under}{key}.")
        elif mine != other:
            yield f"{under}{key}", mine, other


_EMPTY = Contents(np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.int64), 0)


def _compared(name: str, a: Contents, b: Contents) -> SourceDiff:
    _, mine, other = np.intersect1d(a.keys, b.keys, assume_unique=True, return_indices=True)
    return SourceDiff(
        name,
        (len(a.keys), len(b.keys)),
        (a.turns, b.turns),
        (int(a.tokens.sum()), int(b.tokens.sum())),
        added=len(b.keys) - len(other),
        removed=len(a.keys) - len(mine),
        changed=int((a.content[mine] != b.content[other]).sum()),
    )


def _of_fragment(fragment: Fragment) -> Contents:
    table = fragment.read(COLUMNS)
    messages = _flat(table.column("messages"))
    tokens = table.column("tokens").to_numpy().astype(np.int64)
    turns = pc.sum(pc.equal(messages.flatten().field("role"), "user")).as_py() or 0
    return Contents(hashes(_flat(table.column("key"))), _content(messages, tokens), tokens, turns)


def _content(messages: pa.ListArray, tokens: np.ndarray) -> np.ndarray:
    """A hash of each row's texts, in their order, and of its length: uint64, shape (rows,)."""
    parts = messages.flatten().field("content")
    texts = parts.flatten().field("text").fill_null("")
    per_message = np.asarray(parts.value_lengths().fill_null(0))
    ends = np.r_[0, np.cumsum(per_message)][np.r_[0, np.cumsum(np.asarray(messages.value_lengths().fill_null(0)))]]
    place = np.arange(len(texts), dtype=np.uint64) - np.repeat(ends[:-1], np.diff(ends)).astype(np.uint64)
    # Odd factors that differ by place: the sum of a row depends on the order of its texts.
    mixed = hashes(texts) * (place * np.uint64(0x9E3779B97F4A7C16) + np.uint64(1))
    sums = np.r_[np.uint64(0), np.cumsum(mixed, dtype=np.uint64)]
    return sums[ends[1:]] - sums[ends[:-1]] + tokens.astype(np.uint64)


def _joined(parts: list[Contents]) -> Contents:
    if not parts:
        return _EMPTY
    arrays = [np.concatenate([getattr(one, name) for one in parts]) for name in ("keys", "content", "tokens")]
    return Contents(arrays[0], arrays[1], arrays[2], sum(one.turns for one in parts))


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
