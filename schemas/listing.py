"""The fragment list of one dataset version, read on demand: a sequence over ranges of up to 4096 fragments."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
import pyarrow.compute as pc

from schemas.chunks import Chunk, ChunkRef
from schemas.entries import Count, FileEntry, FragmentEntry
from schemas.errors import CorruptError
from schemas.filetables import FILES, IDS, column_names, groups_of, rows_with, statuses_of
from schemas.store import Store

RANGE = 4096
"""Fragments of a range: what a commit that changes one fragment rewrites, about 350 bytes each."""


class FilesRef(ChunkRef):
    """A chunk of column files, and what they add up to."""

    files: Count
    """Fragments that have the file."""
    data_bytes: Count
    """Bytes of the column files."""
    versions: list[str]
    """Schema versions of the column files."""
    statuses: dict[str, Count]


class RangeRef(ChunkRef):
    """The chunk with ids and rows of a range, and its chunks of column files by name, in the dataset's order."""

    fragments: Count
    rows: Count
    columns: list[str]
    """Columns that every fragment of the range has, as they are stored."""
    files: dict[str, FilesRef]


@dataclass(frozen=True)
class Range:
    """Up to `RANGE` consecutive fragments: their ids, and a chunk for each name of a column file."""

    ref: RangeRef
    ids: Chunk
    files: dict[str, Chunk]

    @classmethod
    def open(cls, ref: RangeRef, store: Store) -> Range:
        """The stored range, of which nothing is read yet."""
        rows = ref.fragments
        files = {name: Chunk(one, FILES, rows, store) for name, one in ref.files.items()}
        return cls(ref, Chunk(ref, IDS, rows, store), files)

    @classmethod
    def of(cls, ids: Chunk, files: dict[str, Chunk], old: Range | None = None) -> Range:
        """The range that these chunks make up; sums of chunks that `old` has too are taken from there."""
        known = {one.path: one for one in old.ref.files.values()} if old else {}
        files = {name: chunk for name, chunk in files.items() if known.get(chunk.ref.path) or chunk.present.any()}
        refs = {name: known.get(chunk.ref.path) or _files_ref(chunk) for name, chunk in files.items()}
        same = old is not None and list(old.ref.files.items()) == list(refs.items())
        columns = old.ref.columns if same and old else _common_columns(list(files.values()))
        rows = int(np.sum(ids.table.column("rows").to_numpy()))
        sums = {"fragments": ids.rows, "rows": rows, "columns": columns, "files": refs}
        return cls(RangeRef(**_plain(ids.ref), **sums), ids, files)

    @property
    def chunks(self) -> list[Chunk]:
        return [self.ids, *self.files.values()]

    @cached_property
    def row_counts(self) -> list[int]:
        return self.ids.table.column("rows").to_pylist()

    def fragment(self, row: int) -> FragmentEntry:
        return FragmentEntry(id=self.ids.ids[row], rows=self.row_counts[row], files=Files(self, row))


class Files(Mapping[str, FileEntry]):
    """The column files of one fragment, by name, read on demand. Pickled, it is a dict."""

    __slots__ = ("range", "row")

    def __init__(self, range_: Range, row: int):
        self.range, self.row = range_, row

    def __getitem__(self, name: str) -> FileEntry:
        entry = self.range.files[name].file(self.row)
        if entry is None:
            raise KeyError(name)
        return entry

    def __contains__(self, name: object) -> bool:
        chunk = self.range.files.get(name)  # type: ignore[call-overload]
        return chunk is not None and bool(chunk.present[self.row])

    def __iter__(self) -> Iterator[str]:
        return (name for name, chunk in self.range.files.items() if chunk.present[self.row])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def fingerprint(self, name: str) -> str | None:
        """The fingerprint of one file, None when the fragment lacks it: without making its entry."""
        chunk = self.range.files.get(name)
        return chunk.fingerprints[self.row] if chunk is not None else None

    def layout(self, name: str) -> tuple[str, tuple[str, ...]]:
        """(version, columns) of one file: without making its entry. Raises KeyError when the fragment lacks it."""
        found = self.range.files[name].layouts[self.row]
        if found is None:
            raise KeyError(name)
        return found

    def is_row_of(self, other: Files, name: str) -> bool:
        """Whether both are the same row of one chunk: then the file is the same, and neither need be read."""
        mine, theirs = self.range.files.get(name), other.range.files.get(name)
        return (
            self.row == other.row and mine is not None and theirs is not None and mine.ref.sha256 == theirs.ref.sha256
        )

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


class Fragments(Sequence[FragmentEntry]):
    """`manifest.fragments`: length, index and iteration; an entry is made when it is asked for."""

    def __init__(self, ranges: list[Range]):
        self.ranges = ranges
        self._ends = np.cumsum([one.ref.fragments for one in ranges], dtype=np.int64).tolist()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> FragmentEntry: ...
    @overload
    def __getitem__(self, index: slice) -> list[FragmentEntry]: ...
    def __getitem__(self, index: int | slice) -> FragmentEntry | list[FragmentEntry]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"fragment {index} of {len(self)}")
        which, row = self.locate(number)
        return self.ranges[which].fragment(row)

    def locate(self, number: int) -> tuple[int, int]:
        """The range of a fragment, and the fragment's place in it."""
        which = bisect_right(self._ends, number)
        return which, number - (self._ends[which - 1] if which else 0)

    def files(self, number: int) -> Files:
        which, row = self.locate(number)
        return Files(self.ranges[which], row)

    def __iter__(self) -> Iterator[FragmentEntry]:
        for one in self.ranges:
            for row in range(one.ref.fragments):
                yield one.fragment(row)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Fragments):
            return [one.ref for one in self.ranges] == [one.ref for one in other.ranges]
        return isinstance(other, list) and list(self) == other

    __hash__ = None  # type: ignore[assignment]

    @property
    def row_counts(self) -> np.ndarray:
        """Rows of every fragment, shape (fragments,), int64. Raises CorruptError when the head counts others."""
        parts = [one.ids.table.column("rows").to_numpy() for one in self.ranges]
        for one, counts in zip(self.ranges, parts, strict=True):
            if (found := int(np.sum(counts))) != one.ref.rows:
                raise CorruptError(
                    f"{one.ref.path}: {found} rows, and the manifest that names it says {one.ref.rows}. The manifest "
                    "was edited: restore it, or remove it to return to the one before."
                )
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    @property
    def ids(self) -> list[str]:
        return [name for one in self.ranges for name in one.ids.ids]

    def statuses(self, name: str) -> dict[str, int]:
        """Status -> rows of one column-file name, the most frequent first."""
        counts: Counter[str] = Counter()
        for one in self.ranges:
            if name in one.ref.files:
                counts.update(one.ref.files[name].statuses)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def having(self, name: str, statuses: Collection[str]) -> Iterator[int]:
        """The numbers of the fragments whose file of one name has rows with one of `statuses`, ascending.

        Reads the chunks of those ranges alone that count such rows.
        """
        start = 0
        for one in self.ranges:
            if name in one.ref.files and not one.ref.files[name].statuses.keys().isdisjoint(statuses):
                yield from (start + row for row in rows_with(one.files[name].table, statuses).tolist())
            start += one.ref.fragments

    def groups(self, name: str, most: int, rest: str) -> dict[str, dict[str, int]]:
        """Group -> status -> rows of one name, the largest `most` groups first; the others are added to `rest`."""
        counts: dict[str, Counter[str]] = {}
        for one in self.ranges:
            for (group, status), rows in groups_of(one.files[name].table).items() if name in one.files else ():
                counts.setdefault(group, Counter())[status] += rows
        order = sorted(counts, key=lambda group: (-counts[group].total(), group))
        for group in [group for group in order if group != rest][most:]:
            counts.setdefault(rest, Counter()).update(counts.pop(group))
        order = sorted(counts, key=lambda group: (-counts[group].total(), group))
        return {group: dict(sorted(counts[group].items(), key=lambda item: (-item[1], item[0]))) for group in order}

    def columns(self) -> list[str]:
        """Columns that every fragment has, as they are stored, in the order of the first range."""
        if not self.ranges:
            return []
        common = set.intersection(*(set(one.ref.columns) for one in self.ranges))
        return [name for name in self.ranges[0].ref.columns if name in common]


def layouts(files: list[Chunk]) -> list[list[tuple[str, str] | None]]:
    """The distinct ways in which fragments are made up: (version, columns) of each file, None where it is absent."""
    if not files:
        return []
    encoded = [chunk.table.column(name).combine_chunks() for chunk in files for name in ("version", "columns")]
    codes = np.stack([pc.fill_null(column.indices, -1).to_numpy() for column in encoded])
    first = np.sort(np.unique(codes, axis=1, return_index=True)[1])
    words = [column.dictionary.to_pylist() for column in encoded]
    texts: list[list[Any]] = [
        [words[index][code] if code >= 0 else None for index, code in enumerate(codes[:, row])] for row in first
    ]
    return [
        [None if columns is None else (version, columns) for version, columns in zip(one[::2], one[1::2], strict=True)]
        for one in texts
    ]


def _common_columns(files: list[Chunk]) -> list[str]:
    found = [
        list(dict.fromkeys(column for pair in layout if pair is not None for column in column_names(pair[1])))
        for layout in layouts(files)
    ]
    common = set.intersection(*(set(columns) for columns in found)) if found else set()
    return [column for column in found[0] if column in common] if found else []


def _files_ref(chunk: Chunk) -> FilesRef:
    counts = {
        "versions": sorted(pc.unique(chunk.table.column("version").drop_null()).to_pylist()),
        "files": int(chunk.present.sum()),
        "data_bytes": pc.sum(chunk.table.column("bytes")).as_py() or 0,
        "statuses": dict(sorted(statuses_of(chunk.table).items())),
    }
    return FilesRef(**_plain(chunk.ref), **counts)


def _plain(ref: ChunkRef) -> dict[str, Any]:
    return {name: getattr(ref, name) for name in ChunkRef.model_fields}
