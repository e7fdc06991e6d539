"""Text normalisation for comparison: shared by deduplication, decontamination and repetition checks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

_NOT_WORDS = re.compile(r"[^\w]+|_+")
_UNSPACED = "぀-ヿ㐀-䶿一-鿿豈-﫿\U00020000-\U0003ffff"
_PIECES = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


def normalised(text: str) -> str:
    """`text` without what rewording by form changes: NFKC, case folded, marks and punctuation are single blanks.

    Two texts that differ in case, punctuation, white space or the width and composition of characters are equal after
    it ("Is it RED?" and "is it red"); an accent stays, because it tells words apart.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _NOT_WORDS.sub(" ", folded).strip()


def words(text: str) -> list[str]:
    """The words of `normalised(text)`, in order; of scripts that are written without blanks (Han, Kana) each character
    is one."""
    return _PIECES.findall(normalised(text))


def ngrams(of: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    """All runs of `length` words, in order and with repetitions; none where there are fewer words."""
    return zip(*(of[start:] for start in range(length)), strict=False)
