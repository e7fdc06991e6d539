"""Tokenise word by word, with a cache, where that gives the same ids as the whole text: most words recur.

Llama-like SentencePiece tokenizers treat a text as one word and recompute its merges each time. None of their pieces
has a blank after a letter, so no merge crosses the blanks in front of a word, and words can be cached.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from tokenizers import Tokenizer as Backend

BLANK = "\u2581"
"""SentencePiece's visible blank."""

_BLANKS = f" {BLANK}"

UNIT = re.compile(f"[ {BLANK}]*[^ {BLANK}]+|[ {BLANK}]+")
"""A word with the blanks in front of it, or the blanks at the end of a text."""

ROOM = 65_536
"""Cached words before the cache is cleared: about 20 MB."""

LONG = 64
"""Characters of a word above which it is not cached: it does not recur, and may be of any size."""

COUNTED_ROOM = 262_144
"""Words whose number of tokens is known, before they are forgotten: about 30 MB."""


class Pieces(NamedTuple):
    """Token ids of a text and, for each, its [start, end) in characters of that text."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class WordCache:
    """Encodes texts word by word; `backend` encodes a word that does not start a text, without adding a blank."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.words: dict[str, Pieces] = {}
        self._counts: dict[str, int] = {}
        self._opened: dict[str, Pieces] = {}
        self._divided: dict[tuple[str, int], tuple[int, int, int]] = {}

    @classmethod
    def of(cls, content: dict[str, Any]) -> WordCache | None:
        """The cache for a tokenizer.json without control tokens; None if words would not give the ids of the text."""
        bare = _without_prefix(content)
        if bare is None or content["added_tokens"] or not _keeps_words_apart(content["model"]):
            return None
        return cls(Backend.from_str(json.dumps(bare)))

    def encode(self, text: str, opening: Backend | None) -> Pieces:
        """Ids and offsets of `text`. opening: the encoder of its first word, if a blank is put in front of that."""
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        position = 0
        for word in UNIT.findall(text):
            if opening is not None:
                found, opening = _encoded(opening, word), None
            else:
                found = self.words.get(word) or self._add(word)
            ids += found.ids
            offsets += [(start + position, end + position) for start, end in found.offsets]
            position += len(word)
        return Pieces(ids, offsets)

    def pieces(self, word: str) -> Pieces:
        """Ids and offsets of one word that does not start a text."""
        return self.words.get(word) or self._add(word)

    def opened(self, word: str, opening: Backend) -> Pieces:
        """Those of a word in front of which `opening` puts a blank."""
        found = self._opened.get(word)
        if found is None:
            if len(self._opened) >= ROOM:
                self._opened.clear()
            found = self._opened[word] = _encoded(opening, word)
        return found

    def divided(self, word: str, place: int) -> tuple[int, int, int]:
        """Tokens of a word: all, those with a character before `place`, those with one behind it."""
        found = self._divided.get((word, place))
        if found is None:
            if len(self._divided) >= ROOM:
                self._divided.clear()
            offsets = self.pieces(word).offsets
            left = sum(begin < place for begin, _ in offsets)
            right = sum(max(end, begin + 1) > place for begin, end in offsets)
            found = self._divided[word, place] = (len(offsets), left, right)
        return found

    def number(self, text: str) -> int:
        """How many tokens a text of whole words has that does not start a text."""
        words = UNIT.findall(text)
        try:
            return sum(map(self._counts.__getitem__, words))
        except KeyError:
            self._know(set(words))
            return sum(map(self._counts.__getitem__, words))

    def learn(self, texts: Iterable[str]) -> None:
        """Count the tokens of the words of many texts, as they are behind a blank, in one call."""
        words: set[str] = set()
        for text in texts:
            words.update(UNIT.findall(f" {text}"))
        self._know(words)

    def _know(self, words: set[str]) -> None:
        missing = [word for word in words if word not in self._counts]
        if len(self._counts) + len(missing) > COUNTED_ROOM:
            self._counts.clear()
            missing = list(words)
        made = self.backend.encode_batch_fast(missing, add_special_tokens=False)
        self._counts.update(zip(missing, map(len, made), strict=True))

    def _add(self, word: str) -> Pieces:
        if len(word) > LONG:
            return _encoded(self.backend, word)
        if len(self.words) >= ROOM:
            self.words.clear()
        found = self.words[word] = _encoded(self.backend, word)
        return found


def end_of_word(text: str, place: int) -> int:
    """Where the word that begins at `place` ends."""
    found = UNIT.match(text, place)
    return found.end() if found else len(text)


def start_of_word(text: str, place: int) -> int:
    """Where the word around `place` begins; `place` itself where one begins there, or the text ends."""
    if place >= len(text):
        return len(text)
    start = place
    if text[place] not in _BLANKS:
        while start and text[start - 1] not in _BLANKS:
            start -= 1
    while start and text[start - 1] in _BLANKS:
        start -= 1
    return start


def _encoded(backend: Backend, text: str) -> Pieces:
    encoding = backend.encode(text, add_special_tokens=False)
    return Pieces(encoding.ids, encoding.offsets)


def _keeps_words_apart(model: dict[str, Any]) -> bool:
    """Whether the model is a deterministic BPE whose pieces have blanks only in front."""
    if model.get("type") != "BPE" or model.get("dropout") or BLANK not in model["vocab"]:
        return False
    return not any(BLANK in piece.lstrip(BLANK) for piece in model["vocab"])


def _without_prefix(content: dict[str, Any]) -> dict[str, Any] | None:
    """The same tokenizer without the blank in front of a text; None if it does more than make blanks visible."""
    pre, normaliser = content.get("pre_tokenizer"), content.get("normalizer")
    if normaliser is None and pre is not None and pre.get("type") == "Metaspace" and pre.get("split") is False:
        return {**content, "pre_tokenizer": {**pre, "prepend_scheme": "never"}}
    if pre is not None or normaliser is None:
        return None
    steps = normaliser.get("normalizers", [normaliser])
    kept = [step for step in steps if step.get("type") != "Prepend"]
    visible = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
    return {**content, "normalizer": visible} if kept == [visible] else None
