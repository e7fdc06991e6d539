"""Connected components of a graph whose nodes are 64-bit numbers and whose edges come in blocks.

Groups of a pipeline that each know some edges reduce them to a forest of stars (node, root), the root being the
smallest node of its tree. Forests merge in a tree of GroupByKeys whose depth is known when the graph is built. Whatever
number of edges there were, a forest holds 16 bytes for each node that has an edge.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipelines.engine.blocks import block_of, concatenate, distinct, pack

if TYPE_CHECKING:
    import apache_beam as beam

FOREST = pa.schema([("node", pa.uint64()), ("root", pa.uint64())])
FAN_IN = 16
"""Forests that are merged into one at each level."""


class Components:
    """Disjoint sets of the numbers 0..count-1, joined by arrays of edges.

    The root of a set is its smallest number. Larger roots are hooked to smaller ones, for all edges at a time, until no
    edge joins two sets (Shiloach and Vishkin, "An O(log n) parallel connectivity algorithm", J. Algorithms 3, 1982).
    """

    def __init__(self, count: int):
        self._above = np.arange(count)

    def roots(self, numbers: np.ndarray) -> np.ndarray:
        """The smallest number of the set of each of `numbers` (int64)."""
        above = self._above
        while True:
            higher = above[numbers]
            highest = above[higher]
            if np.array_equal(higher, highest):
                return higher
            above[numbers] = highest  # so a long path takes as many rounds as its length has binary digits

    def join(self, first: np.ndarray, second: np.ndarray) -> None:
        """Join the sets of `first` and `second`, int64 arrays of one length, pair by pair."""
        while True:
            first, second = self.roots(first), self.roots(second)
            apart = first != second
            if not apart.any():
                return
            first, second = first[apart], second[apart]
            np.minimum.at(self._above, np.maximum(first, second), np.minimum(first, second))

    def stars(self) -> tuple[np.ndarray, np.ndarray]:
        """(numbers that are not the smallest of their set, the smallest for each)."""
        roots = self.roots(np.arange(len(self._above)))
        members = np.flatnonzero(roots != np.arange(len(roots)))
        return members, roots[members]


def merge(nodes: np.ndarray, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The forest of stars that connects what the edges (nodes, roots) connect; uint64 arrays of one length."""
    known = distinct(np.concatenate([nodes, roots]))
    sets = Components(len(known))
    sets.join(np.searchsorted(known, nodes), np.searchsorted(known, roots))
    members, smallest = sets.stars()
    return known[members], known[smallest]


def connect(forests: beam.PCollection[tuple[int, bytes]], groups: int) -> beam.PCollection[bytes]:
    """PCollection[(group number below `groups`, block of FOREST)] -> PCollection[block of FOREST], at most one.

    A group that connects nothing need not have a block.
    """
    import apache_beam as beam

    level = 0
    while True:
        groups = -(-groups // FAN_IN)
        forests = (
            forests
            | f"divide {level}" >> beam.MapTuple(lambda group, block: (group // FAN_IN, block))
            | f"meet {level}" >> beam.GroupByKey()
            | f"merge {level}" >> beam.FlatMap(merged)
        )
        level += 1
        if groups <= 1:
            return forests | "one forest" >> beam.Values()


def merged(grouped: tuple[int, Iterable[bytes]]) -> Iterator[tuple[int, bytes]]:
    """The forests of one group as one."""
    edges = concatenate(grouped[1], FOREST)
    yield grouped[0], pack(forest_block(*merge(edges.column("node").to_numpy(), edges.column("root").to_numpy())))


def forest_block(nodes: np.ndarray, roots: np.ndarray) -> pa.RecordBatch:
    return block_of({"node": nodes, "root": roots})
