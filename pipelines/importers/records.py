"""Text sources as a stream of records with their byte ranges: txt, csv, tsv, json and jsonl.

A file is split once to find where its slices begin; a worker then reads the bytes of its slice alone.
Splitting and parsing are apart, so that a slice's bytes are split by the same code as the whole file.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import fsspec

from schemas.errors import InputError

TEXT_FORMATS = ("txt", "csv", "tsv", "json", "jsonl")

_CHUNK = 1 << 20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Raw:
    """One undecoded record: its first line (from 1), where it starts in the file, and its bytes."""

    line: int
    offset: int
    data: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


@dataclass(frozen=True)
class Span:
    """A range of bytes in a file, and the line number of its first byte."""

    offset: int
    length: int
    line: int


class TextSource:
    """One text file. Its header (csv, tsv) is read once; `records` and `parse` do the rest."""

    def __init__(self, path: str, format: str):
        self.path, self.format = path, format
        self.start, self.line, self.header = self._read_header()

    def records(self) -> Iterator[Raw]:
        """Every record of the file, in order."""
        with _open(self.path) as file:
            file.seek(self.start)
            yield from self._split(file, self.start, self.line)

    def records_in(self, span: Span) -> Iterator[Raw]:
        """The records of one byte range that begins and ends between records."""
        with _open(self.path) as file:
            file.seek(span.offset)
            content = file.read(span.length)
        if self.format == "json":
            yield from _split_array(io.BytesIO(content), span.offset, span.line, self.path, opened=True)
        else:
            yield from self._split(io.BytesIO(content), span.offset, span.line)

    def parse(self, raw: Raw) -> dict[str, Any]:
        """The record's values by column name. Raises InputError naming file and line."""
        text = self._decode(raw)
        if self.format == "txt":
            return {"url": text.strip()}
        if self.format in ("csv", "tsv"):
            return self._parse_cells(text, raw.line)
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            where = f"{error.msg}, character {error.pos + 1} of the record"
            raise InputError(f"{self.path}:{raw.line}: this is not JSON ({where}). Correct it.") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.path}:{raw.line}: JSON that cannot be read ({error}). Correct it.") from error
        if not isinstance(value, dict):
            raise InputError(f"{self.path}:{raw.line}: expected a JSON object, found {type(value).__name__}.")
        return value

    def _split(self, file: BinaryIO, offset: int, line: int) -> Iterator[Raw]:
        if self.format == "json":
            return _split_array(file, offset, line, self.path, opened=False)
        return _split_lines(file, offset, line, quoted=self.format == "csv")

    def _read_header(self) -> tuple[int, int, list[str]]:
        """(first byte after the header, its line, column names)."""
        with _open(self.path) as file:
            start = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
            if self.format not in ("csv", "tsv"):
                return start, 1, []
            file.seek(start)
            first = next(_split_lines(file, start, 1, quoted=self.format == "csv"), None)
        if first is None:
            raise InputError(f"{self.path}: the file is empty; its first line must name the columns.")
        following = first.line + first.data.count(b"\n")
        return first.end, following, [name.strip() for name in self._cells(self._decode(first))]

    def _parse_cells(self, text: str, line: int) -> dict[str, Any]:
        cells = self._cells(text)
        if len(cells) != len(self.header):
            raise InputError(
                f"{self.path}:{line}: {len(cells)} cells, but the header names {len(self.header)} columns "
                f"({', '.join(self.header)}). Quote cells that contain the separator."
            )
        return dict(zip(self.header, cells, strict=True))

    def _cells(self, text: str) -> list[str]:
        if self.format == "tsv":
            return text.rstrip("\r\n").split("\t")
        # Longer than the whole text no cell is; the module's own limit is 131,072 characters, less than some alt texts.
        csv.field_size_limit(max(csv.field_size_limit(), len(text)))
        return next(csv.reader(io.StringIO(text, newline="")), [])

    def _decode(self, raw: Raw) -> str:
        try:
            return raw.data.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}:{raw.line}: not UTF-8 ({error}). Convert the file to UTF-8.") from error


def _open(path: str) -> Any:
    """The file as (decompressed) bytes; raises InputError when it is missing."""
    opened = fsspec.open(path, "rb", compression="infer")
    try:
        return _Reader(opened, opened.open())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Check the path.") from error


class _Reader:
    """Keeps fsspec's handle alive next to the file it opened, and closes both."""

    def __init__(self, handle: Any, file: Any):
        self._handle, self._file = handle, file

    def __enter__(self) -> Any:
        return self._file

    def __exit__(self, *error: object) -> None:
        self._handle.close()


def _split_lines(file: BinaryIO, offset: int, line: int, quoted: bool) -> Iterator[Raw]:
    """Lines that are not blank; with `quoted`, a line break inside double quotes does not end a record (RFC 4180)."""
    pending: list[bytes] = []
    inside, first = False, line
    for number, data in enumerate(file, line):
        if not pending:
            first = number
        pending.append(data)
        inside ^= quoted and data.count(b'"') % 2 == 1
        if inside:
            continue
        record = b"".join(pending)
        if record.strip():
            yield Raw(first, offset, record)
        offset += len(record)
        pending = []
    if pending:
        yield Raw(first, offset, b"".join(pending))


def _split_array(file: BinaryIO, offset: int, line: int, path: str, opened: bool) -> Iterator[Raw]:
    """The values of one JSON list, without holding more than a chunk of it.

    The bytes are scanned as Latin-1, where one byte is one character, so that positions in the text are
    positions in the file; the structure of JSON is ASCII, so this finds the same values as UTF-8 would.
    """
    window = _Window(file, offset, line)
    if not opened:
        window.skip(" \t\r\n")
        if window.next != "[":
            raise InputError(
                f"{path}: expected a JSON list, found {window.next or 'an empty file'!r}. "
                "For one object per line, name the file .jsonl or set `format: jsonl`."
            )
        window.advance(1)
    while True:
        window.skip(" \t\r\n,")
        if window.next in ("", "]"):
            if not window.next and not opened:
                raise InputError(f"{path}:{window.line}: the list has no closing bracket; the file was cut.")
            return
        text = window.value(path)
        yield Raw(window.line, window.offset, text.encode("latin-1"))
        window.advance(len(text))


class _Window:
    """The text of a file from a moving position on: read in chunks, dropped once passed."""

    def __init__(self, file: BinaryIO, offset: int, line: int):
        self._file, self.offset, self.line = file, offset, line
        self._text, self._place = "", 0
        self._scan = json.JSONDecoder(strict=False).raw_decode
        self._widen()

    @property
    def next(self) -> str:
        """The character at the position; empty at the end of the file."""
        return self._text[self._place : self._place + 1]

    def skip(self, characters: str) -> None:
        while self.next and self.next in characters:
            self.advance(1)

    def advance(self, length: int) -> None:
        self.line += self._text.count("\n", self._place, self._place + length)
        self.offset += length
        self._place += length
        if self._place == len(self._text):
            self._widen()

    def value(self, path: str) -> str:
        """The text of the JSON value at the position; widens the window until the value is complete."""
        while True:
            try:
                end = self._scan(self._text, self._place)[1]
            except json.JSONDecodeError as error:
                if not self._widen():
                    raise InputError(f"{path}:{self.line}: this is not JSON ({error.msg}). Correct it.") from error
                continue
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}:{self.line}: JSON that cannot be read ({error}). Correct it.") from error
            # A number may go on beyond the window; an object, a list or a string that parsed is complete.
            if end < len(self._text) or not self._widen():
                return self._text[self._place : end]

    def _widen(self) -> bool:
        """Read as much as is left to scan, at least a chunk: doubling keeps one huge value linear."""
        left = self._text[self._place :]
        more = self._file.read(max(_CHUNK, len(left))).decode("latin-1")
        self._text, self._place = left + more, 0
        return bool(more)


def span_of(records: list[Raw]) -> Span:
    """The byte range of consecutive records."""
    first, last = records[0], records[-1]
    return Span(first.offset, last.end - first.offset, first.line)
