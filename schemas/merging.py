"""Merges a change into the newest fragment list, range by range; untouched ranges are not read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.chunks import Chunk
from schemas.entries import FileEntry, FragmentEntry
from schemas.errors import CorruptError
from schemas.filetables import FILES, IDS, ids_table, no_files, take_files, with_entries
from schemas.listing import RANGE, Files, Fragments, Range
from schemas.manifest import Manifest

Changed = Mapping[str, Mapping[str, FileEntry]]
"""Fragment id -> file name -> entry."""
Rows = dict[int, FileEntry]
"""Row of a range -> the entry that it gets."""


class Conflict(Exception):
    """What another writer committed that a change cannot be merged with, in words."""


def check_disjoint(
    listed: Sequence[FragmentEntry] | None, changed: Changed, start: Manifest | None, newest: Manifest
) -> None:
    """Raises Conflict when `newest` has other files than `start` where the change has files of its own, or reads."""
    after, before = newest.fragments, start.fragments if start else Fragments([])
    if listed is not None and before.ids != after.ids:
        theirs = [(entry.id, entry.files["base"].fingerprint) for entry in after]
        if [(entry.id, entry.files["base"].fingerprint) for entry in listed] != theirs:
            raise Conflict("another list of fragments")
    positions, positions_before = (_positions(after), _positions(before)) if changed else ({}, {})
    for fragment, files in changed.items():
        if fragment not in positions:
            raise Conflict(f"a list without fragment {fragment}")
        was = before.files(positions_before[fragment]) if fragment in positions_before else None
        for name, entry in files.items():
            _check_file(fragment, name, entry, files, after.files(positions[fragment]), was)


def _check_file(
    fragment: str, name: str, entry: FileEntry, ours: Mapping[str, FileEntry], theirs: Files, was: Files | None
) -> None:
    found = theirs.fingerprint(name)
    replaced = found not in (None, entry.fingerprint) and not (was is not None and theirs.is_row_of(was, name))
    if replaced and (was is None or was.get(name) != theirs[name]):
        raise Conflict(f"another {name!r} for fragment {fragment}")
    for source, fingerprint in entry.inputs.items():
        if source not in ours and theirs.fingerprint(source) not in (fingerprint, None):
            raise Conflict(f"another {source!r}, which {name!r} was made from")


def merged(
    listed: Sequence[FragmentEntry] | None, changed: Changed, start: Manifest | None, newest: Manifest | None
) -> tuple[list[Range], list[str]]:
    """The newest ranges with our files, less the files whose inputs are no longer the ones they were made from.

    Also the names of all column files, in their order. Without `listed` the fragments stay as they are. A listed file
    that is as it was at `start` is not a change: where another writer replaced it since, theirs stays.
    """
    present = newest.fragments if newest else Fragments([])
    names = dict.fromkeys(newest.names if newest else [])
    for files in (*(entry.files for entry in listed or ()), *changed.values()):
        names.update(dict.fromkeys(files))
    if listed is None:
        positions = _positions(present) if changed else {}
        return _with_changed(present, changed, positions, list(names)), list(names)
    positions = _positions(present)
    before = start if start is not None and newest is not None and start.number != newest.number else None
    unchanged = _Unchanged(before.fragments if before else present)
    cut = [listed[start : start + RANGE] for start in range(0, len(listed), RANGE)]
    return [_relisted(part, changed, present, positions, list(names), unchanged) for part in cut], list(names)


def _positions(fragments: Fragments) -> dict[str, int]:
    """Fragment id -> its number. Raises CorruptError when two fragments share an id."""
    ids = fragments.ids
    positions = {name: number for number, name in enumerate(ids)}
    if len(positions) < len(ids):
        twice = next(name for number, name in enumerate(ids) if positions[name] != number)
        raise CorruptError(f"the manifest lists fragment {twice!r} twice, expected once. Return to the version before.")
    return positions


def _with_changed(present: Fragments, changed: Changed, positions: dict[str, int], names: list[str]) -> list[Range]:
    """The ranges with other files in some fragments."""
    by_range: dict[int, dict[str, Rows]] = {}
    for fragment, files in changed.items():
        if fragment in positions:
            which, row = present.locate(positions[fragment])
            _add(by_range.setdefault(which, {}), row, files)
    return [
        _overlaid(one, one.ids, {name: one.files.get(name) for name in names}, by_range[number])
        if number in by_range
        else one
        for number, one in enumerate(present.ranges)
    ]


def _relisted(
    part: Sequence[FragmentEntry],
    changed: Changed,
    present: Fragments,
    positions: dict[str, int],
    names: list[str],
    unchanged: _Unchanged,
) -> Range:
    """One range of a new list: files that the fragments have already, those listed with them, and the changed ones."""
    rows = np.array([positions.get(entry.id, -1) for entry in part], np.int64)
    overlay: dict[str, Rows] = {}
    for row, entry in enumerate(part):
        for name in entry.files:
            if rows[row] < 0 or not unchanged(entry.files, name, entry.id, int(rows[row])):
                overlay.setdefault(name, {})[row] = entry.files[name]
        _add(overlay, row, changed.get(entry.id, {}))
    ids = ids_table([entry.id for entry in part], [entry.rows for entry in part])
    old = _same_range(present, rows)
    if old is not None:
        files = {name: old.files.get(name) for name in names}
        return _overlaid(old, Chunk.of("fragments", ids, IDS), files, overlay)
    tables = {name: _gathered(present, name, rows) for name in names}
    gathered = {name: Chunk.of(name, table, FILES) if table is not None else None for name, table in tables.items()}
    return _overlaid(None, Chunk.of("fragments", ids, IDS), gathered, overlay)


class _Unchanged:
    """Whether a listed file is the one that `fragments` has: found by chunk where possible, else by its entry."""

    def __init__(self, fragments: Fragments):
        self.fragments = fragments
        self._positions: dict[str, int] | None = None

    def __call__(self, files: Mapping[str, FileEntry], name: str, fragment: str, index: int) -> bool:
        if self._positions is None:
            self._positions = _positions(self.fragments)
        if fragment not in self._positions:
            return False
        was = self.fragments.files(self._positions[fragment])
        if isinstance(files, Files) and files.is_row_of(was, name):
            return True
        return was.get(name) == files[name]


def _add(overlay: dict[str, Rows], row: int, files: Mapping[str, FileEntry]) -> None:
    for name, entry in files.items():
        overlay.setdefault(name, {})[row] = entry


def _same_range(present: Fragments, rows: np.ndarray) -> Range | None:
    """The range whose fragments these are, all of them and in their order."""
    if rows[0] < 0:
        return None
    which, first = present.locate(int(rows[0]))
    one = present.ranges[which]
    whole = first == 0 and len(rows) == one.ref.fragments
    return one if whole and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))) else None


def _gathered(present: Fragments, name: str, rows: np.ndarray) -> pa.Table | None:
    """The files of any fragments, by number, -1 for a new one; None when none of them has such a file."""
    positions = [present.locate(int(row)) if row >= 0 else (-1, -1) for row in rows]
    used = [which for which in sorted({which for which, _ in positions}) if which >= 0]
    used = [which for which in used if name in present.ranges[which].files]
    if not used:
        return None
    starts = dict(zip(used, np.cumsum([0, *(present.ranges[which].ref.fragments for which in used)]), strict=False))
    table = pa.concat_tables([take_all(present.ranges[which].files[name]) for which in used])
    taken = np.array([starts[which] + row if which in starts else -1 for which, row in positions], np.int64)
    return take_files(table, taken)


def take_all(chunk: Chunk) -> pa.Table:
    return take_files(chunk.table, np.arange(chunk.rows))


def _overlaid(old: Range | None, ids: Chunk, files: Mapping[str, Chunk | None], overlay: Mapping[str, Rows]) -> Range:
    """A range whose `files` get the entries of `overlay`, and lose those that became stale by it."""
    chunks = {name: chunk for name, chunk in files.items() if chunk is not None or name in overlay}
    touched = set(overlay) if old is not None else set(chunks)
    tables: dict[str, pa.Table] = {}
    for name, entries in overlay.items():
        chunk = chunks[name]
        tables[name] = with_entries(chunk.table if chunk is not None else no_files(ids.rows), entries)
    stale = _without_stale({name: tables.get(name, chunk) for name, chunk in chunks.items()}, touched)
    tables.update(stale)
    made = {
        name: Chunk.of(name, tables[name], FILES) if name in tables else chunk
        for name, chunk in chunks.items()
        if name in tables or chunk is not None
    }
    return Range.of(ids, {name: chunk for name, chunk in made.items() if chunk is not None}, old)


def _without_stale(files: dict[str, pa.Table | Chunk], touched: set[str]) -> dict[str, pa.Table]:
    """The tables that lose files: those whose inputs are not, or not as, the fragment has them now."""
    tables = {name: one.table if isinstance(one, Chunk) else one for name, one in files.items()} if touched else {}
    changed: dict[str, pa.Table] = {}
    searching = bool(tables)
    while searching:
        searching = False
        for name, table in tables.items():
            stale = _stale_rows(table, tables)
            if stale.any():
                rows = np.where(stale, -1, np.arange(table.num_rows))
                tables[name] = changed[name] = take_files(table, rows)
                searching = True
    return changed


def _stale_rows(table: pa.Table, tables: Mapping[str, pa.Table]) -> np.ndarray:
    """Which rows were made from another file than their fragment has now, shape (rows,), bool."""
    inputs = table.column("inputs").combine_chunks()
    stale = np.zeros(table.num_rows, bool)
    for source in pc.unique(inputs.keys).to_pylist() if len(inputs) else []:
        made_from = pc.map_lookup(inputs, pa.scalar(source), "first")
        has = tables[source].column("fingerprint") if source in tables else pa.nulls(len(inputs), pa.string())
        same = pc.fill_null(pc.equal(has, made_from), False)
        stale |= pc.and_not(made_from.is_valid(), same).to_numpy(zero_copy_only=False)
    return stale
