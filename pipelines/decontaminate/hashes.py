"""The compared hashes of images and texts, 64 bits each, from which the text cannot be recovered."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipelines.texts import words
from schemas.phash import hash_grey
from schemas.pictures import grey, read

PLACEHOLDER = "<image>"
VIEWS = 15
"""Perceptual hashes of a picture in an index: its own, and those of crops of it."""
FLAT = 4.0
"""Standard deviation of grey, of 255, below which a picture has too little structure for a perceptual hash."""

_THIRDS = (0.0, 0.5, 1.0)
_WINDOWS = [(top, left, 0.95) for top in _THIRDS for left in _THIRDS] + [(0.5, 0.5, 0.9)]
_SIDES = ((0.05, 0, 0, 0), (0, 0.05, 0, 0), (0, 0, 0.05, 0), (0, 0, 0, 0.05))

_BASE = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio, odd."""


def bytes_hash(sha256: str) -> int:
    """The first 64 bits of a sha256 in hex: among a million of them and a billion rows 5e-5 chance hits."""
    return int(sha256[:16], 16)


def views(data: bytes, min_side: int) -> tuple[str, list[int]]:
    """(sha256 in hex, perceptual hashes of the picture and of `VIEWS - 1` crops of it, each once).

    No perceptual hash of a picture with a shorter side or too little structure: many are alike by it. Raises
    PictureError for bytes that are not a picture.
    """
    header = read(data)
    digest = hashlib.sha256(data).hexdigest()
    pixels = grey(data, header)
    if min(pixels.shape) < min_side or pixels.std() < FLAT:
        return digest, []
    hashes = [hash_grey(view) for view in [pixels, *_crops(pixels)]]
    return digest, list(dict.fromkeys(int(one, 16) for one in hashes))


def gram_hashes(texts: Sequence[Sequence[str]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """(hashes of all runs of `length` words, uint64; which of `texts`, lists of words, each one is of, int64).

    A polynomial of the words' hashes, so that a run costs a few operations and not a digest.
    """
    known: dict[str, int] = {}
    flat = [word for text in texts for word in text]
    for word in flat:
        if word not in known:
            known[word] = _hash(word)
    hashes = np.fromiter(map(known.__getitem__, flat), np.uint64, len(flat))
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    starts = len(flat) - length + 1
    if starts <= 0:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    found = np.zeros(starts, np.uint64)
    for place in range(length):
        found = found * _BASE + hashes[place : place + starts]
    whole = owner[:starts] == owner[length - 1 :]
    found = found[whole]
    found ^= found >> np.uint64(31)
    return found * _BASE, owner[:starts][whole]


def lines(text: str) -> Iterator[list[str]]:
    """The words of each line: what a prompt adds in lines of its own makes no run with the question."""
    for line in text.replace(PLACEHOLDER, "\n").splitlines():
        if found := words(line):
            yield found


def questions(text: str, least: int) -> set[int]:
    """Hashes of what may be a question of at least `least` words: the whole text, and its first line."""
    found = list(lines(text))
    whole = [word for line in found for word in line]
    return {_hash(" ".join(one)) for one in (whole, *found[:1]) if len(one) >= least}


def distinct_pairs(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different pairs of two arrays of one length, ascending by the first and then the second."""
    order = np.lexsort([second, first])
    first, second = first[order], second[order]
    fresh = np.ones(len(first), bool)
    fresh[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return first[fresh], second[fresh]


def message_texts(messages: Sequence[dict[str, Any]] | None) -> Iterator[tuple[str, str]]:
    """(role, text) of each message."""
    for message in messages or ():
        parts = [part["text"] for part in message["content"] or () if part["type"] == "text" and part["text"]]
        if parts:
            yield message["role"] or "", "\n".join(parts)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _crops(pixels: np.ndarray) -> Iterator[np.ndarray]:
    height, width = pixels.shape
    for top, left, kept in _WINDOWS:
        rows, columns = round(height * kept), round(width * kept)
        down, right = round((height - rows) * top), round((width - columns) * left)
        yield pixels[down : down + rows, right : right + columns]
    for above, below, before, behind in _SIDES:
        yield pixels[
            round(height * above) : round(height * (1 - below)), round(width * before) : round(width * (1 - behind))
        ]
