"""The arithmetic of duplicates: bands, pairs, components, verdicts."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dedupe.cluster import Member, band_edges, bands, components, near_pairs, verdicts_of

HASH = st.integers(0, 2**64 - 1).map(lambda value: f"{value:016x}")


@pytest.mark.parametrize("distance", [0, 1, 6, 16])
def test_bands_cover_every_bit_once(distance):
    edges = band_edges(distance)
    assert len(edges) == distance + 1
    assert [bit for low, high in edges for bit in range(low, high)] == list(range(64))


@given(HASH, st.sets(st.integers(0, 63), max_size=6), st.integers(6, 16))
def test_close_hashes_share_a_band(first, flipped, distance):
    other = f"{int(first, 16) ^ sum(1 << bit for bit in flipped):016x}"
    assert set(bands(first, distance)) & set(bands(other, distance))


@given(st.sets(HASH, max_size=12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 63)), max_size=20))
def test_bands_find_exactly_the_close_pairs_and_each_once(hashes, flips):
    hashes = sorted(hashes)
    for place, bit in flips:  # random hashes are far apart: derive close ones from them
        if place < len(hashes):
            hashes.append(f"{int(hashes[place], 16) ^ 1 << bit:016x}")
    distance = 4
    groups = {}
    for near in hashes:
        for band in bands(near, distance):
            groups.setdefault(band, []).append(near)
    found = [pair for (band, _), group in groups.items() for pair in near_pairs(group, band, distance)]
    close = {
        (first, second)
        for first, second in combinations(sorted(set(hashes)), 2)
        if (int(first, 16) ^ int(second, 16)).bit_count() <= distance
    }
    assert sorted(found) == sorted(close)


def test_components_follow_chains_to_the_smallest():
    assert components([("b", "c"), ("d", "e"), ("c", "a")]) == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "d"}
    assert components([]) == {}


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=30), st.randoms())
def test_components_do_not_depend_on_the_order(pairs, random):
    named = [(f"{first:02}", f"{second:02}") for first, second in pairs]
    shuffled = [tuple(random.sample(pair, 2)) for pair in random.sample(named, len(named))]
    found = components(named)
    assert components(shuffled) == found
    assert all(found[first] == found[second] for first, second in named)


def test_the_first_of_the_largest_pictures_represents_its_cluster():
    small = Member("a", "sha-1", None, 100)
    large = Member("c", "sha-2", None, 400)
    same = Member("b", "sha-2", None, 400)
    found = verdicts_of([small, large, same])  # in the order of the dataset
    assert [(verdict.cluster, verdict.size) for verdict in found] == [("a", 3)] * 3
    assert [verdict.duplicate_of for verdict in found] == ["c", None, "c"]
    assert [verdict.same_bytes for verdict in found] == [False, True, True]
