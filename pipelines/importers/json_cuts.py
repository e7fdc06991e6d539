"""Where the values of a JSON list begin and end, found for a megabyte of text at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Values(NamedTuple):
    """Where the values of a JSON list begin and end in a text, in bytes."""

    starts: np.ndarray
    ends: np.ndarray


def values_in(text: bytes) -> Values:
    """The objects and lists that begin and end in a text, which starts between two values of a list.

    Only brackets and quotes are looked at: of a text that is not JSON the answer means nothing.
    """
    codes = np.frombuffer(text, np.uint8)
    brackets = codes | 0x20  # [ becomes {, and ] becomes }
    marks = np.flatnonzero((brackets == ord("{")) | (brackets == ord("}")))
    marks = marks[np.searchsorted(_quotes(codes, text), marks) % 2 == 0]  # those outside of strings
    steps = np.where(brackets[marks] == ord("{"), 1, -1)
    depth = np.cumsum(steps)
    closed = np.flatnonzero(depth < 0)
    if len(closed):  # the list itself ends here
        marks, steps, depth = marks[: closed[0]], steps[: closed[0]], depth[: closed[0]]
    ends = marks[depth == 0]
    starts = marks[(depth == 1) & (steps == 1)][: len(ends)]
    return Values(starts, ends + 1)


def _quotes(codes: np.ndarray, text: bytes) -> np.ndarray:
    """Where strings begin and end: quotes without those behind an odd number of backslashes."""
    quotes = np.flatnonzero(codes == ord('"'))
    if b"\\" not in text:
        return quotes
    slashes = np.flatnonzero(codes == ord("\\"))
    runs = slashes[np.diff(slashes, prepend=-2) > 1]  # where backslashes begin that stand together
    behind = np.flatnonzero(codes[quotes - 1] == ord("\\"))  # of a quote at 0 this is the text's last byte
    lengths = quotes[behind] - runs[np.searchsorted(runs, quotes[behind]) - 1]
    return np.delete(quotes, behind[lengths % 2 == 1])
