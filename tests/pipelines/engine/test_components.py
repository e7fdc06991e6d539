"""Connected components from arrays of edges, and from blocks of them in a pipeline."""

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.blocks import pack, unpack
from pipelines.engine.components import Components, connect, forest_block, merge


def smallest(count, edges):
    """Number -> the smallest number it is connected with, by walking."""
    neighbours = {number: set() for number in range(count)}
    for first, second in edges:
        neighbours[first].add(second)
        neighbours[second].add(first)
    found = {}
    for number in range(count):
        stack = [number]
        while stack:
            reached = stack.pop()
            if reached not in found:
                found[reached] = number
                stack += neighbours[reached]
    return found


@given(st.integers(1, 25), st.lists(st.tuples(st.integers(0, 24), st.integers(0, 24)), max_size=40), st.integers(1, 4))
def test_sets_are_what_a_walk_finds(count, edges, pieces):
    edges = [(first % count, second % count) for first, second in edges]
    sets = Components(count)
    for piece in range(pieces):
        own = np.array(edges[piece::pieces], np.int64).reshape(-1, 2)
        sets.join(own[:, 0], own[:, 1])
    assert dict(enumerate(sets.roots(np.arange(count)).tolist())) == smallest(count, edges)


@pytest.mark.parametrize("order", [1, -1])
def test_a_long_chain_is_one_set(order):
    chain = np.arange(100_000)[::order]
    sets = Components(len(chain))
    sets.join(chain[:-1], chain[1:])
    members, roots = sets.stars()
    assert len(members) == len(chain) - 1 and not roots.any()


def test_forests_merge_to_stars_around_the_smallest():
    nodes, roots = merge(np.array([9, 7, 2**63], np.uint64), np.array([7, 2**63, 5], np.uint64))
    assert dict(zip(nodes.tolist(), roots.tolist(), strict=True)) == {7: 5, 9: 5, 2**63: 5}
    assert len(merge(np.zeros(0, np.uint64), np.zeros(0, np.uint64))[0]) == 0


@pytest.mark.parametrize("groups", [1, 16, 300])
def test_groups_connect_over_levels(groups):
    def stars(blocks):
        (block,) = blocks
        forest = unpack(block)
        assert forest.column("node").to_pylist() == list(range(1, groups + 1))
        assert set(forest.column("root").to_pylist()) == {0}

    links = [
        (group, pack(forest_block(np.array([group + 1], np.uint64), np.array([group], np.uint64))))
        for group in range(groups)
    ]
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        assert_that(connect(pipeline | beam.Create(links), groups), stars)
