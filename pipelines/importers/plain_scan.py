"""Where a plain row of LLaVA's JSON ends in a text, without making objects of it: in half the time of the json module.

A plain row has `id`, `image` and `conversations` of `{from, value}`, and nothing else. What is matched here the json
module reads; what is not is left to it.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import numpy as np

_BLANKS = r"[ \t\r\n]*+"

_ANY_STRING = r'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+"'
"""RFC 8259, section 7."""
_QUICK_STRING = r'"[^"]*+(?<!\\)"'
"""Twice as fast, in a text without control characters; escapes are to be looked at apart."""

_ESCAPES = re.compile(rb'(?:[^\\]*+\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+[^\\]*+')
_ESCAPED = np.frombuffer(b'"/bfnrt', np.uint8)
"""What may follow a backslash, but for what has to be looked at together with its neighbours."""


class PlainRow(NamedTuple):
    end: int
    """Behind its last character."""
    data: bytes
    values: dict[str, Any]
    """What an import looks at before it starts: the picture."""


class PlainScan:
    """Matches rows, and gives up on those of a text that has few plain ones."""

    def __init__(self) -> None:
        self._pause, self._misses = 0, 0
        self._text, self._pattern, self._checked = "", _EXACT, False

    def row(self, text: str, at: int) -> PlainRow | None:
        """The plain row that begins at a position; None where there is none, or it was not looked for."""
        if self._pause:
            self._pause -= 1
            return None
        if text is not self._text:
            self._look(text)
        found = self._match(text, at)
        self._misses = 0 if found else min(self._misses + 1, 10)
        self._pause = 0 if found else 2**self._misses - 2
        return found

    def _look(self, text: str) -> None:
        codes = np.frombuffer(text.encode() + b" ", np.uint8)
        escaped = codes[np.flatnonzero(codes == ord("\\")) + 1]
        self._text, self._pattern = text, _EXACT if codes.min() < 32 else _QUICK
        self._checked = bool(np.isin(escaped, _ESCAPED).all())

    def _match(self, text: str, at: int) -> PlainRow | None:
        found = self._pattern.match(text, at)
        if found is not None:
            data = text[at : found.end()].encode()
            if self._pattern is _EXACT or self._checked or _ESCAPES.fullmatch(data):
                return _row(found, data)
        if self._pattern is _EXACT or (found := _EXACT.match(text, at)) is None:
            return None
        return _row(found, text[at : found.end()].encode())


def _row(found: re.Match[str], data: bytes) -> PlainRow:
    image = found[1]
    name = image and (json.loads(image) if "\\" in image or image == "null" else image[1:-1])
    return PlainRow(found.end(), data, {"image": name})


def _pattern(string: str) -> re.Pattern[str]:
    """A plain row; the one group is the value of its last `image`."""
    colon, comma = f"{_BLANKS}:{_BLANKS}", f"{_BLANKS},{_BLANKS}"
    turn = rf'\{{{_BLANKS}"from"{colon}{string}{comma}"value"{colon}{string}{_BLANKS}\}}'
    values = {
        "id": rf"(?:{string}|null|-?(?:0|[1-9][0-9]{{0,17}}))",
        "image": rf"({string}|null)",
        "conversations": rf"\[{_BLANKS}{turn}(?:{comma}{turn})*+{_BLANKS}\]",
    }
    member = "|".join(f'"{name}"{colon}{value}' for name, value in values.items())
    # One place for all members, so that there is one group.
    return re.compile(rf'\{{{_BLANKS}(?:(?:{member}){_BLANKS}(?:,{_BLANKS}(?=")|(?=\}})))++\}}')


_QUICK, _EXACT = _pattern(_QUICK_STRING), _pattern(_ANY_STRING)
