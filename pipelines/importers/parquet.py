"""Parquet files as rows that can be read by number, and cheap digests of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import fsspec
import pyarrow.parquet as pq

from pipelines.importers.files import reading


class ParquetSource:
    """One file. Its footer is read on opening; rows only when asked for. All of it raises InputError for other files,
    and for damaged ones."""

    def __init__(self, path: str):
        self.path = path
        self._fs, self._name = fsspec.core.url_to_fs(path)
        with self._reading():
            self._metadata = pq.ParquetFile(self._open()).metadata
            self.rows: int = self._metadata.num_rows
            self.columns: list[str] = self._metadata.schema.to_arrow_schema().names

    def read(self, row: int, rows: int) -> list[dict[str, Any]]:
        """`rows` rows from number `row` on, as dictionaries; only their row groups are read."""
        with self._reading():
            groups, first = self._groups_of(row, rows)
            table = pq.ParquetFile(self._open()).read_row_groups(groups)
            return table.slice(row - first, rows).to_pylist()

    def values(self, column: str) -> Iterator[object]:
        """One column of the whole file."""
        with self._reading():
            for batch in pq.ParquetFile(self._open()).iter_batches(columns=[column]):
                yield from batch.column(0).to_pylist()

    def digests(self, row: int, rows: int) -> list[bytes]:
        """What these rows were made from: the bytes of their row groups, and their place in them."""
        with self._reading():
            groups, first = self._groups_of(row, rows)
            return [*(self._group_digests[group] for group in groups), f"{row - first}+{rows}".encode()]

    def _groups_of(self, row: int, rows: int) -> tuple[list[int], int]:
        """The row groups that hold these rows, and the number of the first one's first row."""
        groups: list[int] = []
        first = start = 0
        for number in range(self._metadata.num_row_groups):
            end = start + self._metadata.row_group(number).num_rows
            if start < row + rows and end > row:
                first = first if groups else start
                groups.append(number)
            start = end
        return groups, first

    @cached_property
    def _group_digests(self) -> list[bytes]:
        """sha256 of every row group's bytes: hashing the stored bytes costs no decoding."""
        with self._open() as file:
            return [self._group_digest(file, number) for number in range(self._metadata.num_row_groups)]

    def _group_digest(self, file: pq.ParquetFile, number: int) -> bytes:
        group, content = self._metadata.row_group(number), hashlib.sha256()
        for index in range(group.num_columns):
            column = group.column(index)
            start = column.dictionary_page_offset or column.data_page_offset
            file.seek(start)
            content.update(file.read(column.total_compressed_size))
        return content.digest()

    def _reading(self) -> AbstractContextManager[None]:
        return reading(self.path, "a Parquet file")

    def _open(self) -> pq.ParquetFile:
        return self._fs.open(self._name, "rb")
