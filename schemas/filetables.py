"""Tables of column files: FileEntry objects as rows of Arrow tables, and back."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.entries import FileEntry

_WORDS = pa.map_(pa.string(), pa.string())
_COUNTS = pa.map_(pa.string(), pa.int64())
_GROUPS = pa.list_(pa.struct([("group", pa.string()), ("status", pa.string()), ("rows", pa.int64())]))
_NAMES = pa.dictionary(pa.int32(), pa.string())

IDS = pa.schema([("id", pa.string()), ("rows", pa.int64())])
FILES = pa.schema(
    [
        ("path", pa.string()),
        ("fingerprint", pa.string()),
        ("plan", pa.string()),
        ("inputs", _WORDS),
        ("version", _NAMES),
        ("columns", _NAMES),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("statuses", _COUNTS),
        ("groups", _GROUPS),
    ]
)
"""`plan` is null where it equals `fingerprint`; `columns` is a JSON list of names, as text."""

_PLAIN = pa.schema([(field.name, pa.string() if field.type == _NAMES else field.type) for field in FILES])
"""FILES while it is put together: tables with different dictionaries cannot be joined."""


def ids_table(ids: list[str], rows: list[int]) -> pa.Table:
    return pa.table([pa.array(ids, pa.string()), pa.array(rows, pa.int64())], schema=IDS)


def files_table(entries: Iterable[FileEntry | None]) -> pa.Table:
    """One row per entry, null for None."""
    listed = list(entries)

    def column(name: str, value: Any) -> pa.Array:
        return pa.array([None if entry is None else value(entry) for entry in listed], _PLAIN.field(name).type)

    columns = [
        column("path", lambda entry: entry.path),
        column("fingerprint", lambda entry: entry.fingerprint),
        column("plan", lambda entry: None if entry.plan in ("", entry.fingerprint) else entry.plan),
        column("inputs", lambda entry: list(entry.inputs.items())),
        column("version", lambda entry: entry.version),
        column("columns", lambda entry: _columns_text(tuple(entry.columns))),
        column("rows", lambda entry: entry.rows),
        column("bytes", lambda entry: entry.bytes),
        column("sha256", lambda entry: entry.sha256),
        column("statuses", lambda entry: list(entry.statuses.items())),
        column("groups", lambda entry: _flat(entry.groups)),
    ]
    return pa.table(columns, schema=_PLAIN)


def files_of(table: pa.Table) -> list[FileEntry | None]:
    """The entries of some rows of a chunk, None where a fragment lacks the file."""
    columns = {name: table.column(name).to_pylist() for name in FILES.names}
    entries: list[FileEntry | None] = []
    for values in zip(*columns.values(), strict=True):
        path, mark, plan, inputs, version, names, rows, size, sha256, statuses, groups = values
        if path is None:
            entries.append(None)
            continue
        entry = FileEntry(
            path=path,
            fingerprint=mark,
            plan=plan or mark,
            inputs=dict(inputs or ()),
            version=version,
            columns=list(column_names(names)),
            rows=rows,
            bytes=size,
            sha256=sha256,
            statuses=dict(statuses or ()),
            groups=_nested(groups or ()),
        )
        entries.append(entry)
    return entries


_NEVER_NULL = ("path", "fingerprint", "version", "columns", "rows", "bytes", "sha256")
"""Columns of FILES that say something of every file; all of them are null where a fragment has none."""


def first_nonsense(table: pa.Table) -> str:
    """What is not as `ids_table` and `files_table` write it, in words; empty when nothing is."""
    listed = "path" in table.column_names
    there = table.column("path").is_valid() if listed else pa.array(np.ones(table.num_rows, bool))
    nulls = table.column("path").null_count if listed else 0
    for name in _NEVER_NULL if listed else IDS.names:
        column = table.column(name)
        if column.null_count + nulls and pc.any(pc.not_equal(column.is_valid(), there)).as_py():
            return f"{name!r} is null where there is a {'file' if listed else 'fragment'}"
        if pa.types.is_integer(column.type) and (least := pc.min(column).as_py() or 0) < 0:
            return f"{name!r} is {least}"
    if listed:
        for text in table.column("columns").combine_chunks().dictionary.to_pylist():
            named = json.loads(text)
            if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
                return f"'columns' is {text[:80]}"
            if len(set(named)) < len(named):
                return f"'columns' has duplicates: {text[:80]}"
    return ""


@lru_cache(maxsize=1024)
def column_names(text: str) -> tuple[str, ...]:
    """The names in a value of the column `columns`."""
    return tuple(json.loads(text))


@lru_cache(maxsize=1024)
def _columns_text(names: tuple[str, ...]) -> str:
    return json.dumps(names, ensure_ascii=False)


def take_files(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Rows of a files table by number, in any order; a null row for each -1."""
    return table.cast(_PLAIN).take(pa.array(rows, pa.int64(), mask=rows < 0))


def no_files(rows: int) -> pa.Table:
    """A files table of fragments that lack the file."""
    return pa.table([pa.nulls(rows, field.type) for field in _PLAIN], schema=_PLAIN)


def with_entries(table: pa.Table, entries: dict[int, FileEntry]) -> pa.Table:
    """The table with other entries in some rows."""
    rows = np.arange(table.num_rows)
    rows[list(entries)] = table.num_rows + np.arange(len(entries))
    return take_files(pa.concat_tables([table.cast(_PLAIN), files_table(entries.values())]), rows)


def statuses_of(table: pa.Table) -> dict[str, int]:
    """Status -> rows, added up over the fragments of a files table."""
    pairs = pc.list_flatten(_as_list(table.column("statuses")))
    return _summed({"status": pc.struct_field(pairs, 0), "rows": pc.struct_field(pairs, 1)}, ["status"])


def rows_with(table: pa.Table, statuses: Collection[str]) -> np.ndarray:
    """The rows of a files table, ascending, whose file has rows with one of `statuses`."""
    column = _as_list(table.column("statuses")).combine_chunks()
    names = pc.struct_field(pc.list_flatten(column), 0)
    wanted = pc.is_in(names, value_set=pa.array(list(statuses), pa.string()))
    return np.unique(pc.list_parent_indices(column).filter(wanted).to_numpy(zero_copy_only=False))


def groups_of(table: pa.Table) -> dict[tuple[str, str], int]:
    """(group, status) -> rows, added up over the fragments of a files table."""
    triples = pc.list_flatten(table.column("groups"))
    columns = {name: pc.struct_field(triples, name) for name in ("group", "status", "rows")}
    return _summed(columns, ["group", "status"])


def _as_list(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.list_(pa.struct([("key", pa.string()), ("value", pa.int64())])))


def _summed(columns: dict[str, Any], keys: list[str]) -> dict[Any, int]:
    summed = pa.table(columns).group_by(keys).aggregate([("rows", "sum")])
    names = zip(*(summed.column(key).to_pylist() for key in keys), strict=True)
    values = summed.column("rows_sum").to_pylist()
    return {name if len(keys) > 1 else name[0]: rows for name, rows in zip(names, values, strict=True)}


def _flat(groups: Any) -> list[dict[str, Any]]:
    return [
        {"group": group, "status": status, "rows": rows}
        for group, counts in groups.items()
        for status, rows in counts.items()
    ]


def _nested(triples: Any) -> dict[str, dict[str, int]]:
    groups: dict[str, dict[str, int]] = {}
    for triple in triples:
        groups.setdefault(triple["group"], {})[triple["status"]] = triple["rows"]
    return groups
