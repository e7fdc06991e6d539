"""Tokenise word by word, with a cache, where that gives the same ids as the whole text: most words recur.

Llama-like SentencePiece tokenizers treat a text as one word and recompute its merges each time. None of their pieces
has a blank after a letter, so no merge crosses the blanks in front of a word, and words can be cached.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from tokenizers import Tokenizer as Backend

BLANK = "\u2581"
"""SentencePiece's visible blank."""

UNIT = re.compile(f"[ {BLANK}]*[^ {BLANK}]+|[ {BLANK}]+")
"""A word with the blanks in front of it, or the blanks at the end of a text."""

ROOM = 65_536
"""Cached words before the cache is cleared: about 20 MB."""


class Pieces(NamedTuple):
    """Token ids of a text and, for each, its [start, end) in characters of that text."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class WordCache:
    """Encodes texts word by word; `backend` encodes a word that does not start a text, without adding a blank."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.words: dict[str, Pieces] = {}

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

    def _add(self, word: str) -> Pieces:
        if len(self.words) >= ROOM:
            self.words.clear()
        found = self.words[word] = _encoded(self.backend, word)
        return found


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
