"""Writes a whole new dataset at once, for converters and tests. Pipelines use steps instead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas import manifest as manifests
from schemas.columnfile import BATCH_ROWS, column_path, write_column_file
from schemas.commit import Change, commit
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.manifest import FragmentEntry
from schemas.records import version_text
from schemas.store import TEMPORARY, Store


def write_dataset(
    path: str | Path,
    schema_name: str,
    tables: Iterable[pa.Table],
    info: dict[str, Any] | None = None,
    batch_rows: int = BATCH_ROWS,
) -> Dataset:
    """Write each table as one fragment and commit them; raises InputError when `path` already holds a dataset.

    Columns besides those of the schema are kept. The fingerprint of a base file is the sha256 of its bytes.
    """
    store = Store(path)
    if manifests.numbers(store):
        raise InputError(f"{store.root}: a dataset already exists here. Choose another folder or delete this one.")
    fragments = [write_fragment(store, schema_name, number, table, batch_rows) for number, table in enumerate(tables)]
    change = Change(
        base=0, schema_version=version_text(schema_name), fragments=fragments, info=info or {}, message="written whole"
    )
    return Dataset(store, commit(store, change))


def write_fragment(
    store: Store,
    schema_name: str,
    number: int,
    table: pa.Table,
    batch_rows: int = BATCH_ROWS,
    status_column: str | None = None,
) -> FragmentEntry:
    """Write `table` as the base file of a new fragment, the `number`th of its dataset; a commit makes it part of it."""
    draft = f"fragments/{number:04d}{TEMPORARY}base"
    batches = table.combine_chunks().to_batches(max_chunksize=batch_rows)
    entry = write_column_file(
        store, draft, batches, table.schema, schema_name, fingerprint="", status_column=status_column
    )
    fragment = f"{number:04d}-{entry.sha256[:8]}"
    final = column_path(fragment, "base", entry.sha256)
    store.move(draft, final)
    entry = replace(entry, path=final, fingerprint=entry.sha256, plan=entry.sha256)
    return FragmentEntry(id=fragment, rows=entry.rows, files={"base": entry})
