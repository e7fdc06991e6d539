"""Divide the rows of many steps at once among equal bins: longest first, then swaps between heavy and light bins.

A step's rows go to K = ranks x micro-steps bins. All arrays have a leading axis of S steps: a whole epoch takes a few
hundred numpy calls instead of one Python loop per sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Pairs of rows compared in one numpy call: 64 MB of differences.
COMPARISONS = 2**23
# A bin this close to the mean is good enough: the collectives between ranks vary by more.
TOLERANCE = 1e-3
# Exchanges that gain less than this share of the mean are not worth their time.
LEAST_GAIN = 2e-4
# Rounds of trades between all heavy and light bins at once; trades of single heaviest bins after that.
ROUNDS = 12
TRIES = 400
# The number of lightest bins that are tried before a heavy bin is given up.
LIGHT_BINS = 8


def balance(
    costs: np.ndarray, tokens: np.ndarray, bins: int, ranks: int, max_tokens: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Assign each row to a bin, minimising the load of the heaviest bins.

    costs: float64 (S, N), every step's rows by descending cost; tokens: int64 (S, N). Returns slots, int64 (S, N): the
    micro-step * ranks + rank of each row, with the heaviest bins in the first micro-step; and feasible, bool (S,):
    False where the step did not fit into `bins` bins of `max_tokens` (its slots are then meaningless).
    """
    assignment, loads, feasible = longest_first(costs, tokens, bins, max_tokens)
    counts = np.zeros(loads.shape, np.int64)
    np.add.at(counts, (np.arange(len(costs))[:, None], assignment), 1)
    for some in _alike(counts):
        members = _members(assignment[some], counts[some])
        loads[some] = refine(members, loads[some], costs[some], tokens[some], ranks, max_tokens)
        bin_of = np.empty((len(some), costs.shape[1] + 1), np.int64)
        bin_of[np.arange(len(some))[:, None, None], members] = np.arange(bins)[None, :, None]
        assignment[some] = bin_of[:, :-1]
    return np.take_along_axis(deal(loads, ranks), assignment, axis=1), feasible


def longest_first(
    costs: np.ndarray, tokens: np.ndarray, bins: int, max_tokens: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Graham's longest processing time rule (SIAM J. Appl. Math. 17, 1969): next row to the lightest bin with room.

    Returns the bin of each row (S, N), the load of each bin (S, bins), and which steps fit (S,).
    """
    steps, rows = costs.shape
    every = np.arange(steps)
    loads = np.zeros((steps, bins))
    held = np.zeros((steps, bins), np.int64)
    assignment = np.zeros((steps, rows), np.int64)
    feasible = np.ones(steps, bool)
    for row in range(rows):
        if max_tokens is None:
            target = loads.argmin(1)
        else:
            room = np.where(held + tokens[:, row, None] <= max_tokens, loads, np.inf)
            target = room.argmin(1)
            feasible &= np.isfinite(room[every, target])
            held[every, target] += tokens[:, row]
        loads[every, target] += costs[:, row]
        assignment[:, row] = target
    return assignment, loads, feasible


def _alike(counts: np.ndarray) -> Iterator[np.ndarray]:
    """Groups of steps whose fullest bins are similar: one bin of fifty short rows must not widen all steps' arrays.

    Comparing all pairs of bins takes bins x the square of their rows, which bounds how many steps are done together.
    """
    width = np.ceil(np.log2(counts.max(1) + 1)).astype(np.int64)
    for kind in np.unique(width):
        steps = np.flatnonzero(width == kind)
        together = max(1, COMPARISONS // (counts.shape[1] * 4 ** int(kind)))
        yield from (steps[start : start + together] for start in range(0, len(steps), together))


def _members(assignment: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The rows of each bin, int64 (S, bins, C), with N in unused positions. Every bin starts with at least one such."""
    steps, rows = assignment.shape
    order = np.argsort(assignment, axis=1, kind="stable")
    starts = np.cumsum(counts, axis=1) - counts
    capacity = int(counts.max()) + 1
    positions = starts[:, :, None] + np.arange(capacity)
    used = np.arange(capacity) < counts[:, :, None]
    filled = np.take_along_axis(order, np.minimum(positions, rows - 1).reshape(steps, -1), axis=1)
    return np.where(used, filled.reshape(positions.shape), rows)


@dataclass(frozen=True)
class _Bins:
    """The bins of some steps while rows are exchanged between them: `members` and `loads` change in place."""

    members: np.ndarray
    loads: np.ndarray
    costs: np.ndarray
    tokens: np.ndarray
    enough: np.ndarray
    max_tokens: int | None

    def alone(self, steps: np.ndarray, bins: np.ndarray) -> np.ndarray:
        """Which bins hold at most one row: they are as light as they can be, and no exchange helps."""
        return (self.members[steps, bins] < self.costs.shape[1] - 1).sum(1) <= 1

    def exchange(self, steps: np.ndarray, heavy: np.ndarray, light: np.ndarray) -> np.ndarray:
        """Make the best exchange in each pair of bins, all pairs at once; returns which pairs had one.

        The best exchange brings both loads closest together. An unused position in the light bin returns nothing.
        """
        given, taken = self.members[steps, heavy], self.members[steps, light]
        here = steps[:, None]
        change = self.costs[here, given][:, :, None] - self.costs[here, taken][:, None, :]
        gap = (self.loads[steps, heavy] - self.loads[steps, light])[:, None, None]
        least = LEAST_GAIN * self.enough[steps][:, None, None]
        useful = (change > least) & (change < gap - least)
        if self.max_tokens is not None:
            give, take = self.tokens[here, given], self.tokens[here, taken]
            shift = give[:, :, None] - take[:, None, :]
            useful &= shift <= (self.max_tokens - take.sum(1))[:, None, None]
            useful &= shift >= (give.sum(1) - self.max_tokens)[:, None, None]
        score = np.where(useful, np.abs(change - gap / 2), np.inf).reshape(len(steps), -1)
        best = score.argmin(1)
        found = np.isfinite(score[np.arange(len(steps)), best])
        give, take = np.divmod(best[found], taken.shape[1])
        source, target = (steps[found], heavy[found], give), (steps[found], light[found], take)
        self.members[source], self.members[target] = self.members[target], self.members[source]
        amount = change.reshape(len(steps), -1)[found, best[found]]
        self.loads[source[:2]] -= amount
        self.loads[target[:2]] += amount
        return found


def refine(
    members: np.ndarray, loads: np.ndarray, costs: np.ndarray, tokens: np.ndarray, ranks: int, max_tokens: int | None
) -> np.ndarray:
    """Exchange rows (or move one) between heavy and light bins while that lowers the heavier load.

    Changes `members` and returns the new loads.
    """
    costs, tokens = np.pad(costs, ((0, 0), (0, 1))), np.pad(tokens, ((0, 0), (0, 1)))
    bins = _Bins(members, loads, costs, tokens, loads.mean(1) * (1 + TOLERANCE), max_tokens)
    _trade_in_pairs(bins)
    _relieve_heaviest(bins, ranks)
    return bins.loads


def _trade_in_pairs(bins: _Bins) -> None:
    """Rounds in which the heaviest bin trades with the lightest, the second with the second lightest, and so on."""
    half = bins.loads.shape[1] // 2
    active = np.arange(len(bins.loads))
    for _ in range(ROUNDS):
        order = np.argsort(bins.loads[active], axis=1, kind="stable")
        steps = np.repeat(active, half)
        heavy, light = order[:, ::-1][:, :half].reshape(-1), order[:, :half].reshape(-1)
        open_pairs = (bins.loads[steps, heavy] > bins.enough[steps]) & ~bins.alone(steps, heavy)
        steps, heavy, light = steps[open_pairs], heavy[open_pairs], light[open_pairs]
        if len(steps) == 0:
            return
        active = np.unique(steps[bins.exchange(steps, heavy, light)])


def _relieve_heaviest(bins: _Bins, ranks: int) -> None:
    """The heaviest bin trades with the lightest ones until none of them relieves it; then the next heaviest.

    With several micro-steps the time is the sum of their maxima, so one hopeless bin must not end the search.
    """
    steps, count = bins.loads.shape
    tried = np.zeros((steps, count), bool)
    aside = (bins.members < bins.costs.shape[1] - 1).sum(2) <= 1
    active = np.arange(steps)
    for _ in range(TRIES):
        loads = bins.loads[active]
        heavy = np.where(aside[active], -np.inf, loads).argmax(1)
        top = bins.loads[active, heavy]
        # A micro-step takes as long as its heaviest bin. Bins set aside fill the first micro-steps; once all but the
        # last are full of heavier ones, this bin no longer matters.
        heavier = (aside[active] & (loads >= top[:, None])).sum(1)
        going = ~aside[active, heavy] & (top > bins.enough[active]) & (heavier <= count - ranks)
        active, heavy = active[going], heavy[going]
        if len(active) == 0:
            return
        light = np.where(tried[active], np.inf, bins.loads[active]).argmin(1)
        found = bins.exchange(active, heavy, light)
        tried[active, light] = True
        hopeless = ~found & (tried[active].sum(1) >= min(LIGHT_BINS, count)) | bins.alone(active, heavy)
        aside[active[hopeless], heavy[hopeless]] = True
        tried[active[found | hopeless]] = False


def deal(loads: np.ndarray, ranks: int) -> np.ndarray:
    """The slot (micro-step * ranks + rank) of each bin, int64 (S, bins): bins of similar load share a micro-step.

    Every second micro-step is dealt in reverse, which also evens out the ranks over a whole step.
    """
    steps, bins = loads.shape
    order = np.argsort(-loads, axis=1, kind="stable")
    slots = np.arange(bins).reshape(-1, ranks)
    slots[1::2] = slots[1::2, ::-1]
    slot = np.empty((steps, bins), np.int64)
    slot[np.arange(steps)[:, None], order] = slots.reshape(-1)
    return slot
