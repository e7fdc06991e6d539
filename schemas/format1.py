"""Manifests of folder format 1, whose file list is JSON: still read, no longer written."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from schemas.chunks import Chunk, check_inside
from schemas.entries import FragmentEntry
from schemas.filetables import FILES, IDS, files_table, ids_table
from schemas.listing import RANGE, Range

_ENTRIES = TypeAdapter(list[FragmentEntry])


def ranges_of(listed: Any, where: str) -> tuple[list[Range], list[str]]:
    """The ranges that a manifest's `fragments` make up, and the names of its column files in their order.

    Raises pydantic's ValidationError for entries that lack something, CorruptError for paths outside the dataset.
    """
    ranges: list[Range] = []
    names: dict[str, None] = {}
    for start in range(0, len(listed) if isinstance(listed, list) else 1, RANGE):
        entries = _ENTRIES.validate_python(listed[start : start + RANGE] if isinstance(listed, list) else listed)
        for entry in entries:
            names.update(dict.fromkeys(entry.files))
        ranges.append(range_of(entries, list(names)))
        for chunk in ranges[-1].chunks:
            check_inside(chunk.table, where)
    return ranges, list(names)


def range_of(entries: list[FragmentEntry], names: list[str]) -> Range:
    """One range with exactly these entries, whose file names are among `names`."""
    ids = Chunk.of("fragments", ids_table([entry.id for entry in entries], [entry.rows for entry in entries]), IDS)
    files = {}
    for name in names:
        column = [entry.files.get(name) for entry in entries]
        if any(file is not None for file in column):
            files[name] = Chunk.of(name, files_table(column), FILES)
    return Range.of(ids, files)
