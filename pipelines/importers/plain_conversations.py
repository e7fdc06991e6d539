"""Plain rows of LLaVA's JSON (plain_rows.py) as columns of `conversations`, all rows at a time.

They are what `from_llava` makes of the rows one by one; a property test compares the two. Rows that are odd in a way
that columns cannot show cheaply are left to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.importers.plain_rows import Columns
from schemas.chat.llava_json import ROLES, SPEAKERS
from schemas.chat.shapes import MEDIA_PLACEHOLDERS, PLACEHOLDER
from schemas.records import MESSAGE

_SPEAKERS = pa.array(SPEAKERS.values())
_ROLES = pa.array([ROLES[speaker] for speaker in SPEAKERS.values()])
_KINDS = pa.array(["text", "image"])
_PARTS = MESSAGE.field("content").type


class _Marked(NamedTuple):
    """The turns whose text holds a `<`, which may be a placeholder."""

    turn: np.ndarray
    """Their numbers among all turns."""
    odd: np.ndarray
    shows: np.ndarray
    """Whether each shows a picture, and is not odd."""
    first: np.ndarray
    """Whether the picture comes before the text, not after it."""
    rest: pa.StringArray
    """The text without the picture."""


class Conversations:
    """The turns of some rows."""

    def __init__(self, rows: Columns):
        self._has_image = pc.fill_null(pc.binary_length(rows.image), 0).to_numpy() > 0
        self._data_urls = _bools(pc.starts_with(rows.image, "data:"))
        self._counts = np.diff(rows.conversations.offsets.to_numpy())
        self._row = np.repeat(np.arange(len(rows)), self._counts)
        speakers, self._texts = rows.conversations.flatten().flatten()
        self._role = pc.index_in(speakers, _SPEAKERS)

    @cached_property
    def odd(self) -> np.ndarray:
        """Whether each row must be read separately.

        That is a row with a data URL, without turns, of an unknown speaker, with `<img>`, `<video>` or `<audio>`, with
        another number of placeholders than of pictures, with one within a text, or in front of one without a break.
        """
        turn = _bools(pc.is_null(self._role))
        turn[self._marked.turn] |= self._marked.odd
        odd = np.bincount(self._row[turn], minlength=len(self._counts)) > 0
        shown = np.bincount(self._row[self._marked.turn], self._marked.shows, len(self._counts))
        return odd | self._data_urls | (shown != self._has_image) | (self._counts == 0)

    def messages(self) -> pa.ListArray:
        """The column `messages`, of rows of which none is odd."""
        marked, shows = self._marked, self._marked.shows
        turn, rest = marked.turn[shows], marked.rest.filter(pa.array(shows))
        has_text = pc.binary_length(rest).to_numpy() > 0
        parts = np.ones(len(self._texts), np.int32)
        parts[turn] += has_text
        ends = _ends(parts)
        # A part is the text of a turn (its number here), what is left of a text beside its picture, or a picture (-1).
        part = np.full(ends[-1], -1)
        part[ends[:-1]] = np.arange(len(self._texts))
        part[ends[turn]] = -1
        part[(ends[turn] + marked.first[shows])[has_text]] = len(self._texts) + np.flatnonzero(has_text)
        texts = pa.concat_arrays([self._texts, rest]).take(pa.array(part, mask=part < 0))
        kinds = _KINDS.take(pa.array((part < 0).astype(np.int8)))
        content = pa.StructArray.from_arrays([kinds, texts], fields=list(_PARTS.value_type))
        contents = pa.ListArray.from_arrays(pa.array(ends), content, type=_PARTS)
        said = pa.StructArray.from_arrays([_ROLES.take(self._role), contents], fields=list(MESSAGE))
        return pa.ListArray.from_arrays(pa.array(_ends(self._counts)), said, type=pa.list_(MESSAGE))

    @cached_property
    def _marked(self) -> _Marked:
        turn = _holding(self._texts, "<")
        texts = self._texts.take(pa.array(turn))
        rest = pc.replace_substring(texts, PLACEHOLDER, "", max_replacements=1)
        placed = pc.not_equal(pc.binary_length(rest), pc.binary_length(texts)).to_numpy(zero_copy_only=False)
        first, last = (_bools(stands(texts, PLACEHOLDER)) for stands in (pc.starts_with, pc.ends_with))
        # Before other text a placeholder is written with a line break, whatever the row had.
        breaks = _bools(pc.starts_with(rest, "\n")) | _bools(pc.starts_with(rest, " "))
        odd = placed & ~((last | (first & breaks)) & self._has_image[self._row[turn]])
        more = _holding(rest, "<")
        others = rest.take(pa.array(more))
        for other in (PLACEHOLDER, "<img>", *MEDIA_PLACEHOLDERS):
            odd[more] |= _bools(pc.match_substring(others, other))
        return _Marked(turn, odd, placed & ~odd, first, rest)


def image_keys(keys: Sequence[str | None]) -> pa.ListArray:
    """The column `image_keys` of rows that show one picture, or None."""
    shown = pa.array([key for key in keys if key is not None], pa.string())
    return pa.ListArray.from_arrays(pa.array(_ends(np.array([key is not None for key in keys]))), shown)


def _holding(texts: pa.StringArray, character: str) -> np.ndarray:
    """The numbers of the texts (none is null) that hold an ASCII character, ten times as fast as `match_substring`."""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    codes = np.frombuffer(data or b"", np.uint8)[ends[0] : ends[-1]]
    at = np.flatnonzero(codes == ord(character)) + ends[0]
    return np.unique(np.searchsorted(ends, at, "right") - 1)


def _ends(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def _bools(array: pa.Array) -> np.ndarray:
    return pc.fill_null(array, False).to_numpy(zero_copy_only=False)
