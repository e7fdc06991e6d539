"""Finds 64-bit hashes within a Hamming distance: exact, in time nearly linear in their number.

Two hashes that differ in at most `distance` bits agree on at least b - distance of any b disjoint bands of bits
(pigeonhole). So there is a table for each choice of b - distance bands, in which only hashes that agree on all of the
chosen bits are compared. With more bands there are more tables, and fewer hashes meet by chance: the number of hashes
decides which is cheaper. Tables over combinations of blocks: Manku, Jain, Das Sarma, "Detecting near-duplicates for web
crawling", WWW 2007, section 3; substrings of binary codes as buckets: Norouzi, Punjani, Fleet, "Fast search in Hamming
space with multi-index hashing", CVPR 2012, section 3. Exact multi-index probing with flipped bits, as in the latter,
takes 68 probes of 16 bits for distance 6; tables of two in eight bands take 28.
"""

from __future__ import annotations

from itertools import combinations, pairwise
from math import comb

import numpy as np

from pipelines.engine.components import Components

HASH_BITS = 64
HOT = 1024
"""A bucket with more members is not compared pair by pair: it is looked at on its own."""
PAIRS = 1 << 16
"""Pairs that are compared at a time where all are compared with all."""
PIVOTS = 32
"""Members of a hot bucket that are compared with all others first: where most are alike, that connects them."""
SORT_COST, COMPARE_COST = 50.0, 4.0
"""Nanoseconds per hash of a table, and per pair compared; only their ratio matters."""

_ODD = np.uint64(0x9E3779B97F4A7C15)
_HIGH = np.uint64(0xFFFFFFFF00000000)
_LOW = np.uint64(0xFFFFFFFF)
_NEXT = np.uint64(1 << 32)


def band_edges(distance: int) -> list[tuple[int, int]]:
    """The bit ranges [low, high) of `distance + 1` bands; their widths differ by at most one bit."""
    count = distance + 1
    cuts = [HASH_BITS * number // count for number in range(count + 1)]
    return list(pairwise(cuts))


def band_mask(distance: int, band: int) -> int:
    low, high = band_edges(distance)[band]
    return ((1 << (high - low)) - 1) << low


def near_forest(values: np.ndarray, distance: int, agreed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(nodes, roots): stars that connect all pairs within `distance` bits which are equal on the bits of `agreed`.

    `values`: different uint64, ascending. Pairs within `distance` that differ on `agreed` may be connected as well.
    The root of a star is its smallest value. Memory: about 100 bytes per value, whatever the number of pairs.
    """
    search = _Search(values, distance)
    search.find(np.arange(len(values)), agreed)
    members, smallest = search.sets.stars()
    return values[members], values[smallest]


class _Search:
    """One set of values. Positions in it are what is compared, and what is connected."""

    def __init__(self, values: np.ndarray, distance: int):
        self.values, self.distance = values, distance
        self.sets = Components(len(values))

    def find(self, positions: np.ndarray, agreed: int = 0) -> None:
        """Connect every near pair among `positions` that is equal on the bits of `agreed`."""
        if len(positions) < 2:
            return
        own = self.values[positions]
        varying = int(np.bitwise_or.reduce(own ^ own[0]))
        if varying.bit_count() <= self.distance:
            self.sets.join(positions[1:], np.broadcast_to(positions[:1], len(positions) - 1))
            return
        free = varying & ~agreed
        bands = cheapest_bands(len(positions), free.bit_count(), (varying & agreed).bit_count(), self.distance)
        if not bands and not varying & agreed:
            self._all_pairs(positions)
            return
        masks = _deal(own, free, bands)
        for chosen in combinations(masks, max(0, bands - self.distance)):
            self._table(positions, agreed | sum(chosen))
            if self._connected(positions, np.array([len(positions)])).all():
                return

    def _table(self, positions: np.ndarray, mask: int) -> None:
        """Compare all that agree on `mask`: sorted by a hash of these bits, they are adjacent."""
        own = self.values[positions]
        # The position goes with its hash in one number, because sorting numbers is much faster than sorting indices.
        # Different bits with the same hash of 32 bits only cause comparisons to no purpose.
        packed = np.sort((((own & np.uint64(mask)) * _ODD) & _HIGH) | np.arange(len(own), dtype=np.uint64))
        ordered = positions[(packed & _LOW).astype(np.int64)]
        cuts = np.flatnonzero((packed[1:] ^ packed[:-1]) >= _NEXT) + 1
        sizes = np.diff(np.concatenate([[0], cuts, [len(own)]]))
        if len(sizes) == 1:
            # Only hashes of bits that were chosen to collide do that; dividing once more would not end.
            self._all_pairs(ordered)
            return
        self._compare(ordered, sizes, HOT)
        for bucket in np.flatnonzero(sizes > HOT):
            end = int(sizes[: bucket + 1].sum())
            self._hot(ordered[end - sizes[bucket] : end])

    def _compare(self, positions: np.ndarray, sizes: np.ndarray, most: int = 0) -> None:
        """Connect near pairs inside each bucket; buckets lie one after the other. Those above `most` are left out."""
        own = self.values[positions]
        left = np.repeat(np.cumsum(sizes), sizes) - np.arange(1, len(own) + 1)
        if most:
            left[np.repeat(sizes > most, sizes)] = 0
        active, step = np.flatnonzero(left), 1
        while len(active):
            if 2 * len(active) > len(own):
                # Most have a partner at this step: comparing all saves the gathering, and finds no wrong pair.
                near = np.flatnonzero(np.bitwise_count(own[step:] ^ own[:-step]) <= self.distance)
            else:
                near = active[np.bitwise_count(own[active + step] ^ own[active]) <= self.distance]
            if len(near):
                self.sets.join(positions[near], positions[near + step])
            if step >= 8 and step.bit_count() == 1:
                left[np.repeat(self._connected(positions, sizes), sizes)] = 0
            step += 1
            active = active[left[active] >= step]

    def _all_pairs(self, positions: np.ndarray) -> None:
        """Compare all with all, a few rows of the matrix of pairs at a time, until all are in one set."""
        own, rows = self.values[positions], max(1, PAIRS // len(positions))
        for number, start in enumerate(range(0, len(own), rows)):
            differing = own[start : start + rows, None] ^ own[None, start:]
            first, second = np.nonzero(np.bitwise_count(differing) <= self.distance)
            self.sets.join(positions[first + start], positions[second + start])
            if number.bit_count() == 1 and self._connected(positions, np.array([len(own)])).all():
                return

    def _connected(self, positions: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Which buckets are in one set already, as thousands of hashes that are all alike soon are."""
        roots, starts = self.sets.roots(positions), np.cumsum(sizes) - sizes
        return np.minimum.reduceat(roots, starts) == np.maximum.reduceat(roots, starts)

    def _hot(self, positions: np.ndarray) -> None:
        """A bucket too large for all pairs: either most of it is alike, or its other bits tell its members apart."""
        roots = self.sets.roots(positions)
        if (roots == roots[0]).all():
            return
        pivots = positions[:: max(1, len(positions) // PIVOTS)]
        self._cross(pivots, positions)
        _, sets, counts = np.unique(self.sets.roots(positions), return_inverse=True, return_counts=True)
        rest = positions[sets != counts.argmax()]
        if len(rest) <= 2 * PIVOTS:
            self._cross(rest, positions)
        else:
            self.find(positions)

    def _cross(self, some: np.ndarray, positions: np.ndarray) -> None:
        """Compare each of `some` with all `positions`."""
        own = self.values[positions]
        for one in some:
            near = positions[np.bitwise_count(own ^ self.values[one]) <= self.distance]
            self.sets.join(near, np.broadcast_to(one, len(near)))


def cheapest_bands(count: int, free: int, agreed: int, distance: int) -> int:
    """Into how many bands to divide `free` bits for `count` hashes, given that `agreed` other bits are equal anyway.

    0: into none; all that agree on the `agreed` bits are compared.
    """

    def cost(bands: int) -> float:
        width = agreed + (free * (bands - distance) / bands if bands else 0)
        tables = comb(bands, distance) if bands else 1
        return tables * (SORT_COST + COMPARE_COST * count / 2 ** (width + 1))

    return min([0, *range(distance + 1, min(free, distance + 8) + 1)], key=cost)


def _deal(values: np.ndarray, free: int, bands: int) -> list[int]:
    """Masks of `bands` disjoint bands of the `free` bits, each with its share of bits that are even in the data.

    Bits that are nearly always 0 or 1 separate little: dealt out in order of evenness, no band is made of them alone.
    """
    if not bands:
        return []
    sample = values[:: max(1, len(values) // 4096)]
    bits = np.unpackbits(sample.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    order = np.argsort(np.abs(bits.mean(axis=0) - 0.5), kind="stable")
    dealt = [int(bit) for bit in order if free >> int(bit) & 1]
    return [sum(1 << bit for bit in dealt[band::bands]) for band in range(bands)]
