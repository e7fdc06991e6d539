"""Arrow files (stream or file format) as rows that can be read by number, like `ParquetSource`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow as pa

from schemas.errors import InputError


class ArrowSource:
    """One file, memory-mapped when local. Raises InputError for other files."""

    def __init__(self, path: str):
        self.path = path
        try:
            self._table = _table(path)
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file. Check the path.") from error
        except pa.ArrowInvalid as error:
            raise InputError(f"{path}: this is not an Arrow file, or it was cut ({error}).") from error
        self.rows: int = self._table.num_rows
        self.columns: list[str] = self._table.column_names

    def values(self, column: str) -> Iterator[object]:
        """One column of the whole file."""
        for batch in self._table.select([column]).to_batches():
            yield from batch.column(0).to_pylist()

    def read(self, row: int, rows: int) -> list[dict[str, Any]]:
        """`rows` rows from number `row` on, as dictionaries."""
        return self._table.slice(row, rows).to_pylist()


def _table(path: str) -> pa.Table:
    fs, name = fsspec.core.url_to_fs(path)
    local = "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))
    opened = pa.memory_map(name) if local else pa.BufferReader(fs.cat_file(name))
    if opened.read(6) == b"ARROW1":  # the file format's magic string; a stream has none
        return pa.ipc.open_file(opened).read_all()
    opened.seek(0)
    return pa.ipc.open_stream(opened).read_all()
