"""Rows of LLaVA's JSON with nothing but `id`, `image` and `conversations` of `{from, value}`, read a block at a time.

Most rows of most files are so, and Arrow's JSON reader makes columns of them in a tenth of the time of Python objects.
It accepts less than Python's json module does: no key twice, no other key, no other type, no NaN, no half of a
surrogate pair. What it accepts, both read alike. A block that it refuses is read row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.json

_TURN = pa.struct([("from", pa.string()), ("value", pa.string())])
_FIELDS = [("id", pa.string()), ("image", pa.string()), ("conversations", pa.list_(_TURN))]
_LINES = pa.schema(_FIELDS)
_LIST = pa.schema([("rows", pa.list_(pa.struct(_FIELDS)))])

_LONGEST = 1 << 30
"""Bytes of a block: Arrow counts those of a column of text in 32 bits."""

_BLANKS = b" \t\r\n"


class Columns(NamedTuple):
    """Rows as Arrow's columns, one value per row; no turn, speaker or text of a turn is null."""

    id: pa.StringArray
    """Null where a row has none."""
    image: pa.StringArray
    conversations: pa.ListArray

    def __len__(self) -> int:  # type: ignore[override]
        return len(self.id)

    def filter(self, mask: pa.BooleanArray) -> Columns:
        return Columns(*(column.filter(mask) for column in self))

    def row(self, number: int) -> dict[str, Any]:
        """One row as its JSON has it, but for a picture that is null."""
        values = {name: column[number].as_py() for name, column in zip(self._fields, self, strict=True)}
        return {name: value for name, value in values.items() if value is not None}


def read_list(text: bytes, count: int) -> Columns | None:
    """The values of a JSON list, which is given without its brackets; None unless they are `count` plain rows."""
    table = _read(b'{"rows":[' + text + b"]}", _LIST)
    # Two rows here are a list that was closed and opened again in the text.
    if table is None or table.num_rows != 1:
        return None
    rows = table["rows"].chunk(0).flatten()
    return _columns(rows.flatten(), text) if len(rows) == count and not rows.null_count else None


def read_lines(lines: Sequence[bytes]) -> Columns | None:
    """Rows with one line each; None unless all are plain."""
    lines = [line.strip(_BLANKS) for line in lines]
    if not all(line[:1] == b"{" and line[-1:] == b"}" for line in lines):
        return None
    text = b"\n".join(lines)
    table = _read(text, _LINES)
    # Between } and { a line break can only occur between rows: as many rows as lines are one on each.
    if table is None or table.num_rows != len(lines):
        return None
    return _columns([column.combine_chunks() for column in table.columns], text)


def _read(text: bytes, schema: pa.Schema) -> pa.Table | None:
    if len(text) > _LONGEST or not _is_utf8(text):
        return None
    try:
        return pa.json.read_json(
            pa.BufferReader(text),
            pa.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
            # Otherwise a line break is taken for the end of a row.
            pa.json.ParseOptions(schema, newlines_in_values=b"\n" in text, unexpected_field_behavior="error"),
        )
    except pa.ArrowException:
        return None


def _is_utf8(text: bytes) -> bool:
    """Arrow does not look."""
    try:
        return text.isascii() or text.decode() is not None
    except UnicodeDecodeError:
        return False


def _columns(columns: Sequence[pa.Array], text: bytes) -> Columns | None:
    found = Columns(*columns)
    turns = found.conversations.flatten()
    nulls = (found.conversations, turns, *turns.flatten())
    if any(one.null_count for one in nulls):
        return None
    # A row without an id and one whose id is null differ, and not for Arrow.
    return None if found.id.null_count and b"null" in text else found
