"""Divide the rows of many steps at once into padded micro-batches of nearly equal cost.

Where attention cannot skip padding, a micro-batch costs rows x its longest row. The rows of a step are sorted by
descending length, which keeps padding between neighbours small, and cut into contiguous groups.
"""

from __future__ import annotations

import numpy as np

from trainer.planning.balance import deal
from trainer.planning.cost import CostModel

# The search for the lowest maximum starts between a lower bound and this multiple of it; after this many halvings the
# answer is within 0.05 %.
FIRST_GUESS = 1.125
HALVINGS = 8


def partition(
    lengths: np.ndarray, images: np.ndarray, bins: int, ranks: int, max_tokens: int | None, cost: CostModel
) -> tuple[np.ndarray, np.ndarray]:
    """Cut each step's rows into `bins` groups, minimising the cost of the most expensive group.

    lengths, images: int64 (S, N), every step's rows by descending length. The lowest maximum is found by bisection: a
    group takes as many rows as a bound on its cost allows. Returns slots and feasible as `balance.balance` does;
    max_tokens bounds rows x longest row.
    """
    rows = lengths.shape[1]
    row_cost = cost.padded_cost(np.ones(1), lengths, np.zeros(1))
    image_cost = np.pad(cost.vision * np.cumsum(images, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
    most = np.full(lengths.shape, rows) if max_tokens is None else max_tokens // np.maximum(lengths, 1)
    # No partition is cheaper than the mean group without padding, or than its most expensive row.
    low = np.maximum((row_cost.sum(1) + image_cost[:, -1]) / bins, row_cost[:, 0])
    high = low * FIRST_GUESS
    feasible = _cut(row_cost, image_cost, most, row_cost[:, 0] * rows + image_cost[:, -1], bins)[1]
    while True:
        missed = feasible & ~_cut(row_cost, image_cost, most, high, bins)[1]
        if not missed.any():
            break
        low, high = np.where(missed, high, low), np.where(missed, high * FIRST_GUESS, high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        fits = _cut(row_cost, image_cost, most, middle, bins)[1]
        low, high = np.where(fits, low, middle), np.where(fits, middle, high)
    ends = _cut(row_cost, image_cost, most, high, bins)[0]
    marks = np.zeros((len(ends), rows + 1), np.int64)
    np.add.at(marks, (np.arange(len(ends))[:, None], ends), 1)
    group = np.minimum(np.cumsum(marks, axis=1)[:, :rows], bins - 1)
    slots = deal(_group_costs(ends, row_cost, image_cost), ranks)
    return np.take_along_axis(slots, group, axis=1), feasible


def _cut(
    row_cost: np.ndarray, image_cost: np.ndarray, most: np.ndarray, bound: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray]:
    """Greedy groups under a cost bound: the end of each group, int64 (S, bins), and whether all rows were assigned."""
    steps, rows = row_cost.shape
    every = np.arange(steps)
    start = np.zeros(steps, np.int64)
    ends = np.empty((steps, bins), np.int64)
    for group in range(bins):
        first = np.minimum(start, rows - 1)
        # Later groups are cheaper than this one: leaving each of them a row never hurts and leaves no rank idle.
        spare = np.maximum(rows - start - (bins - group - 1), 0)
        count = np.minimum(most[every, first], spare)
        start = start + _affordable(count, first, row_cost[every, first], image_cost, bound)
        ends[:, group] = start
    return ends, start >= rows


def _affordable(
    count: np.ndarray, first: np.ndarray, row: np.ndarray, image_cost: np.ndarray, bound: np.ndarray
) -> np.ndarray:
    """The largest number of rows up to `count`, from row `first` on, whose padded cost stays within the bound."""
    every = np.arange(len(count))
    begin = image_cost[every, first]
    # Ignoring images, the quotient is an upper bound; counting the images of that many rows gives a lower bound.
    high = np.minimum(count, bound // row).astype(np.int64)
    images = image_cost[every, first + high] - begin
    low = np.minimum(high, np.maximum(bound - images, 0) // row).astype(np.int64)
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high + 1) // 2
        fits = middle * row + image_cost[every, first + middle] - begin <= bound
        low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
        high = np.maximum(high, low)
    return low


def _group_costs(ends: np.ndarray, row_cost: np.ndarray, image_cost: np.ndarray) -> np.ndarray:
    """The padded cost of each group, float64 (S, bins)."""
    starts = np.pad(ends[:, :-1], ((0, 0), (1, 0)))
    first = np.minimum(starts, row_cost.shape[1] - 1)
    rows = np.take_along_axis(row_cost, first, axis=1) * (ends - starts)
    return rows + np.take_along_axis(image_cost, ends, axis=1) - np.take_along_axis(image_cost, starts, axis=1)
