"""Near-duplicate text: word n-grams, MinHash bands that produce candidates, and exact Jaccard similarity.

MinHash: Broder, "On the resemblance and containment of documents", SEQUENCES 1997. Bands of rows of a signature:
Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4. Permutations are replaced by multiply-shift
hashes of 32 bits (Dietzfelbinger et al., J. Algorithms 25, 1997).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pyarrow as pa

from pipelines.engine.blocks import distinct
from pipelines.engine.components import Components
from pipelines.texts import words
from schemas.lookup import hashes

PERMUTATIONS = 128
MISSED = 0.02
"""At most this share of pairs that are just similar enough shares no band."""
HOT = 256
"""A band's value that more texts share is searched by way of a few of them first."""
PIVOTS = 8
PAIRS = 1 << 15
"""Pairs whose similarity is computed at a time."""

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def bands_for(threshold: float, permutations: int = PERMUTATIONS) -> tuple[int, int]:
    """(bands, rows of a band): as few chance meetings as possible, and at `threshold` at most `MISSED` pairs missed."""
    fitting = [
        (permutations // rows, rows)
        for rows in range(1, permutations + 1)
        if (1 - threshold**rows) ** (permutations // rows) <= MISSED
    ]
    return fitting[-1] if fitting else (permutations, 1)


def grams(texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(numbers, ends, words): the distinct n-grams of all texts one after the other, uint64; where those of each text
    end, and how many words it has, int64, shape (texts,).

    A text with fewer than `length` words is one n-gram; one without words has none.
    """
    split = [words(text) for text in texts]
    counts = np.array([len(one) for one in split], np.int64)
    flat = hashes(pa.array([word for one in split for word in one], pa.string()))
    starts = np.cumsum(counts) - counts
    made = np.where(counts == 0, 0, np.maximum(counts - length + 1, 1))
    text = np.repeat(np.arange(len(counts)), made)
    place = np.arange(len(text)) - np.repeat(np.cumsum(made) - made, made) + starts[text]
    last = starts[text] + counts[text]
    found = np.full(len(text), _FACTOR)
    for step in range(length):
        word = np.minimum(place + step, max(len(flat) - 1, 0))
        found = np.where(place + step < last, _mixed((found ^ flat[word]) + np.uint64(step)), found)
    order = np.lexsort((found, text))
    found, text = found[order], text[order]
    new = np.append(True, (found[1:] != found[:-1]) | (text[1:] != text[:-1]))[: len(found)]
    return found[new], np.cumsum(np.bincount(text[new], minlength=len(counts))), counts


def bands_of(numbers: np.ndarray, ends: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """A uint64 for each band of each text's MinHash signature: shape (texts, bands). Texts without n-grams: zeros."""
    found = np.zeros((len(ends), bands), np.uint64)
    starts = np.append(0, ends[:-1])[: len(ends)]
    some = np.flatnonzero(ends > starts)
    if not len(some):
        return found
    factors, offsets = _permutations(bands * rows)
    seeds = np.arange(bands, dtype=np.uint64) * _FACTOR
    for band in range(bands):
        value = np.full(len(some), seeds[band])
        for row in range(band * rows, (band + 1) * rows):
            permuted = (numbers * factors[row] + offsets[row]) >> np.uint64(32)
            value = _mixed(value ^ np.minimum.reduceat(permuted, starts[some]))
        found[some, band] = value
    return found


def connect_similar(
    numbers: np.ndarray, ends: np.ndarray, bands: np.ndarray, groups: np.ndarray, threshold: float, sets: Components
) -> None:
    """Join in `sets` all texts of one group that share a band and whose n-grams have a Jaccard similarity of at least
    `threshold`. `numbers`, `ends`, `bands` as above; groups: int64, shape (texts,)."""
    starts = np.append(0, ends[:-1])[: len(ends)]
    known = distinct(numbers)
    codes = np.searchsorted(known, numbers)
    search = _Search(codes, starts, ends - starts, threshold, sets)
    for band in range(bands.shape[1]):
        order = np.lexsort((bands[:, band], groups))
        same = (bands[order[1:], band] == bands[order[:-1], band]) & (groups[order[1:]] == groups[order[:-1]])
        cuts = np.flatnonzero(~same) + 1
        search.runs(order, np.diff(np.concatenate([[0], cuts, [len(order)]])))


class _Search:
    def __init__(self, codes: np.ndarray, starts: np.ndarray, sizes: np.ndarray, threshold: float, sets: Components):
        self.codes, self.starts, self.sizes = codes, starts, sizes
        self.threshold, self.sets = threshold, sets

    def runs(self, order: np.ndarray, lengths: np.ndarray) -> None:
        """All pairs inside each run of `order`; runs lie one after the other."""
        left = np.repeat(np.cumsum(lengths), lengths) - np.arange(1, len(order) + 1)
        left[np.repeat(lengths > HOT, lengths)] = 0
        step, active = 1, np.flatnonzero(left)
        while len(active):
            self._compare(order[active], order[active + step])
            step += 1
            active = active[left[active] >= step]
        for run in np.flatnonzero(lengths > HOT):
            end = int(lengths[: run + 1].sum())
            self._hot(order[end - lengths[run] : end])

    def _hot(self, texts: np.ndarray) -> None:
        """What a few of them are similar to is connected; whoever is outside the largest set then meets all."""
        for pivot in texts[:: -(-len(texts) // PIVOTS)].tolist():
            self._compare(np.full(len(texts), pivot), texts)
        roots = self.sets.roots(texts)
        values, counts = np.unique(roots, return_counts=True)
        rest = texts[roots != values[counts.argmax()]]
        together = max(1, 8 * PAIRS // len(texts))
        for start in range(0, len(rest), together):
            part = rest[start : start + together]
            self._compare(np.repeat(part, len(texts)), np.tile(texts, len(part)))

    def _compare(self, first: np.ndarray, second: np.ndarray) -> None:
        apart = np.flatnonzero(self.sets.roots(first) != self.sets.roots(second))
        # Sets whose sizes differ too much cannot be similar: J <= smaller / larger.
        small = np.minimum(self.sizes[first[apart]], self.sizes[second[apart]])
        large = np.maximum(self.sizes[first[apart]], self.sizes[second[apart]])
        apart = apart[small / large >= self.threshold]
        for start in range(0, len(apart), PAIRS):
            part = apart[start : start + PAIRS]
            near = self._similarity(first[part], second[part]) >= self.threshold
            self.sets.join(first[part[near]], second[part[near]])

    def _similarity(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """The Jaccard similarity of each pair, float64: what both have is what occurs twice in a pair."""
        pairs = np.arange(len(first))
        keys = np.concatenate([self._keyed(pairs, first), self._keyed(pairs, second)])
        keys.sort()
        both = np.bincount(keys[1:][keys[1:] == keys[:-1]] >> 40, minlength=len(first))
        return both / (self.sizes[first] + self.sizes[second] - both)

    def _keyed(self, pairs: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """(pair << 40) + n-gram for every n-gram of the text of each pair: int64."""
        sizes = self.sizes[texts]
        inside = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return (np.repeat(pairs, sizes) << 40) + self.codes[np.repeat(self.starts[texts], sizes) + inside]


def _mixed(values: np.ndarray) -> np.ndarray:
    """splitmix64's first half: every bit depends on every bit (Steele, Lea and Flood, OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return values ^ (values >> np.uint64(27))


@cache
def _permutations(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Odd factors and offsets of `count` hashes: a fixed sequence, whatever numpy's generators do."""
    factors = _mixed(np.arange(1, count + 1, dtype=np.uint64) * _FACTOR) | np.uint64(1)
    offsets = _mixed(np.arange(count + 1, 2 * count + 1, dtype=np.uint64) * _FACTOR)
    return factors, offsets
