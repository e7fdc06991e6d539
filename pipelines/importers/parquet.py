"""Parquet files as rows that can be read by number, and cheap digests of them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.importers.files import reading

_BATCH = 64
"""Rows that are decoded at a time: pictures of 5 MB are 320 MB."""
_BUFFER = 1 << 20
_CHUNK = 1 << 22


class ParquetSource:
    """One file. Its footer is read on opening; rows only when asked for. All of it raises InputError for other files,
    and for damaged ones."""

    def __init__(self, path: str):
        self.path = path
        self._fs, self._name = fsspec.core.url_to_fs(path)
        with self._reading():
            self._metadata = pq.ParquetFile(self._open()).metadata
            self.rows: int = self._metadata.num_rows
            self.schema: pa.Schema = self._metadata.schema.to_arrow_schema()
            self.columns: list[str] = self.schema.names

    def read(self, row: int, rows: int) -> list[dict[str, Any]]:
        """`rows` rows from number `row` on, as dictionaries."""
        with self._reading():
            return self.table(row, rows).to_pylist()

    def table(self, row: int, rows: int, columns: Sequence[str] | None = None, light: Sequence[str] = ()) -> pa.Table:
        """`rows` rows from number `row` on, of all columns or some; those in `light` without the bytes of pictures.

        Readers in ascending order decode the file once, a few rows at a time: a thread continues where it left off.
        """
        names = self.columns if columns is None else columns
        leaves = tuple(leaf for name in names for leaf in self._leaves(name, name in light))
        with self._reading():
            cursor = self._cursor(row, leaves)
            parts = list(cursor.take(row, rows))
            _kept.cursor = cursor
            return pa.Table.from_batches(parts) if parts else self.schema.empty_table()

    def values(self, column: str) -> Iterator[object]:
        """One column of the whole file."""
        for batch in self._batches(0, [column]):
            yield from batch.column(0).to_pylist()

    def sizes(self, column: str) -> Iterator[int]:
        """The number of elements in each cell of a list column, 0 for an empty or missing list; bytes are not read."""
        for batch in self._batches(0, self._leaves(column, True)):
            yield from (size or 0 for size in pc.list_value_length(batch.column(0)).to_pylist())

    def digests(self, row: int, rows: int) -> list[bytes]:
        """What these rows were made from: the bytes of their row groups, and their place in them."""
        with self._reading():
            first, last = self._group_of(row), self._group_of(row + rows - 1)
            place = f"{row - self._starts[first]}+{rows}".encode()
            return [*(self._group_digests[group] for group in range(first, last + 1)), place]

    def _leaves(self, name: str, light: bool) -> list[str]:
        """The stored columns of a column; of a light one those with paths alone, where it has such."""
        stored = [self._metadata.schema.column(number).path for number in range(self._metadata.num_columns)]
        found = [leaf for leaf in stored if leaf == name or leaf.startswith(f"{name}.")]
        paths = [leaf for leaf in found if leaf.endswith(".path")] if light else []
        return paths or found

    def _cursor(self, row: int, leaves: tuple[str, ...]) -> _Cursor:
        """The thread's cursor, if it is before `row` in the same row group; or a new one."""
        entry = self._fs.info(self._name)
        about = (self.path, entry["size"], str(entry.get("etag") or entry.get("mtime")), leaves)
        kept: _Cursor | None = getattr(_kept, "cursor", None)
        _kept.cursor = None
        group = self._group_of(row)
        if kept is not None and kept.about == about and self._starts[group] <= kept.position <= row:
            return kept
        return _Cursor(about, self._batches(group, leaves), self._starts[group])

    def _batches(self, group: int, leaves: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The batches of some stored columns, from a row group on."""
        with self._reading(), self._open() as file:
            groups = range(group, self._metadata.num_row_groups)
            opened = pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)  # else the file stays in memory
            yield from opened.iter_batches(_BATCH, row_groups=list(groups), columns=list(leaves), use_threads=False)

    @cached_property
    def _starts(self) -> list[int]:
        """The number of the first row of every row group, and of the row after the last."""
        starts = [0]
        for number in range(self._metadata.num_row_groups):
            starts.append(starts[-1] + self._metadata.row_group(number).num_rows)
        return starts

    def _group_of(self, row: int) -> int:
        return next((n for n in range(self._metadata.num_row_groups) if self._starts[n + 1] > row), 0)

    @cached_property
    def _group_digests(self) -> list[bytes]:
        """sha256 of every row group's bytes: hashing the stored bytes costs no decoding."""
        with self._open() as file:
            return [self._group_digest(file, number) for number in range(self._metadata.num_row_groups)]

    def _group_digest(self, file: Any, number: int) -> bytes:
        group, content = self._metadata.row_group(number), hashlib.sha256()
        for index in range(group.num_columns):
            column = group.column(index)
            file.seek(column.dictionary_page_offset or column.data_page_offset)
            left = column.total_compressed_size
            while left > 0 and (block := file.read(min(left, _CHUNK))):
                content.update(block)
                left -= len(block)
        return content.digest()

    def _reading(self) -> AbstractContextManager[None]:
        return reading(self.path, "a Parquet file")

    def _open(self) -> Any:
        return self._fs.open(self._name, "rb")


@dataclass
class _Cursor:
    """Batches of one file that are read forward; `position` is the number of the next row."""

    about: tuple[Any, ...]
    batches: Iterator[pa.RecordBatch]
    position: int
    rest: pa.RecordBatch | None = None

    def take(self, row: int, rows: int) -> Iterator[pa.RecordBatch]:
        """Rows `row` to `row + rows`, none of which may lie before `position`."""
        while rows > 0:
            batch = self.rest if self.rest is not None else next(self.batches, None)
            self.rest = None
            if batch is None:
                return
            skipped = min(row - self.position, batch.num_rows)
            taken = batch.slice(skipped, rows)
            self.position += skipped + taken.num_rows
            if skipped + taken.num_rows < batch.num_rows:
                self.rest = batch.slice(skipped + taken.num_rows)
            if taken.num_rows:
                yield taken
                row, rows = row + taken.num_rows, rows - taken.num_rows


_kept = threading.local()
