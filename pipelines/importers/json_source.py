"""JSON rows that can be read by number, like those of `ParquetSource`: pictures as base64, or paths, beside text."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipelines.importers.extra import join, type_of
from pipelines.importers.records import Layout, Span, TextSource
from schemas.errors import InputError

_BATCH = 64
"""Rows that are read at a time: in base64 each may hold some MB."""


class JsonSource:
    """One file of JSON lines, or of a list. Opening it reads it once, and keeps 24 bytes of each row.

    Raises InputError, naming the line, for a file that is neither.
    """

    def __init__(self, path: str, format: str):
        self.path = path
        self._text = TextSource(path, Layout(format))
        if self._text.form == "columns":
            raise InputError(f"{path}: an object of columns. Expected a row on each line, or a list of rows.")
        self._offsets, self._ends, self._lines = array("q"), array("q"), array("q")
        types: dict[str, pa.DataType] = {}
        for raw in self._text.records():
            for name, value in self._text.parse(raw).items():
                known = types.get(name, pa.null())
                types[name] = known if (found := type_of(value)) == known else join(known, found)
            self._offsets.append(raw.offset)
            self._ends.append(raw.end)
            self._lines.append(raw.line)
        self.rows = len(self._offsets)
        self.schema = pa.schema(list(types.items()))
        """Of each column what its values have in common; objects count as text."""
        self.columns: list[str] = self.schema.names

    def dicts(self, row: int, rows: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """`rows` rows from number `row` on; a column that a row lacks is None."""
        for first in range(row, row + rows, _BATCH):
            last = min(first + _BATCH, row + rows) - 1
            span = Span(self._offsets[first], self._ends[last] - self._offsets[first], self._lines[first])
            for raw in self._text.records_in(span):
                values = self._text.parse(raw)
                yield {name: values.get(name) for name in columns}

    def values(self, column: str) -> Iterator[object]:
        """One column of the whole file."""
        return (values[column] for values in self.dicts(0, self.rows, [column]))

    def sizes(self, column: str) -> Iterator[int]:
        """The number of elements in each cell of a list column, 0 for an empty or missing list."""
        return (len(value) if isinstance(value, list) else 0 for value in self.values(column))
