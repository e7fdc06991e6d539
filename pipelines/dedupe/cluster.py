"""Which pictures are the same: pure functions on hashes. Beam only brings the right hashes together.

Two 64-bit perceptual hashes within `distance` bits of each other agree on at least one of `distance + 1`
bands of bits (pigeonhole), so only hashes that share a band are compared: exact, and far from all pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

HASH_BITS = 64


@dataclass(frozen=True)
class Member:
    """One row that takes part. `near` is its perceptual hash (16 hex digits), or None when only equal bytes count."""

    key: str
    exact: str
    near: str | None
    area: int
    """Width times height: the largest picture of a cluster represents it."""


@dataclass(frozen=True)
class Verdict:
    """What a row of a cluster of two or more learns."""

    cluster: str
    """The smallest key of the cluster."""
    size: int
    duplicate_of: str | None
    """The key of the picture that represents the cluster; None for that picture itself."""
    same_bytes: bool
    """Whether the bytes equal those of the representative."""


def bands(near: str, distance: int) -> list[tuple[int, str]]:
    """(number of the band, its bits in hex) for each of the `distance + 1` bands of a hash."""
    value = int(near, 16)
    return [(number, f"{value & _mask(low, high):x}") for number, (low, high) in enumerate(band_edges(distance))]


def band_edges(distance: int) -> list[tuple[int, int]]:
    """The bit ranges [low, high) of the bands; their widths differ by at most one bit."""
    count = distance + 1
    cuts = [HASH_BITS * number // count for number in range(count + 1)]
    return list(pairwise(cuts))


def near_pairs(hashes: Iterable[str], band: int, distance: int) -> Iterator[tuple[str, str]]:
    """Pairs of different hashes within `distance` bits, among hashes that share band number `band`.

    A pair that shares an earlier band too is left to that band, so that it is found once.
    """
    import numpy as np

    values = np.unique(np.array([int(near, 16) for near in hashes], dtype=np.uint64))
    earlier = [_mask(low, high) for low, high in band_edges(distance)[:band]]
    for place, value in enumerate(values[:-1]):
        differing = values[place + 1 :] ^ value
        found = np.bitwise_count(differing) <= distance
        for mask in earlier:
            found &= (differing & np.uint64(mask)) != 0
        for other in values[place + 1 :][found]:
            yield f"{value:016x}", f"{other:016x}"


def components(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Every hash that stands in a pair -> the smallest hash it is connected with, directly or over others."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    return {node: root(node) for node in list(parent)}


def verdicts_of(members: Sequence[Member]) -> list[Verdict]:
    """A verdict for each member of one cluster, in the given order. The first of the largest represents it."""
    best = max(members, key=lambda member: member.area)
    cluster = min(member.key for member in members)
    return [
        Verdict(cluster, len(members), None if member is best else best.key, member.exact == best.exact)
        for member in members
    ]


def _mask(low: int, high: int) -> int:
    return ((1 << (high - low)) - 1) << low
