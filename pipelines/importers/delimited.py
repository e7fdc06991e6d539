"""Lines and delimited text as records, cut exactly where Python's csv module cuts them (strict mode).

A quote inside an unquoted cell is text (`the 5" plate`), a line break inside a quoted one does not end the record.
What the module cannot read, or reads to the end of the file in search of a closing quote, is refused with its line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from schemas.errors import InputError

_BREAK = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")

LONGEST_CELL = 1 << 30
"""Characters of a cell; the csv module's own limit of 131,072 is less than some alt texts."""


class Raw(NamedTuple):
    """One record: its first line (from 1), its first byte in the text, its bytes, and, where it is known, its value."""

    line: int
    offset: int
    data: bytes
    value: Any = None

    @property
    def end(self) -> int:
        return self.offset + len(self.data)

    def without_value(self) -> Raw:
        """The record as it is kept until its slice is cut: thousands of values make the garbage collector slow."""
        return self if self.value is None else Raw(self.line, self.offset, self.data)


def lines(file: BinaryIO, offset: int = 0, line: int = 1) -> Iterator[Raw]:
    """Lines that end with LF, CRLF or CR, as text files of all three kinds of systems have them."""
    for data in file:
        lone = b"\r" in data[:-2] or (b"\r" in data and not data.endswith(b"\r\n"))
        for part in _BREAK.findall(data) if lone else (data,):
            yield Raw(line, offset, part)
            line, offset = line + 1, offset + len(part)


def rows(file: BinaryIO, path: str, delimiter: str, quotes: bool, offset: int = 0, line: int = 1) -> Iterator[Raw]:
    """Records with their cells as `value`; blank lines are left out. Raises InputError naming the line."""
    csv.field_size_limit(LONGEST_CELL)
    taken: list[Raw] = []

    def feed() -> Iterator[str]:
        for raw in lines(file, offset, line):
            taken.append(raw)
            yield decoded(raw, path)

    reader = csv.reader(
        feed(), delimiter=delimiter, strict=True, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    )
    while True:
        taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{path}:{taken[0].line if taken else line}: {_why(error)}") from error
        if cells:
            yield Raw(taken[0].line, taken[0].offset, b"".join(raw.data for raw in taken), cells)


def decoded(raw: Raw, path: str) -> str:
    """The record as text; raises InputError naming the line when it is not UTF-8."""
    try:
        return raw.data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}:{raw.line}: not UTF-8 ({error}). Convert the file to UTF-8.") from error


def _why(error: csv.Error) -> str:
    said = str(error)
    if "unexpected end of data" in said:
        said = "a quote that opens here is never closed"
    elif "expected after" in said:
        said = f"text follows the closing quote of a cell ({said})"
    return (
        f"{said}. Correct the cell (a quote inside a quoted cell is doubled), or set `quotes: false` "
        "(--no-quotes) when quotes in this file are plain text."
    )
