"""Divide the rows of many steps at once among equal bins: longest first, then swaps between heavy and light bins.

A step's rows go to K = ranks x micro-steps bins. All arrays carry a leading axis of S steps, so that a whole epoch
costs a few hundred numpy calls instead of one Python loop per sample.
"""

from __future__ import annotations

import numpy as np

# A bin within this share of the mean is good enough: the collectives between ranks vary by more.
TOLERANCE = 1e-3
# Exchanges that gain less than this share of the mean are not worth their time.
LEAST_GAIN = 2e-4
# How many of the lightest bins are tried before a heavy bin is given up.
LIGHT_BINS = 8


def balance(
    costs: np.ndarray, tokens: np.ndarray, bins: int, ranks: int, max_tokens: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Assign each row to a bin so that the heaviest bins are as light as possible.

    costs: float64 (S, N), every step's rows by falling cost; tokens: int64 (S, N). Returns slots, int64 (S, N): the
    micro-step * ranks + rank of each row, the heaviest bins in the first micro-step; and feasible, bool (S,): False
    where `bins` bins of `max_tokens` did not hold the step (its slots are then meaningless).
    """
    assignment, loads, feasible = longest_first(costs, tokens, bins, max_tokens)
    counts = np.zeros(loads.shape, np.int64)
    np.add.at(counts, (np.arange(len(costs))[:, None], assignment), 1)
    # Steps whose fullest bins are alike go together: one bin of fifty short rows must not widen every step's arrays.
    width = np.ceil(np.log2(counts.max(1) + 1)).astype(np.int64)
    for kind in np.unique(width):
        some = np.flatnonzero(width == kind)
        members = _members(assignment[some], counts[some])
        loads[some] = refine(members, loads[some], costs[some], tokens[some], ranks, max_tokens)
        placed = np.empty((len(some), costs.shape[1] + 1), np.int64)
        placed[np.arange(len(some))[:, None, None], members] = np.arange(bins)[None, :, None]
        assignment[some] = placed[:, :-1]
    return np.take_along_axis(deal(loads, ranks), assignment, axis=1), feasible


def longest_first(
    costs: np.ndarray, tokens: np.ndarray, bins: int, max_tokens: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Graham's longest processing time rule (SIAM J. Appl. Math. 17, 1969): next row to the lightest bin with room.

    Returns the bin of each row (S, N), the load of each bin (S, bins), and which steps fitted (S,).
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


def _members(assignment: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The rows of each bin, int64 (S, bins, C); unused places hold N. Every bin starts with at least one of them."""
    steps, rows = assignment.shape
    order = np.argsort(assignment, axis=1, kind="stable")
    starts = np.cumsum(counts, axis=1) - counts
    capacity = int(counts.max()) + 1
    places = starts[:, :, None] + np.arange(capacity)
    used = np.arange(capacity) < counts[:, :, None]
    filled = np.take_along_axis(order, np.minimum(places, rows - 1).reshape(steps, -1), axis=1)
    return np.where(used, filled.reshape(places.shape), rows)


def refine(
    members: np.ndarray, loads: np.ndarray, costs: np.ndarray, tokens: np.ndarray, ranks: int, max_tokens: int | None
) -> np.ndarray:
    """Exchange rows (or move one) between the heaviest bin and a light one while that lowers the heavier.

    Changes `members` and returns the new loads.

    A bin that no light bin can relieve is set aside, and the next heaviest is tried: with several micro-steps the time
    is the sum of their maxima, so that one hopeless bin must not end the search for the others.
    """
    steps, bins, _ = members.shape
    rows = costs.shape[1]
    limit = min(LIGHT_BINS, bins)
    enough = loads.mean(1) * (1 + TOLERANCE)
    costs = np.pad(costs, ((0, 0), (0, 1)))
    tokens = np.pad(tokens, ((0, 0), (0, 1)))
    tried = np.zeros((steps, bins), bool)
    # One row alone is as light as its bin can be: no exchange helps.
    aside = (members < rows).sum(2) <= 1
    active = np.arange(steps)
    for _ in range(12 * bins):
        heavy = np.where(aside[active], -np.inf, loads[active]).argmax(1)
        top = loads[active, heavy]
        # A micro-step lasts as long as its heaviest bin. Bins set aside fill the first micro-steps; once all but the
        # last are full of heavier ones, this bin no longer counts.
        heavier = (aside[active] & (loads[active] >= top[:, None])).sum(1)
        going = ~aside[active, heavy] & (top > enough[active]) & (heavier <= bins - ranks)
        active, heavy = active[going], heavy[going]
        if len(active) == 0:
            break
        light = np.where(tried[active], np.inf, loads[active]).argmin(1)
        moved = _exchange(active, heavy, light, members, loads, costs, tokens, max_tokens)
        tried[active, light] = True
        hopeless = ~moved & (tried[active].sum(1) >= limit) | ((members[active, heavy] < rows).sum(1) <= 1)
        aside[active[hopeless], heavy[hopeless]] = True
        tried[active[moved | hopeless]] = False
    return loads


def _exchange(
    active: np.ndarray,
    heavy: np.ndarray,
    light: np.ndarray,
    members: np.ndarray,
    loads: np.ndarray,
    costs: np.ndarray,
    tokens: np.ndarray,
    max_tokens: int | None,
) -> np.ndarray:
    """One best exchange per active step; returns which steps changed. An unused place gives nothing in return."""
    given, taken = members[active, heavy], members[active, light]
    here = active[:, None]
    change = costs[here, given][:, :, None] - costs[here, taken][:, None, :]
    gap = (loads[active, heavy] - loads[active, light])[:, None, None]
    least = LEAST_GAIN * loads[active].mean(1)[:, None, None]
    useful = (change > least) & (change < gap - least)
    if max_tokens is not None:
        shift = tokens[here, given][:, :, None] - tokens[here, taken][:, None, :]
        free = max_tokens - tokens[here, taken].sum(1)
        excess = tokens[here, given].sum(1) - max_tokens
        useful &= (shift <= free[:, None, None]) & (shift >= excess[:, None, None])
    score = np.where(useful, np.abs(change - gap / 2), np.inf).reshape(len(active), -1)
    best = score.argmin(1)
    moved = np.isfinite(score[np.arange(len(active)), best])
    give, take = np.divmod(best[moved], taken.shape[1])
    step, source, target = active[moved], heavy[moved], light[moved]
    members[step, source, give], members[step, target, take] = members[step, target, take], members[step, source, give]
    amount = change.reshape(len(active), -1)[moved, best[moved]]
    loads[step, source] -= amount
    loads[step, target] += amount
    return moved


def deal(loads: np.ndarray, ranks: int) -> np.ndarray:
    """The slot (micro-step * ranks + rank) of each bin, int64 (S, bins): bins of like load share a micro-step.

    Every second micro-step is dealt backwards, so that ranks are also even over a whole step.
    """
    steps, bins = loads.shape
    order = np.argsort(-loads, axis=1, kind="stable")
    slots = np.arange(bins).reshape(-1, ranks)
    slots[1::2] = slots[1::2, ::-1]
    slot = np.empty((steps, bins), np.int64)
    slot[np.arange(steps)[:, None], order] = slots.reshape(-1)
    return slot
