"""Chunks: the column files of up to 4096 fragments as one small Arrow file, named by its content.

The rows of a chunk are fragments, in the dataset's order. One chunk holds their ids and rows; one more per column-file
name (`base`, `download`) holds that file of each fragment, null where a fragment lacks it.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from schemas.arrowstream import RAW, read_stream
from schemas.entries import Count, FileEntry
from schemas.errors import CorruptError
from schemas.filetables import column_names, files_of, first_nonsense
from schemas.store import Store

FOLDER = "manifests"
SUFFIX = ".arrows"
"""The registered suffix of Arrow streams. Not that of column files, which people look for by `*.arrow`."""
BLOCK = 64
"""Rows of a chunk that become FileEntry objects together: one costs little, and all are never held at once."""
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
        """Write the chunk unless it is there. A killed writer leaves at most a chunk that no manifest names.

        Raises CorruptError for a path or id that is outside the dataset's folder.
        """
        if self._content is None or _is_there(store, self.ref):
            return
        check_inside(self.table, store.path(self.ref.path))
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
        try:
            content = self._store.open_arrow(self.ref.path).read_buffer()
        except OSError as error:
            found = f"cannot be read ({error.strerror or error})"
            raise _corrupt(where, found, f"{self.ref.bytes} bytes", "unreadable") from error
        if content.size != self.ref.bytes:
            kind = "cut" if content.size < self.ref.bytes else "wrong bytes"
            raise _corrupt(where, f"{content.size} bytes", f"{self.ref.bytes}", kind)
        found = hashlib.sha256(content).hexdigest()
        if found != self.ref.sha256:
            raise _corrupt(where, f"sha256 {found[:16]}...", f"{self.ref.sha256[:16]}...", "wrong bytes")
        # Whoever wrote these bytes wrote the sum too: it need not have been us.
        table = read_stream(pa.BufferReader(content), where)
        if table.num_rows != self.rows:
            raise _corrupt(where, f"{table.num_rows} rows", f"{self.rows}")
        if not table.schema.equals(self.schema):
            raise _corrupt(where, f"columns {table.schema.names}", f"{self.schema.names}")
        self.check(table, where)
        return table

    def check(self, table: pa.Table, where: str) -> None:
        """Raises CorruptError for values that no writer of ours makes, and for paths that lead out of the folder."""
        try:
            nonsense = first_nonsense(table)
        except RAW as error:
            nonsense = str(error)
        if nonsense:
            raise _corrupt(where, nonsense, "a list of column files")
        check_inside(table, where)

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
        block, index = divmod(row, BLOCK)
        number, entries = self._block
        if number != block:
            entries = files_of(self.table.slice(block * BLOCK, BLOCK))
            self._block = (block, entries)
        return entries[index]


def check_inside(table: pa.Table, where: str) -> None:
    """Raises CorruptError for a path, or a fragment's id, that is outside the dataset's folder."""
    for column, pattern in (("path", _OUTSIDE), ("id", _OUTSIDE + "|/")):
        if column in table.column_names and (column == "id" or _may_lead_outside(table.column(column))):
            wrong = table.filter(pc.fill_null(pc.match_substring_regex(table.column(column), pattern), False))
            if wrong.num_rows:
                found = wrong.column(column)[0].as_py()
                raise CorruptError(
                    f"{where}: the {column} {found!r} is outside the dataset's folder; expected a name inside it. "
                    "Do not use this dataset, or restore its manifest."
                )


def _may_lead_outside(names: pa.ChunkedArray) -> bool:
    """Cheap: whether the exact search is worth its time."""
    signs = [pc.match_substring(names, sign) for sign in ("..", "\x00", "\\")]
    short = pc.less_equal(pc.binary_length(names), 1)
    return any(pc.any(found).as_py() for found in (*signs, short, pc.starts_with(names, "/")))


def _encode(table: pa.Table, schema: pa.Schema) -> bytes:
    """The table as an Arrow stream of one batch, its dictionaries in order of appearance and its buffers compact."""
    table = table.take(pa.array(np.arange(table.num_rows))).combine_chunks()
    for index, field in enumerate(schema):
        if pa.types.is_dictionary(field.type):
            column = table.column(index).cast(pa.string()).combine_chunks().dictionary_encode()
            table = table.set_column(index, field, column.cast(field.type))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(table.cast(schema))
    return sink.getvalue().to_pybytes()


def _is_there(store: Store, ref: ChunkRef) -> bool:
    """Whether the chunk is stored whole. One that was cut is written again: its content is known."""
    return store.exists(ref.path) and store.size(ref.path) == ref.bytes


def _corrupt(where: str, found: str, expected: str, kind: str = "foreign") -> CorruptError:
    return CorruptError(
        f"{where}: {found}, the manifest that names it says {expected}. The list of files was damaged: restore this "
        "file, or return to a version before it with `lavabeam rollback`.",
        kind=kind,
    )
