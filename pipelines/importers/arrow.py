"""Arrow files (stream or file format) as rows that can be read by number, like `ParquetSource`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.importers.files import is_local, reading


class ArrowSource:
    """One file, memory-mapped when local. All of it raises InputError for other files, and for damaged ones.

    What is read is validated first: Arrow trusts a mapping, and an offset outside its buffer ends the process.
    """

    def __init__(self, path: str):
        self.path = path
        with self._reading():
            self._table = _table(path)
        self.rows: int = self._table.num_rows
        self.schema: pa.Schema = self._table.schema
        self.columns: list[str] = self._table.column_names

    def values(self, column: str) -> Iterator[object]:
        """One column of the whole file."""
        for part in self._parts(column):
            yield from part.to_pylist()

    def sizes(self, column: str) -> Iterator[int]:
        """The number of elements in each cell of a list column, 0 for an empty or missing list."""
        for part in self._parts(column):
            yield from (size or 0 for size in pc.list_value_length(part).to_pylist())

    def read(self, row: int, rows: int) -> list[dict[str, Any]]:
        """`rows` rows from number `row` on, as dictionaries."""
        with self._reading():
            return self.table(row, rows).to_pylist()

    def table(self, row: int, rows: int, columns: Sequence[str] | None = None, light: Sequence[str] = ()) -> pa.Table:
        """`rows` rows from number `row` on, of all columns or some. `light` needs no work: what is not used of a mapped
        file is not read."""
        with self._reading():
            table = self._table if columns is None else self._table.select(list(columns))
            table = table.slice(row, rows)
            table.validate(full=True)
            return table

    def _parts(self, column: str) -> Iterator[pa.Array]:
        with self._reading():
            for batch in self._table.select([column]).to_batches():
                batch.validate(full=True)
                yield batch.column(0)

    def _reading(self) -> AbstractContextManager[None]:
        return reading(self.path, "an Arrow file")


def _table(path: str) -> pa.Table:
    fs, name = fsspec.core.url_to_fs(path)
    opened = pa.memory_map(name) if is_local(fs) else pa.BufferReader(fs.cat_file(name))
    if opened.read(6) == b"ARROW1":  # the file format's magic string; a stream has none
        return pa.ipc.open_file(opened).read_all()
    opened.seek(0)
    return pa.ipc.open_stream(opened).read_all()
