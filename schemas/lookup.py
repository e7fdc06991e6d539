"""Lookup from key to row: 16 bytes per row in memory, whatever the length of the keys.

Kept are a 64-bit hash and the number of each row, sorted by hash. The keys stay in the dataset: a hash that is found
is compared with the key of its row.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.dataset import Dataset, Fragment
from schemas.picturenames import meant_by, plain_name, stem

_BASE = np.uint64(0x9E3779B97F4A7C15)
"""An odd number: it has an inverse modulo 2**64. This one is 2**64 over the golden ratio (Knuth, TAOCP 3, 6.4)."""
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))
_BLOCK = 1 << 20
"""Bytes of keys that are hashed together, about."""


class RowsByKey:
    """Finds rows of a dataset by their `key`. Of rows with the same key, the first one counts."""

    FRAGMENTS = 256
    """Fragments whose keys stay open: whoever looks up keys in the dataset's order opens each one once."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        parts = [hashes(_keys(fragment)) for fragment in dataset.fragments]
        found = np.concatenate(parts) if parts else np.empty(0, np.uint64)
        self._rows = np.argsort(found, kind="stable")
        self._hashes = found[self._rows]
        self._open: OrderedDict[int, pa.Array] = OrderedDict()
        self._ends = np.cumsum(dataset.manifest.fragments.row_counts, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, key: str) -> int | None:
        """The number of the first row with that key; None when there is none."""
        row = int(self.find_all([key])[0])
        return row if row >= 0 else None

    def find_all(self, keys: Sequence[str] | pa.Array) -> np.ndarray:
        """The first row of each key, -1 for a key that no row has: int64, shape (keys,)."""
        wanted = keys if isinstance(keys, pa.Array) else pa.array(keys, pa.string())
        hashed = hashes(wanted)
        slots = np.searchsorted(self._hashes, hashed)
        rows = np.full(len(hashed), -1, np.int64)
        open_ = np.arange(len(hashed))
        while len(open_):
            # A round per row that shares the hash; nearly always there is one.
            open_ = open_[slots[open_] < len(self._hashes)]
            open_ = open_[self._hashes[slots[open_]] == hashed[open_]]
            candidates = self._rows[slots[open_]]
            same = self._have_keys(candidates, wanted.take(pa.array(open_)))
            rows[open_[same]] = candidates[same]
            open_ = open_[~same]
            slots[open_] += 1
        return rows

    def _have_keys(self, rows: np.ndarray, keys: pa.Array) -> np.ndarray:
        """Whether each of `rows` has the key beside it, bool, shape (rows,)."""
        same = np.zeros(len(rows), bool)
        fragments = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(fragments):
            chosen = np.flatnonzero(fragments == number)
            stored = self._keys_of(int(number))
            offsets = rows[chosen] - (self._ends[number - 1] if number else 0)
            equal = pc.equal(stored.take(pa.array(offsets)), keys.take(pa.array(chosen)))
            same[chosen] = pc.fill_null(equal, False).to_numpy(zero_copy_only=False)
        return same

    def _keys_of(self, number: int) -> pa.Array:
        keys = self._open.pop(number, None)
        if keys is None:
            keys = _keys(self.dataset.fragments[number])
        self._open[number] = keys
        if len(self._open) > self.FRAGMENTS:
            self._open.popitem(last=False)
        return keys


class PicturesByName(RowsByKey):
    """Finds pictures by the names that rows give them: as written, else as schemas/picturenames.py says.

    Only a name that is no key needs a second index, of another 16 bytes a row; it is made when the first one comes.
    """

    def find_all(self, keys: Sequence[str] | pa.Array) -> np.ndarray:
        """The row of each name's picture, -1 for a name that means none, or several: int64, shape (keys,)."""
        rows = super().find_all(keys)
        lost = np.flatnonzero(rows < 0)
        if len(lost):
            names = [keys[int(number)] for number in lost]
            written = [name.as_py() if isinstance(name, pa.Scalar) else name for name in names]
            rows[lost] = [-1 if name is None else self._near(name) for name in written]
        return rows

    def _near(self, name: str) -> int:
        row = int(super().find_all([plain_name(name)])[0])
        if row >= 0:
            return row
        known, order = self._stems
        wanted = hashes(pa.array([stem(name)], pa.string()))[0]
        first, end = np.searchsorted(known, wanted), np.searchsorted(known, wanted, side="right")
        candidates = {self._key_of(int(row)): int(row) for row in order[first:end][::-1]}
        meant = meant_by(name, candidates)
        return candidates[meant[0]] if len(meant) == 1 else -1

    @cached_property
    def _stems(self) -> tuple[np.ndarray, np.ndarray]:
        """The hash of every key's stem, sorted, and the rows in that order."""
        parts = [hashes(pa.array(map(stem, _keys(part).to_pylist()), pa.string())) for part in self.dataset.fragments]
        found = np.concatenate(parts) if parts else np.empty(0, np.uint64)
        order = np.argsort(found, kind="stable")
        return found[order], order

    def _key_of(self, row: int) -> str:
        number = int(np.searchsorted(self._ends, row, side="right"))
        return self._keys_of(number)[row - (int(self._ends[number - 1]) if number else 0)].as_py()


def hashes(keys: pa.Array) -> np.ndarray:
    """A 64-bit hash of each string: uint64, shape (keys,).

    A polynomial over the string's bytes modulo 2**64, from prefix sums over all strings at once, then mixed. It
    resists chance, not an adversary: whoever uses it compares keys.
    """
    offsets = np.frombuffer(keys.buffers()[1], np.int32)[keys.offset : keys.offset + len(keys) + 1].astype(np.int64)
    data = keys.buffers()[2]
    content = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    made = np.empty(len(keys), np.uint64)
    start = 0
    while start < len(keys):
        end = max(int(np.searchsorted(offsets, offsets[start] + _BLOCK, side="right")) - 1, start + 1)
        ends = offsets[start : end + 1] - offsets[start]
        made[start:end] = _hashed(content[offsets[start] : offsets[end]], ends)
        start = end
    return made


def _hashed(content: np.ndarray, ends: np.ndarray) -> np.ndarray:
    powers, inverses = _powers(_power_of_two(len(content) + 1))
    sums = np.zeros(len(content) + 1, np.uint64)
    # One more than the byte, so that zero bytes count too.
    np.cumsum((content.astype(np.uint64) + np.uint64(1)) * powers[: len(content)], out=sums[1:])
    mixed = (sums[ends[1:]] - sums[ends[:-1]]) * inverses[ends[:-1]]
    # The finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014): neighbours in value become far apart.
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


@lru_cache(maxsize=24)
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` powers of the base and of its inverse, modulo 2**64."""
    made = []
    for base in (_BASE, _INVERSE):
        powers = np.full(count, base, np.uint64)
        powers[0] = 1
        made.append(np.multiply.accumulate(powers))
    return made[0], made[1]


def _power_of_two(count: int) -> int:
    return 1 << max(count - 1, 1).bit_length()


def _keys(fragment: Fragment) -> pa.Array:
    return pa.concat_arrays(fragment.read(["key"]).column("key").chunks or [pa.array([], pa.string())])
