"""Finds all damage in a dataset's files. Bytes are compared with their sha256 before anything parses them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas import manifest as manifests
from schemas.chunks import Chunk
from schemas.columnfile import check_sha256, current_columns, read_column_file
from schemas.errors import CorruptError, LavaBeamError
from schemas.listing import Range
from schemas.manifest import FileEntry

if TYPE_CHECKING:
    from schemas.dataset import Dataset

KINDS = ("missing", "cut", "wrong bytes", "foreign", "unreadable")
"""Of damage: not there; shorter than written; other bytes; whole, but not what the manifest takes it for; not to be
read at all (rights, a broken disk)."""


@dataclass(frozen=True)
class Damage:
    """One file that is not as the manifest says."""

    kind: str
    path: str
    """Of the file, beginning as the dataset's own path does."""
    fragment: str
    """The fragment's id; empty for a part of the list of files."""
    step: str
    """The name of the column file, empty as above."""
    message: str


def damages(dataset: Dataset) -> Iterator[Damage]:
    """Every damaged file of one version: parts of its list first, then column files. Reads every byte.

    Where a part of the list is damaged, the column files that it lists are unknown and not looked at.
    """
    manifest, store = dataset.manifest, dataset.store
    found = [
        Damage(error.kind, store.path(chunk.ref.path), "", "", str(error))
        for one in manifest.fragments.ranges
        for chunk in one.chunks
        if (error := _chunk_error(chunk)) is not None
    ]
    yield from found
    head = store.path(manifests.file_name(manifest.number))
    if not found:
        yield from (Damage("foreign", head, "", "", line) for line in manifests.contradictions(manifest, head))
    for number, one in enumerate(manifest.fragments.ranges):
        yield from _range_damages(dataset, number, one)


def check_bytes(dataset: Dataset) -> None:
    """Raise CorruptError for the first column file whose length or sha256 is not the manifest's; nothing is parsed."""
    for fragment in dataset.fragments:
        for entry in fragment.entry.files.values():
            check_sha256(dataset.store, entry)


def _chunk_error(chunk: Chunk) -> CorruptError | None:
    try:
        _ = chunk.table
    except CorruptError as error:
        return error
    return None


def _range_damages(dataset: Dataset, number: int, one: Range) -> Iterator[Damage]:
    named = _chunk_error(one.ids) is None
    files = {name: chunk for name, chunk in one.files.items() if _chunk_error(chunk) is None}
    if not files:
        return  # nothing says how many fragments there are but the head, which was written to match no chunk
    for row in range(one.ref.fragments):
        fragment = one.ids.ids[row] if named else f"{row} of range {number}"
        rows = one.row_counts[row] if named else None
        for name, chunk in files.items():
            entry = chunk.file(row)
            if entry is None:
                continue
            try:
                _check_file(dataset, entry, rows)
            except LavaBeamError as error:
                kind = getattr(error, "kind", "foreign")
                yield Damage(kind, dataset.store.path(entry.path), fragment, name, str(error))


def _check_file(dataset: Dataset, entry: FileEntry, rows: int | None) -> None:
    store = dataset.store
    check_sha256(store, entry)
    table = read_column_file(store, entry)
    if rows not in (None, entry.rows) or table.column_names != current_columns(store, entry):
        raise CorruptError(
            f"{store.path(entry.path)}: {entry.rows} rows and columns {table.column_names}, other than its fragment's."
        )
