"""Chunks: the column files of up to 4096 fragments as one small Arrow file, named by its content.

The rows of a chunk are fragments, in the dataset's order. One chunk holds their ids and rows; one more per column-file
name (`base`, `download`) holds that file of each fragment, null where a fragment lacks it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from schemas.entries import Count, FileEntry
from schemas.errors import CorruptError
from schemas.store import Store

FOLDER = "manifests"
SUFFIX = ".arrows"
"""The registered suffix of Arrow streams. Not that of column files, which people look for by `*.arrow`."""
BLOCK = 64
"""Rows of a chunk that become FileEntry objects together: one costs little, and all are never held at once."""

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

_CACHED = frozenset({"table", "ids", "present", "fingerprints", "layouts"})
_OUTSIDE = r"^$|^/|^\.\.?$|(^|/)\.\.(/|$)|\x00|\\"
"""Paths that would leave the dataset's folder."""


class ChunkRef(BaseModel):
    """How a manifest names a chunk: where it is, and what it must be."""

    model_config = ConfigDict(frozen=True)

    path: str
    bytes: Count
    sha256: str


class Chunk:
    """A table of `rows` fragments that is read, and checked against its length and sha256, when it is first touched."""

    def __init__(self, ref: ChunkRef, schema: pa.Schema, rows: int, store: Store | None, content: bytes | None = None):
        self.ref, self.schema, self.rows = ref, schema, rows
        self._store, self._content = store, content
        self._block: tuple[int, list[FileEntry | None]] = (-1, [])

    @classmethod
    def of(cls, name: str, table: pa.Table, schema: pa.Schema) -> Chunk:
        """A new chunk, not yet stored. The same rows give the same bytes, whatever the table was made from."""
        content = _encode(table, schema)
        digest = hashlib.sha256(content).hexdigest()
        ref = ChunkRef(path=f"{FOLDER}/{name}-{digest[:16]}{SUFFIX}", bytes=len(content), sha256=digest)
        return cls(ref, schema, table.num_rows, None, content)

    def save(self, store: Store) -> None:
        """Write the chunk unless it is there. A killed writer leaves at most a chunk that no manifest names."""
        if self._content is None or _is_there(store, self.ref):
            return
        with store.write(self.ref.path, durable=True) as file:
            file.write(self._content)

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name not in _CACHED}
        return {**kept, "_block": (-1, [])}

    @cached_property
    def table(self) -> pa.Table:
        """The rows; memory-mapped when local. Raises CorruptError when they are not what the manifest says."""
        if self._store is None:
            return pa.ipc.open_stream(pa.BufferReader(self._content)).read_all()
        where = self._store.path(self.ref.path)
        content = self._store.open_arrow(self.ref.path).read_buffer()
        if content.size != self.ref.bytes:
            raise _corrupt(where, f"{content.size} bytes", f"{self.ref.bytes}")
        found = hashlib.sha256(content).hexdigest()
        if found != self.ref.sha256:
            raise _corrupt(where, f"sha256 {found[:16]}...", f"{self.ref.sha256[:16]}...")
        try:
            table = pa.ipc.open_stream(pa.BufferReader(content)).read_all()
        except pa.ArrowInvalid as error:
            raise _corrupt(where, f"unreadable ({error})", "an Arrow stream") from error
        if table.num_rows != self.rows:
            raise _corrupt(where, f"{table.num_rows} rows", f"{self.rows}")
        if not table.schema.equals(self.schema):
            raise _corrupt(where, f"columns {table.schema.names}", f"{self.schema.names}")
        check_inside(table, where)
        return table

    @cached_property
    def ids(self) -> list[str]:
        return self.table.column("id").to_pylist()

    @cached_property
    def present(self) -> np.ndarray:
        """Which fragments have the file, shape (rows,), bool."""
        return self.table.column("path").is_valid().to_numpy()

    @cached_property
    def fingerprints(self) -> list[str | None]:
        return self.table.column("fingerprint").to_pylist()

    @cached_property
    def layouts(self) -> list[tuple[str, tuple[str, ...]] | None]:
        """(version, columns) of each file: what most walks through a dataset ask for, without making entries."""
        version, columns = (self.table.column(name).combine_chunks() for name in ("version", "columns"))
        codes = list(zip(*(pc.fill_null(one.indices, -1).to_pylist() for one in (version, columns)), strict=True))
        versions, names = version.dictionary.to_pylist(), [column_names(one) for one in columns.dictionary.to_pylist()]
        known = {code: (versions[code[0]], names[code[1]]) if code[1] >= 0 else None for code in set(codes)}
        return [known[code] for code in codes]

    def file(self, row: int) -> FileEntry | None:
        """The file of one fragment of the chunk, if that has it."""
        block, place = divmod(row, BLOCK)
        number, entries = self._block
        if number != block:
            entries = files_of(self.table.slice(block * BLOCK, BLOCK))
            self._block = (block, entries)
        return entries[place]


def check_inside(table: pa.Table, where: str) -> None:
    """Raises CorruptError for a path, or a fragment's id, that leads out of the dataset's folder."""
    for column, pattern in (("path", _OUTSIDE), ("id", _OUTSIDE + "|/")):
        if column in table.column_names and (column == "id" or _may_lead_outside(table.column(column))):
            wrong = table.filter(pc.fill_null(pc.match_substring_regex(table.column(column), pattern), False))
            if wrong.num_rows:
                found = wrong.column(column)[0].as_py()
                raise CorruptError(
                    f"{where}: the {column} {found!r} leads out of the dataset's folder; expected a name inside it. "
                    "Do not use this dataset, or restore its manifest."
                )


def _may_lead_outside(names: pa.ChunkedArray) -> bool:
    """Cheap: whether the exact search is worth its time."""
    signs = [pc.match_substring(names, sign) for sign in ("..", "\x00", "\\")]
    short = pc.less_equal(pc.binary_length(names), 1)
    return any(pc.any(found).as_py() for found in (*signs, short, pc.starts_with(names, "/")))


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


def _encode(table: pa.Table, schema: pa.Schema) -> bytes:
    """The table as an Arrow stream of one batch, its dictionaries in order of appearance and its buffers compact."""
    table = table.take(pa.array(np.arange(table.num_rows))).combine_chunks()
    for place, field in enumerate(schema):
        if pa.types.is_dictionary(field.type):
            column = table.column(place).cast(pa.string()).combine_chunks().dictionary_encode()
            table = table.set_column(place, field, column.cast(field.type))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(table.cast(schema))
    return sink.getvalue().to_pybytes()


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


def _is_there(store: Store, ref: ChunkRef) -> bool:
    """Whether the chunk is stored whole. One that was cut is written again: its content is known."""
    return store.exists(ref.path) and store.size(ref.path) == ref.bytes


def _corrupt(where: str, found: str, expected: str) -> CorruptError:
    return CorruptError(
        f"{where}: {found}, the manifest that names it says {expected}. The list of files was damaged: restore this "
        "file, or remove the newest manifest-*.json to return to the version before."
    )
