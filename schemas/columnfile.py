"""One column file: an uncompressed Arrow IPC stream with the rows of one fragment, in order.

A truncated stream reads without an error, so the number of rows and of bytes is compared on every open. Damage that
leaves both as they are, and the values valid, is seen by who compares sha256: `verify`, and reading with `checked`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import pyarrow as pa

from schemas.arrowstream import damaged, read_stream
from schemas.errors import CorruptError, SchemaError
from schemas.manifest import FileEntry
from schemas.records import BASE, CURRENT, file_schema, is_current, parse_version, upgrade, version_text
from schemas.store import Store

COUNTS = b"lavabeam.counts"
BATCH_ROWS = 64
"""Rows per record batch: what one step holds in memory at a time (64 photographs of 100 KB are 6 MB)."""


def column_path(fragment: str, name: str, fingerprint: str) -> str:
    """Where the column file of step `name` with that fingerprint lies, relative to the dataset."""
    return f"fragments/{fragment}/{name}.{fingerprint[:16]}.arrow"


def write_column_file(
    store: Store,
    path: str,
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    schema_name: str,
    *,
    fingerprint: str,
    plan: str = "",
    inputs: dict[str, str] | None = None,
    status_column: str | None = None,
    counted_by: str | None = None,
    counts: dict[str, int] | None = None,
) -> FileEntry:
    """Write `batches` as they come and return the entry for the manifest. Nothing appears when a batch raises.

    Statuses are counted from `status_column`, all together and for each value of the column `counted_by`; a file
    without a status column may carry its own `counts`.
    """
    schema = file_schema(schema, schema_name)
    if counts is not None:
        schema = schema.with_metadata({**schema.metadata, COUNTS: json.dumps(counts, sort_keys=True)})
    rows, statuses, groups = 0, Counter[str](), Groups()
    with store.write(path) as file:
        sink = _Hashing(file)
        with pa.ipc.new_stream(pa.PythonFile(sink, "w"), schema) as writer:
            for made in batches:
                batch = _conform(made, schema, path)
                rows += batch.num_rows
                if status_column:
                    statuses.update(batch.column(status_column).to_pylist())
                if status_column and counted_by:
                    groups.add(batch.column(counted_by).to_pylist(), batch.column(status_column).to_pylist())
                writer.write_batch(batch)
    return FileEntry(
        path=path,
        fingerprint=fingerprint,
        plan=plan or fingerprint,
        inputs=inputs or {},
        version=version_text(schema_name),
        columns=schema.names,
        rows=rows,
        bytes=sink.size,
        sha256=sink.digest.hexdigest(),
        statuses=dict(sorted((counts or statuses).items())),
        groups=groups.largest(),
    )


def describe_column_file(
    store: Store,
    path: str,
    *,
    fingerprint: str,
    plan: str,
    inputs: dict[str, str],
    rows: int | None,
    status_column: str | None,
    counted_by: str | None = None,
) -> FileEntry | None:
    """The entry of a finished file that no manifest names yet (its run was killed); None when it must be made again."""
    try:
        table = read_stream(store.open_arrow(path), store.path(path))
    except CorruptError:
        table = None
    if table is None or rows not in (None, table.num_rows):
        store.remove(path)
        return None
    statuses = Counter(table.column(status_column).to_pylist()) if status_column else {}
    groups = Groups()
    if status_column and counted_by:
        groups.add(table.column(counted_by).to_pylist(), table.column(status_column).to_pylist())
    statuses = statuses or json.loads((table.schema.metadata or {}).get(COUNTS, b"{}"))
    return FileEntry(
        path=path,
        fingerprint=fingerprint,
        plan=plan,
        inputs=inputs,
        version=_version(table),
        columns=table.column_names,
        rows=table.num_rows,
        bytes=store.size(path),
        sha256=store.sha256(path),
        statuses=dict(sorted(statuses.items())),
        groups=groups.largest(),
    )


def read_column_file(store: Store, entry: FileEntry, columns: Sequence[str] | None = None) -> pa.Table:
    """Columns (all by default) of one file, zero-copy when local, in the current schema version.

    Raises CorruptError, with the file's name, when it is not what `entry` says.
    """
    where = store.path(entry.path)
    if store.checked:
        check_sha256(store, entry)
    name, major, _ = parse_version(entry.version, where)
    old = major < CURRENT[name][0]
    # Arrow's description of a nested column costs kilobytes per batch: describe those that are asked for.
    wanted = None if old or columns is None else [entry.columns.index(column) for column in columns]
    table = read_stream(open_column_file(store, entry), where, wanted)
    if table.num_rows != entry.rows:
        raise CorruptError(damaged(where, f"{table.num_rows} rows", f"{entry.rows}"))
    # Arrow hands out the fields that it is asked for in the file's order.
    expected = entry.columns if wanted is None else [entry.columns[field] for field in sorted(set(wanted))]
    if table.column_names != expected:
        raise CorruptError(damaged(where, f"columns {table.column_names}", f"{expected}"))
    if old:
        table = pa.Table.from_batches([upgrade(batch, name, major) for batch in table.to_batches()])
    elif "key" in entry.columns:  # a base file, whose columns have the types of the schema
        _check_types(table.schema, _types(name), where)
    return table if columns is None else table.select(list(columns))


def open_column_file(store: Store, entry: FileEntry) -> pa.NativeFile:
    """The file, of which length alone was compared. Raises CorruptError when it is missing, or of another length."""
    where = store.path(entry.path)
    try:
        file = store.open_arrow(entry.path)
    except OSError as error:
        found = f"cannot be read ({error.strerror or error})"
        raise CorruptError(damaged(where, found, f"{entry.bytes} bytes"), kind="unreadable") from error
    if (size := file.size()) != entry.bytes:
        kind = "cut" if size < entry.bytes else "wrong bytes"
        raise CorruptError(damaged(where, f"{size} bytes", f"{entry.bytes}"), kind=kind)
    return file


def check_sha256(store: Store, entry: FileEntry) -> None:
    """Raise CorruptError unless the file's bytes are those that were written; nothing is parsed. A file that was found
    good is not hashed again by the same `store`."""
    if (entry.path, entry.sha256) in store.found_good:
        return
    where = store.path(entry.path)
    open_column_file(store, entry)
    try:
        found = store.sha256(entry.path)
    except OSError as error:
        words = f"cannot be read ({error.strerror or error})"
        raise CorruptError(damaged(where, words, f"{entry.bytes} bytes"), kind="unreadable") from error
    if found != entry.sha256:
        words = damaged(where, f"sha256 {found[:16]}...", f"{entry.sha256[:16]}...")
        raise CorruptError(words, kind="wrong bytes")
    store.found_good.add((entry.path, entry.sha256))


def current_columns(store: Store, entry: FileEntry) -> list[str]:
    """The file's columns by their names of today: a file of an older version is asked what it upgrades to."""
    if is_current(entry.version, store.path(entry.path)):
        return entry.columns
    return read_column_file(store, entry).column_names


def _version(table: pa.Table) -> str:
    return (table.schema.metadata or {}).get(b"lavabeam", b"").decode()


@cache
def _types(schema: str) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in BASE[schema]}


def _check_types(found: pa.Schema, expected: dict[str, pa.DataType], where: str) -> None:
    """A damaged description of a column may still be a valid one, of another type."""
    for field in found:
        kind = expected.get(field.name)
        if kind is not None and not _alike(field.type, kind):
            raise CorruptError(damaged(where, f"column {field.name!r} of type {field.type}", str(kind)))


def _alike(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether two types differ at most in what inner fields are called, and in whether they may be null."""
    if found.id != expected.id or found.num_fields != expected.num_fields:
        return False
    return all(_alike(found.field(n).type, expected.field(n).type) for n in range(found.num_fields))


def _conform(batch: pa.RecordBatch, schema: pa.Schema, path: str) -> pa.RecordBatch:
    """`batch` with the columns of `schema` in its order, cast where lossless; raises SchemaError otherwise."""
    missing = [name for name in schema.names if name not in batch.schema.names]
    extra = [name for name in batch.schema.names if name not in schema.names]
    if missing or extra:
        raise SchemaError(f"{path}: the step's rows lack columns {missing} and have unknown columns {extra}.")
    try:
        columns = [batch.column(field.name).cast(field.type) for field in schema]
    except pa.ArrowInvalid as error:
        raise SchemaError(f"{path}: a value does not fit its column: {error}") from error
    for field, column in zip(schema, columns, strict=True):
        if not field.nullable and column.null_count:
            raise SchemaError(f"{path}: column {field.name!r} must not be empty; {column.null_count} rows are.")
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class Groups:
    """Statuses counted for each value of another column; only the largest groups keep their name."""

    NAMED = 10
    OTHER = "other"

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}

    def add(self, names: list[str | None], statuses: list[str]) -> None:
        for name, status in zip(names, statuses, strict=True):
            self._counts.setdefault(name or self.OTHER, Counter())[status] += 1

    def largest(self) -> dict[str, dict[str, int]]:
        """Name -> status -> rows of the `NAMED` largest groups, the rest added up: so a manifest stays small."""
        order = sorted(self._counts, key=lambda name: (name == self.OTHER, -self._counts[name].total(), name))
        named = [name for name in order if name != self.OTHER][: self.NAMED]
        kept = {name: dict(sorted(self._counts[name].items())) for name in named}
        rest = Counter[str]()
        for name in order:
            if name not in kept:
                rest.update(self._counts[name])
        return kept | ({self.OTHER: dict(sorted(rest.items()))} if rest else {})


class _Hashing:
    """A file that counts and hashes what is written to it, so that the bytes are never read again."""

    def __init__(self, file: Any):
        self.file, self.size, self.digest, self.closed = file, 0, hashlib.sha256(), False

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        self.size += len(content)
        self.file.write(content)
        return len(content)

    def flush(self) -> None:
        self.file.flush()

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True
