"""Near pairs are exact: whatever the hashes are like, what is connected is what comparing all pairs connects."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dedupe import hamming
from pipelines.dedupe.hamming import band_edges, band_mask, cheapest_bands, near_forest
from pipelines.engine.blocks import distinct
from pipelines.engine.components import Components, merge

ONE = np.uint64(1)


def compared(values, distance):
    """(nodes, roots) by comparing all pairs."""
    sets = Components(len(values))
    for place in range(len(values) - 1):
        near = np.flatnonzero(np.bitwise_count(values[place + 1 :] ^ values[place]) <= distance) + place + 1
        sets.join(near, np.full(len(near), place))
    members, roots = sets.stars()
    return values[members], values[roots]


def banded(values, distance):
    """(nodes, roots) by way of the bands, as in a pipeline."""
    forests = [near_forest(values, distance, band_mask(distance, band)) for band in range(distance + 1)]
    return merge(*(np.concatenate(ends) for ends in zip(*forests, strict=True)))


def assert_equal(found, expected):
    assert [ends.tolist() for ends in found] == [ends.tolist() for ends in expected]


def noisy(random, base, count, flips):
    """Hashes with up to `flips` bits flipped."""
    found = base[random.integers(0, len(base), count)]
    for _ in range(flips):
        found = found ^ (ONE << random.integers(0, 64, count, np.uint64)) * random.integers(0, 2, count, np.uint64)
    return found


def hashes(kind, count):
    random = np.random.default_rng(count)
    drawn = random.integers(0, 2**64, count, np.uint64)
    return distinct(
        {
            "random": lambda: drawn,
            "planted": lambda: np.concatenate([drawn, noisy(random, drawn, count // 20, 6)]),
            "one ball": lambda: noisy(random, drawn[:1], count, 4),
            "clusters": lambda: noisy(random, drawn[: count // 50], count, 5),
            "half the bits constant": lambda: drawn | np.uint64(0xFFFFFFFF),
            "few bits set": lambda: drawn & np.roll(drawn, 1) & np.roll(drawn, 2) & np.roll(drawn, 3),
            "counting up": lambda: np.arange(count, dtype=np.uint64) * np.uint64(7),
            "repeating": lambda: (drawn & np.uint64(0xFFFF)) * np.uint64(0x0001000100010001) ^ np.roll(drawn, 1) >> 60,
        }[kind]()
    )


KINDS = ("random", "planted", "one ball", "clusters", "half the bits constant", "few bits set", "counting up")


@pytest.mark.parametrize("distance", [0, 1, 2, 6, 10, 16])
@pytest.mark.parametrize("kind", [*KINDS, "repeating"])
def test_what_is_connected_is_what_all_pairs_connect(kind, distance):
    values = hashes(kind, 2500)
    assert_equal(banded(values, distance), compared(values, distance))


@pytest.mark.parametrize("kind", ["planted", "clusters", "half the bits constant"])
def test_the_same_for_20k(kind):
    values = hashes(kind, 20_000)
    assert_equal(banded(values, 6), compared(values, 6))


@pytest.mark.parametrize("kind", KINDS)
def test_hot_buckets_divide_further(kind, monkeypatch):
    """With a low limit nearly every bucket is hot, and is searched by its other bits."""
    monkeypatch.setattr(hamming, "HOT", 20)
    monkeypatch.setattr(hamming, "PIVOTS", 2)
    monkeypatch.setattr(hamming, "PAIRS", 64)
    values = hashes(kind, 1500)
    for distance in (1, 6):
        assert_equal(banded(values, distance), compared(values, distance))


CLOSE = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 63), st.integers(0, 63)), max_size=40)


@given(st.sets(st.integers(0, 2**64 - 1), max_size=6), CLOSE, st.integers(0, 16))
def test_any_few_hashes(base, flips, distance):
    values = sorted(base)
    for place, first, second in flips:  # random hashes are far apart: derive close ones from them
        if place < len(values):
            values.append(values[place] ^ 1 << first ^ 1 << second)
    values = distinct(np.array(values, np.uint64))
    assert_equal(banded(values, distance), compared(values, distance))


@pytest.mark.parametrize("values", [[], [5]])
def test_none_or_one(values):
    nodes, roots = near_forest(np.array(values, np.uint64), 6)
    assert len(nodes) == len(roots) == 0


@pytest.mark.parametrize("distance", [0, 1, 6, 16])
def test_bands_cover_every_bit_once(distance):
    edges = band_edges(distance)
    assert len(edges) == distance + 1
    assert [bit for low, high in edges for bit in range(low, high)] == list(range(64))
    assert sum(band_mask(distance, band) for band in range(distance + 1)) == 2**64 - 1


def test_more_hashes_take_more_bands():
    assert cheapest_bands(100, 64, 0, 6) == 0
    bands = [cheapest_bands(10**power, 55, 9, 6) for power in range(3, 10)]
    assert bands == sorted(bands) and bands[0] < bands[-1]
