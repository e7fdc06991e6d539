"""Row selection that depends on other rows of a source: counts, shares, caps, merged rows.

A pass over the small columns of the whole source (keys, picture keys, statuses, filters) finds the rows that may be
taken. Each has a hash of its key and the recipe's seed, and those with the smallest hashes are chosen: rows that are
added elsewhere, or other sources, exchange none of them. In memory are 18 bytes a row: 12 MB for 665k rows.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from pipelines.mix.judge import Judge
from pipelines.mix.recipe import MixRecipe, MixSource
from pipelines.mix.select import copies, key_hash
from schemas.errors import InputError
from schemas.fingerprint import fingerprint

REASONS = ("", "not_chosen", "max_per_image", "merged")
"""By code: what a row that may be taken is left out for. `merged`: another row has its turns."""
ROWS, PER_IMAGE, MERGED = 1, 2, 3


@dataclass(frozen=True)
class Choice:
    """What was decided about the rows of one fragment together with all others: a code of REASONS for each.

    joined: place in the fragment -> row numbers, in the dataset, of rows whose turns it takes over.
    """

    codes: bytes
    joined: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def reason(self, place: int) -> str:
        return REASONS[self.codes[place]]

    @property
    def identity(self) -> str:
        return fingerprint(self.codes.hex(), sorted(self.joined.items()))


@dataclass
class Survey:
    """All rows of one source: which may be taken (bool), the hash that orders them, and a hash of their pictures (0 for
    none); arrays of shape (rows,). `counts`: why rows may not be taken."""

    fits: np.ndarray
    order: np.ndarray
    pictures: np.ndarray
    counts: Counter[str]
    codes: np.ndarray = field(init=False)
    joined: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.codes = np.zeros(len(self.fits), np.uint8)

    @property
    def open(self) -> np.ndarray:
        """The numbers of the rows that are still taken, int64."""
        return np.flatnonzero(self.fits & (self.codes == 0))

    def any_of(self, start: int, rows: int) -> bool:
        """Whether one of `rows` rows from row `start` on is taken."""
        return bool((self.fits[start : start + rows] & (self.codes[start : start + rows] == 0)).any())

    def fragment(self, start: int, rows: int) -> Choice:
        """The choice for `rows` rows from row `start` on."""
        first, last = bisect_left(self._leaders, start), bisect_left(self._leaders, start + rows)
        own = {row - start: self.joined[row] for row in self._leaders[first:last]}
        return Choice(self.codes[start : start + rows].tobytes(), own)

    @cached_property
    def _leaders(self) -> list[int]:
        return sorted(self.joined)


def chosen(recipe: MixRecipe, judges: Mapping[str, Judge], every: bool = False) -> dict[str, Survey]:
    """The choice of rows for each source that needs one, or for every source.

    Raises InputError where a source has fewer usable rows than its `rows` or `share` ask for.
    """
    shares = any(source.share is not None for source in recipe.sources.values())
    surveys = {name: survey(judges[name], recipe.seed) for name in judges if every or shares or _needed(recipe, name)}
    for name, found in surveys.items():
        source = recipe.sources[name]
        if source.turns == "merged":
            _merge(found)
        if source.max_per_image is not None:
            _cap(found, source.max_per_image)
    sizes = _sizes(recipe, surveys)
    for name, size in sizes.items():
        _take(surveys[name], size)
    return {name: found for name, found in surveys.items() if every or _needed(recipe, name)}


def survey(judge: Judge, seed: int) -> Survey:
    """Read the small columns of a source once."""
    rows = judge.dataset.rows
    found = Survey(np.zeros(rows, bool), np.zeros(rows, np.uint64), np.zeros(rows, np.uint64), Counter())
    start = 0
    for fragment in judge.dataset.fragments:
        for batch in judge.batches(fragment, messages=False):
            found.counts.update(batch.left)
            for place, row, verdict in zip(batch.places, batch.rows, judge.verdicts(batch.rows), strict=True):
                if verdict.reason is not None:
                    found.counts[verdict.reason] += 1
                    continue
                found.fits[start + place] = True
                found.order[start + place] = key_hash(row["key"], seed)
                if row["image_keys"]:
                    found.pictures[start + place] = picture_hash(row["image_keys"])
        start += fragment.rows
    return found


def picture_hash(keys: Sequence[str]) -> int:
    """A 64-bit hash of a row's pictures, never 0."""
    content = b"\0".join(key.encode() for key in keys)
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") or 1


def _needed(recipe: MixRecipe, name: str) -> bool:
    return recipe.sources[name].needs_choice


def _merge(found: Survey) -> None:
    """Rows that show the same pictures: the first one takes over the turns of the others."""
    rows = found.open
    rows = rows[found.pictures[rows] != 0]
    groups = found.pictures[rows]
    by_group = np.argsort(groups, kind="stable")
    rows, groups = rows[by_group], groups[by_group]
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]]) if len(rows) else np.empty(0, np.int64)
    for start, stop in zip(starts, np.append(starts[1:], len(rows)), strict=True):
        if stop - start > 1:
            first, *others = rows[start:stop].tolist()
            found.joined[first] = tuple(others)
            found.codes[others] = MERGED


def _cap(found: Survey, most: int) -> None:
    """Of rows that show the same pictures, those with the smallest hashes stay."""
    rows = found.open
    rows = rows[found.pictures[rows] != 0]
    rows = rows[np.lexsort((rows, found.order[rows], found.pictures[rows]))]
    groups = found.pictures[rows]
    first = np.r_[True, groups[1:] != groups[:-1]] if len(rows) else np.empty(0, bool)
    begins = np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))
    found.codes[rows[np.arange(len(rows)) - begins >= most]] = PER_IMAGE


def _take(found: Survey, size: int) -> None:
    rows = found.open
    by_hash = rows[np.argsort(found.order[rows], kind="stable")]
    found.codes[by_hash[size:]] = ROWS


def _sizes(recipe: MixRecipe, surveys: Mapping[str, Survey]) -> dict[str, int]:
    """How many rows of each source with a count are taken."""
    there = {name: len(found.open) for name, found in surveys.items()}
    sizes = {}
    for name, source in recipe.sources.items():
        if source.rows is not None:
            sizes[name] = _enough(name, surveys[name], source.rows, f"`rows: {source.rows}`")
        elif source.max_rows is not None:
            sizes[name] = min(source.max_rows, there[name])
    shares = {name: source.share for name, source in recipe.sources.items() if source.share is not None}
    if not shares:
        return sizes
    rest = 1 - sum(shares.values())
    fixed = sum(
        sizes.get(name, _weighted(surveys[name], source, recipe.seed))
        for name, source in recipe.sources.items()
        if name not in shares
    )
    total = fixed / rest if rest > 1e-9 else min(there[name] / share for name, share in shares.items())
    for name, share in shares.items():
        size = round(total * share) if rest > 1e-9 else int(total * share + 1e-6)
        sizes[name] = _enough(name, surveys[name], size, f"`share: {share:g}` of {round(total):,} rows")
    return sizes


def _weighted(found: Survey, source: MixSource, seed: int) -> int:
    """How many rows a source without a count gives."""
    rows = found.open
    if source.weight == int(source.weight):
        return len(rows) * int(source.weight)
    return sum(copies(int(one), source.weight) for one in found.order[rows])


def _enough(name: str, found: Survey, size: int, asked: str) -> int:
    there = len(found.open)
    if size <= there:
        return size
    why = ", ".join(f"{count} {reason}" for reason, count in found.counts.most_common(5))
    raise InputError(
        f"mix source {name!r}: {asked} asks for {size} rows, and {there} of its {len(found.fits)} can be taken"
        f"{f' (left out: {why})' if why else ''}. Request fewer, or set `max_rows` to take all that there are."
    )
