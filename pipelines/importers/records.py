"""Text sources as a stream of records with their byte ranges: txt, csv, tsv, json and jsonl.

A file is read once to find where its slices begin; a worker then reads the bytes of its slice alone. Both use the
same code: schemas/streams.py for bytes, delimited.py for lines and cells, json_lists.py for JSON lists.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any, BinaryIO

from pipelines.importers import delimited, json_lists, plain_rows
from pipelines.importers.delimited import Raw, decoded
from pipelines.importers.plain_scan import PlainScan
from schemas.errors import InputError
from schemas.streams import open_text, read_text

TEXT_FORMATS = ("txt", "csv", "tsv", "json", "jsonl")
SEPARATORS = {"csv": ",", "tsv": "\t"}
_SEPARATOR_LINE = re.compile(rb'"?sep=([!#-/:-@[-`{-~ \t])"?(?:[\r\n]|\Z)', re.IGNORECASE)


@dataclass(frozen=True)
class Span:
    """A range of bytes in a text, and the line number of its first byte."""

    offset: int
    length: int
    line: int


@dataclass(frozen=True)
class Layout:
    """How the records of a text source are written."""

    format: str
    """One of TEXT_FORMATS. Whether a JSON file holds a list or an object per line is seen by its content."""
    header: bool = True
    """Whether the first line of delimited text names the columns; without one their names are 0, 1, 2..."""
    separator: str | None = None
    """Between cells: a comma (csv) or a tab (tsv) by default."""
    quotes: bool = True
    """Whether a double quote at the start of a cell quotes it; else it is text."""
    records: str | None = None
    """The member of a JSON file's object that holds the list of records."""


class TextSource:
    """One text file. `records` and `records_in` give its records, `parse` a record's values by column name.

    Raises InputError for a file that cannot be read as its layout says, naming line and remedy.
    """

    def __init__(self, path: str, layout: Layout, form: str = "", header: Sequence[str] | None = None):
        self.path, self.layout = path, layout
        self.form = form or _form(path, layout)
        """lines, cells, list, member or columns: see `_form`."""
        stated = _stated_separator(path) if self.form == "cells" else None
        self._separator = layout.separator or stated or SEPARATORS.get(layout.format, "")
        self._before = stated is not None
        self.header: list[str] = list(header if header is not None else self._read_header())
        """The column names of delimited text; empty for other formats."""

    @classmethod
    def at(cls, location: Mapping[str, Any], layout: Layout) -> Iterator[dict[str, Any]]:
        """The values of the records at a location that `location` gave."""
        source = cls(location["path"], replace(layout, format=location["format"]), location["form"], location["header"])
        span = Span(**location["span"])
        if source.form not in ("list", "member"):
            return map(source.parse, source.records_in(span))
        data = read_text(source.path, span.offset, span.length)
        values = json_lists.plain_values(data, source.path, span.offset, span.line)
        return (source.row_of(value, span.line) for value in values)

    @classmethod
    def plain_at(cls, location: Mapping[str, Any], layout: Layout, count: int) -> plain_rows.Columns | None:
        """The same as columns, where they are `count` of LLaVA's plain rows; None where they are not."""
        source = cls(location["path"], replace(layout, format=location["format"]), location["form"], location["header"])
        span = Span(**location["span"])
        if source.form in ("list", "member"):
            return plain_rows.read_list(read_text(source.path, span.offset, span.length), count)
        if source.form != "lines":
            return None
        lines = [raw.data for raw in source.records_in(span)]
        return plain_rows.read_lines(lines) if len(lines) == count else None

    def location(self, records: Sequence[Raw]) -> dict[str, Any]:
        """Where consecutive records are, as JSON values."""
        first, last = records[0], records[-1]
        length = len(records) if self.form == "columns" else last.end - first.offset
        span = asdict(Span(first.offset, length, first.line))
        return {
            "path": self.path,
            "format": self.layout.format,
            "form": self.form,
            "header": self.header,
            "span": span,
        }

    def content(self, records: Sequence[Raw]) -> list[bytes]:
        """What decides the values of records, for a digest."""
        content = [raw.data.rstrip(b"\r\n") for raw in records]
        if self.layout.format not in SEPARATORS:
            return content
        header = [",".join(self.header).encode()]
        # Tab-separated text had no quotes before this one was read as the csv module reads it.
        quoted = self.layout.format == "tsv" and self.layout.quotes and any(b'"' in part for part in content)
        return [*header, *content, *([b"quotes"] if quoted else [])]

    def records(self, plain: PlainScan | None = None) -> Iterator[Raw]:
        """Every record of the file, in order. plain: where a record is a plain row of LLaVA's, its picture is its only
        value."""
        if self.form == "columns":
            yield from self._column_rows(0, None)
            return
        with open_text(self.path) as file:
            if self.form in ("list", "member"):
                yield from json_lists.list_values(file, self.path, self.layout.records, plain)
            elif plain is not None and self.form == "lines":
                yield from (self._scanned(raw, plain) for raw in self._split(file))
            else:
                named = self.form == "cells" and self.layout.header
                yield from islice(self._split(file), named + self._before, None)

    def records_in(self, span: Span) -> Iterator[Raw]:
        """The records of one byte range that begins and ends between records."""
        if self.form == "columns":
            return self._column_rows(span.offset, span.offset + span.length)
        file = io.BytesIO(read_text(self.path, span.offset, span.length))
        if self.form in ("list", "member"):
            return json_lists.span_values(file, self.path, span.offset, span.line)
        return self._split(file, span.offset, span.line)

    def parse(self, raw: Raw) -> dict[str, Any]:
        """The record's values by column name. Raises InputError naming file and line."""
        if self.layout.format == "txt":
            return {"url": decoded(raw, self.path).strip()}
        if self.form == "cells":
            return self._named(raw.value, raw.line)
        value = raw.value
        if value is None:
            try:
                value = json.loads(decoded(raw, self.path))
            except json.JSONDecodeError as error:
                where = f"{error.msg}, character {error.pos + 1} of the record"
                raise InputError(f"{self.path}:{raw.line}: this is not JSON ({where}). Correct it.") from error
            except (ValueError, RecursionError) as error:
                raise InputError(f"{self.path}:{raw.line}: JSON that cannot be read ({error}). Correct it.") from error
        return self.row_of(value, raw.line)

    def row_of(self, value: Any, line: int) -> dict[str, Any]:
        """A JSON value as a row: cells by name, those of a list by number. Raises InputError for other values."""
        if isinstance(value, dict):
            return value
        if isinstance(value, list):
            return {str(number): cell for number, cell in enumerate(value)}
        found = "null" if value is None else type(value).__name__
        raise InputError(f"{self.path}:{line}: expected a JSON object, found {found}. Remove or correct it.")

    def _split(self, file: BinaryIO, offset: int = 0, line: int = 1) -> Iterator[Raw]:
        if self.form == "cells":
            return delimited.rows(file, self.path, self._separator, self.layout.quotes, offset, line)
        return (raw for raw in delimited.lines(file, offset, line) if raw.data.strip())

    def _scanned(self, raw: Raw, plain: PlainScan) -> Raw:
        text = decoded(raw, self.path).rstrip("\r\n")
        row = plain.row(text, 0)
        return raw if row is None or row.end < len(text) else raw._replace(value=row.values)

    def _column_rows(self, start: int, end: int | None) -> Iterator[Raw]:
        for number, row in enumerate(_columns(self.path)[start:end], start):
            yield Raw(1, number, json.dumps(row).encode(), row)

    def _read_header(self) -> list[str]:
        if self.form != "cells":
            return []
        with open_text(self.path) as file:
            first = next(islice(self._split(file), self._before, None), None)
        if first is None:
            what = "its first line must name the columns" if self.layout.header else "it has no row"
            raise InputError(f"{self.path}: the file is empty; {what}.")
        if not self.layout.header:
            return [str(number) for number in range(len(first.value))]
        return _distinct(_checked([name.strip() for name in first.value], self.path))

    def _named(self, cells: list[str], line: int) -> dict[str, Any]:
        if len(cells) != len(self.header):
            first = "the header names" if self.layout.header else "the first row has"
            raise InputError(
                f"{self.path}:{line}: {len(cells)} cells, but {first} "
                f"{len(self.header)} columns ({', '.join(self.header)}). Quote cells that contain the separator."
            )
        return dict(zip(self.header, cells, strict=True))


def _form(path: str, layout: Layout) -> str:
    """How the records of the file are cut.

    lines: a record per line; cells: a row of delimited text; list: the values of the JSON list that the file is;
    member: those of a list in the object that the file is; columns: an object of lists, one per column.
    Published files are named .json and .jsonl without much care, so the content decides.
    """
    if layout.format not in ("json", "jsonl"):
        return "cells" if layout.format in SEPARATORS else "lines"
    with open_text(path) as file:
        head = file.read(1 << 20).lstrip()
    if layout.records is not None:
        return "member"
    per_line = _value_per_line(head)
    if head[:1] == b"[" and not per_line:
        return "list"
    if layout.format == "jsonl" or per_line:
        return "lines"
    if head[:1] != b"{":
        found = repr(head[:1].decode(errors="replace")) if head else "an empty file"
        raise InputError(
            f"{path}: expected a JSON list, found {found}. For one object per line, name the file .jsonl or set "
            "`format: jsonl`."
        )
    with open_text(path) as file:
        members = json_lists.members(file, path)
    sizes = {one.size if one.kind == "list" and one.items != "dict" else -1 for one in members.values()}
    if len(sizes) == 1 and -1 not in sizes:
        return "columns"
    lists = {name: one.size for name, one in members.items() if one.kind == "list"}
    which = ", ".join(f"{name} ({size})" for name, size in lists.items())
    raise InputError(
        f"{path}: expected a JSON list, found an object with {', '.join(list(members)[:10]) or 'no member'}"
        f"{', ...' if len(members) > 10 else ''}. "
        + (
            f"Say which of its lists holds the rows with `records: NAME`: {which}."
            if lists
            else "Put a single row into [ ]; turn a map of rows into a list."
        )
    )


def _value_per_line(head: bytes) -> bool:
    """Whether the first line is a complete JSON value and another one begins after it."""
    first, _, rest = head.replace(b"\r\n", b"\n").replace(b"\r", b"\n").partition(b"\n")
    if rest.lstrip()[:1] not in (b"{", b"["):
        return False
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return False
    # Consecutive lists of rows are files that were joined, not rows.
    if isinstance(value, list):
        return not any(isinstance(item, dict) for item in value)
    return isinstance(value, dict)


def _stated_separator(path: str) -> str | None:
    """The separator that a first line `sep=;` states, which Excel reads and writes."""
    with open_text(path) as file:
        found = _SEPARATOR_LINE.match(file.read(16))
    return found[1].decode() if found else None


@lru_cache(maxsize=1)
def _columns(path: str) -> Sequence[dict[str, Any]]:
    with open_text(path) as file:
        content = json.loads(file.read())
    return json_lists.columns_as_rows(content, path)


def _checked(names: list[str], path: str) -> list[str]:
    if any(name.startswith(("http://", "https://")) for name in names):
        url = next(number for number, name in enumerate(names) if name.startswith(("http://", "https://")))
        raise InputError(
            f"{path}: the first line should name the columns, but holds a row ({names[url]!r}). Set `header: false` "
            f"(--no-header) and say what the columns are, counted from 0: `columns: {{url: {url}}}`."
        )
    other = next((mark for mark in ("\t", ";", "|", ",") if len(names) == 1 and mark in names[0]), None)
    if other is not None:
        raise InputError(
            f"{path}: the header is one column, {names[0]!r}. Set `separator: {json.dumps(other)}` if it is several."
        )
    return names


def _distinct(names: list[str]) -> list[str]:
    """Names that repeat get a number: caption, caption_2."""
    distinct: list[str] = []
    for name in names:
        number, one = 1, name
        while one in distinct:
            number += 1
            one = f"{name}_{number}"
        distinct.append(one)
    return distinct
