"""The values of a JSON list, read from a file of any size without holding more than a chunk of it.

The list is the whole file, or one member of the object that the file holds (`annotations` of a COCO file). The file
is read to its end: what follows the list, a comma that is missing or one too many are refused with their line.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from pipelines.importers.delimited import Raw
from pipelines.importers.plain_scan import PlainScan
from schemas.errors import InputError

_CHUNK = 1 << 20
_BLANKS = " \t\r\n"
_SEPARATOR = re.compile(r"[ \t\r\n]*([,\]])[ \t\r\n]*")
_COMMA = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
_LONGEST_TOKEN = 16
"""Characters of what the window's end can cut without being a string: `Infinity`, an escaped pair of surrogates."""


class JsonText:
    """The text of a file from a moving position on: read in chunks, forgotten before the position."""

    def __init__(self, file: BinaryIO, path: str, offset: int = 0, line: int = 1):
        self.path, self.offset, self.line = path, offset, line
        self._file, self._text, self._at = file, "", 0
        self._bytes = codecs.getincrementaldecoder("utf-8")()
        self._scan = json.JSONDecoder().raw_decode
        self._widen()

    @property
    def next(self) -> str:
        """The next character that is not blank; empty at the end of the file."""
        while True:
            blanks = self._at
            while blanks < len(self._text) and self._text[blanks] in _BLANKS:
                blanks += 1
            self._advance(blanks - self._at)
            if self._at < len(self._text) or not self._widen():
                return self._text[self._at : self._at + 1]

    def take(self, expected: str, after: str) -> str:
        """Step over the next character, which is one of `expected`; raises InputError for another."""
        if not self.next or self.next not in expected:
            wanted = " or ".join(map(repr, expected))
            raise self.error(f"{wanted} is expected {after}, found {self._found()}")
        character = self.next
        self._advance(1)
        return character

    def value(self, plain: PlainScan | None = None) -> Raw:
        """Step over the next value; it comes with its bytes and their position. plain: for plain rows of LLaVA's, of
        which only the picture is a value."""
        if self._text[self._at : self._at + 1] in _BLANKS and not self.next:
            raise self.error("a value is expected here, found the end of the file")
        if plain is not None and (row := plain.row(self._text, self._at)) is not None:
            return self._step(row.end, row.data, row.values)
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _LONGEST_TOKEN
                if not (cut and self._widen()):
                    line = self.line + self._text.count("\n", self._at, error.pos)
                    raise InputError(f"{self.path}:{line}: this is not JSON ({error.msg}). Correct it.") from error
                continue
            except (ValueError, RecursionError) as error:
                raise self.error(f"JSON that cannot be read ({error})") from error
            # A number may continue beyond the window; an object, a list or a string that parsed is complete.
            if end < len(self._text) or not self._widen():
                break
        return self._step(end, self._text[self._at : end].encode(), value)

    def _step(self, end: int, data: bytes, value: Any) -> Raw:
        raw = Raw(self.line, self.offset, data, value)
        self._at, self.line, self.offset = end, self.line + (data.count(b"\n") if b"\n" in data else 0), raw.end
        return raw

    def separated(self) -> bool:
        """Step over a comma; False at the closing bracket, which is stepped over too. Raises InputError for others."""
        found = _SEPARATOR.match(self._text, self._at)
        if found and (end := found.end()) < len(self._text):  # else whitespace may continue beyond the window
            self.offset += end - self._at  # all of it is ASCII
            self.line += self._text.count("\n", self._at, end)
            self._at = end
            return found[1] == ","
        return self.take(",]", "after a value") == ","

    def end(self, after: str) -> None:
        """Raises InputError unless nothing follows."""
        if self.next:
            raise self.error(
                f"there is data after {after}: {self._found()}. One file holds one value: split files that "
                "were joined, or set `format: jsonl` for one value per line"
            )

    def error(self, what: str) -> InputError:
        return InputError(f"{self.path}:{self.line}: {what}. Correct it.")

    def _found(self) -> str:
        return repr(self._text[self._at : self._at + 20]) if self.next else "the end of the file: it is truncated"

    def _advance(self, length: int) -> None:
        passed = self._text[self._at : self._at + length]
        self.line += passed.count("\n")
        self.offset += length if passed.isascii() else len(passed.encode())
        self._at += length

    def _widen(self) -> bool:
        """Read as much as is left to scan, at least a chunk: doubling keeps one huge value linear."""
        left = self._text[self._at :]
        data = self._file.read(max(_CHUNK, len(left)))
        try:
            more = self._bytes.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise self.error(f"not UTF-8 in the chunk that begins here ({error})") from error
        self._text, self._at = left + more, 0
        # A chunk may end within a character; only no bytes are the end.
        return bool(data)


def list_values(file: BinaryIO, path: str, member: str | None = None, plain: PlainScan | None = None) -> Iterator[Raw]:
    """The values of the list that the file holds, or of the list called `member` in its object; plain: see
    JsonText.value.

    Raises InputError, naming the line, for a file that holds something else.
    """
    text = JsonText(file, path)
    if member is None:
        yield from _values(text, plain)
        text.end("the list")
        return
    text.take("{", f"before the member {member!r}")
    names: list[str] = []
    for name in _members(text):
        names.append(name)
        if name != member:
            _skip(text)
        elif text.next == "[":
            yield from _values(text, plain)
        else:
            raise text.error(f"{member!r} is to be a list of rows, found {text._found()}")
    text.end("the object")
    if member not in names:
        raise InputError(f"{path}: there is no member {member!r}. Members found: {', '.join(names) or 'none'}.")


def lists_of(
    file: BinaryIO, path: str, members: Collection[str], optional: Collection[str] = ()
) -> Iterator[tuple[str, Raw]]:
    """The values of several lists of the object that the file holds, each with its list's name, in one pass.

    Raises InputError as `list_values` does, at the end of the file for one of `members` that it lacks.
    """
    text = JsonText(file, path)
    text.take("{", "first")
    names: list[str] = []
    for name in _members(text):
        names.append(name)
        if name not in members and name not in optional:
            _skip(text)
        elif text.next == "[":
            yield from ((name, raw) for raw in _values(text))
        else:
            raise text.error(f"{name!r} is to be a list of rows, found {text._found()}")
    text.end("the object")
    if missing := [name for name in members if name not in names]:
        raise InputError(f"{path}: there is no list {missing[0]!r}. Members found: {', '.join(names) or 'none'}.")


def span_values(file: BinaryIO, path: str, offset: int, line: int) -> Iterator[Raw]:
    """The values of a part of a list that begins and ends with a value."""
    text = JsonText(file, path, offset, line)
    while text.next:
        yield text.value()
        if text.next:
            text.take(",", "between two values")


def plain_values(data: bytes, path: str, offset: int, line: int) -> Iterator[Any]:
    """What `span_values` gives as values alone, at half the cost. Raises InputError as that does."""
    text, at, scan = data.decode(), 0, json.JSONDecoder().raw_decode
    try:
        while at < len(text):
            value, at = scan(text, at)
            yield value
            if at < len(text):
                at = _COMMA.match(text, at).end()  # type: ignore[union-attr]
    except (ValueError, RecursionError, AttributeError) as error:
        for _ in span_values(io.BytesIO(data), path, offset, line):
            pass
        raise InputError(f"{path}: changed while it was read ({error}). Import it again.") from error


def object_values(file: BinaryIO, path: str) -> Iterator[tuple[str, Raw]]:
    """The members of the object that the file holds, one at a time; raises InputError as `list_values` does."""
    text = JsonText(file, path)
    text.take("{", "first")
    for name in _members(text):
        yield name, text.value()
    text.end("the object")


def member_value(file: BinaryIO, path: str, name: str) -> Any:
    """The value of one member of the object that the file holds, None without it. What follows it is not read."""
    text = JsonText(file, path)
    text.take("{", "first")
    for found in _members(text):
        if found == name:
            return text.value().value
        _skip(text)
    return None


@dataclass(frozen=True)
class Member:
    """A member of an object: `list`, `dict` or another type's name, how many items, and the first one's type."""

    kind: str
    size: int = 0
    items: str = ""


def members(file: BinaryIO, path: str) -> dict[str, Member]:
    """The members of the object that the file holds. No member is held as a whole."""
    text = JsonText(file, path)
    text.take("{", "first")
    found = {name: _skip(text) for name in _members(text)}
    text.end("the object")
    return found


def _values(text: JsonText, plain: PlainScan | None = None) -> Iterator[Raw]:
    text.take("[", "before the first value")
    if text.next == "]":
        text.take("]", "")
        return
    yield text.value(plain)
    while text.separated():
        yield text.value(plain)


def _members(text: JsonText) -> Iterator[str]:
    """The names of an open object's members; the caller steps over each value before it asks for the next."""
    if text.next == "}":
        text.take("}", "")
        return
    while True:
        name = text.value().value
        if not isinstance(name, str):
            raise text.error(f"a member's name is expected, found {str(name)[:20]!r}")
        text.take(":", "after a member's name")
        yield name
        if text.take(",}", "after a member") == "}":
            return


def _skip(text: JsonText) -> Member:
    """Step over a value, a list or object item by item."""
    if text.next == "[":
        size, items = 0, ""
        for raw in _values(text):
            size, items = size + 1, items or type(raw.value).__name__
        return Member("list", size, items)
    if text.next == "{":
        text.take("{", "")
        return Member("dict", len([_skip(text) for _ in _members(text)]))
    return Member(type(text.value().value).__name__)


def columns_as_rows(columns: Any, path: str) -> Sequence[dict[str, Any]]:
    """`{"url": [...], "caption": [...]}` (SBU) as rows; raises InputError when the lists are not of one length."""
    lengths = {name: len(values) for name, values in columns.items() if isinstance(values, list)}
    if len(lengths) < len(columns) or len(set(lengths.values())) != 1:
        found = ", ".join(f"{name}: {lengths.get(name, 'no list')}" for name in columns)
        raise InputError(f"{path}: columns of one length are expected, found {found}. Correct the file.")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
