"""Finds signatures that differ by at most a limit in every value: exact, without comparing all pairs.

Many are cut in two by the value of one cell, with those that are within the limit of the cut on both sides, so that no
pair is separated, until few are left (Shim, Srikant, Agrawal, "High-dimensional similarity joins", ICDE 1997, divide
space in the same way). Pictures on one template differ in few cells, and those are where the cuts are made.
"""

from __future__ import annotations

import numpy as np

from pipelines.engine.components import Components

LEAF = 64
"""So many are compared pair by pair."""
PIVOTS = 32
"""Members that are compared with all others where no cut divides them."""
CANDIDATES = 16
"""Cells that are tried for a cut."""
MOST_COST = 0.97
"""A cut is made where the sides, compared pair by pair, would cost at most this share of the whole."""
ROWS = 4096
"""Pairs that are compared at a time: 5 MB."""


def connect_alike(signatures: np.ndarray, groups: np.ndarray, limit: int, sets: Components) -> None:
    """Join in `sets` all pairs of one group whose signatures differ by at most `limit` in every value.

    signatures: int8, shape (rows, size). groups: int64, shape (rows,), ascending. `sets` numbers the rows.
    """
    cuts = np.flatnonzero(groups[1:] != groups[:-1]) + 1
    sizes = np.diff(np.concatenate([[0], cuts, [len(groups)]]))
    search = _Search(signatures, limit, sets)
    search.small(np.where(sizes > LEAF, 0, sizes), sizes)
    for number in np.flatnonzero(sizes > LEAF):
        end = int(sizes[: number + 1].sum())
        search.divide(np.arange(end - sizes[number], end))


class _Search:
    def __init__(self, signatures: np.ndarray, limit: int, sets: Components):
        self.signatures, self.limit, self.sets = signatures, limit, sets

    def small(self, compared: np.ndarray, sizes: np.ndarray) -> None:
        """All pairs of every group at once, by their distance in the order; groups lie one after the other."""
        left = np.repeat(np.cumsum(sizes), sizes) - np.arange(1, int(sizes.sum()) + 1)
        left[np.repeat(compared == 0, sizes)] = 0
        step, active = 1, np.flatnonzero(left)
        while len(active):
            self._compare(active, active + step)
            step += 1
            active = active[left[active] >= step]

    def divide(self, positions: np.ndarray) -> None:
        """All pairs among `positions` (int64)."""
        waiting = [positions]
        while waiting:
            part = waiting.pop()
            if len(part) < 2 or self._connected(part):
                continue
            if len(part) <= LEAF:
                first, second = np.triu_indices(len(part), 1)
                self._compare(part[first], part[second])
                continue
            own = self.signatures[part]
            spread = own.max(axis=0).astype(np.int16) - own.min(axis=0)
            if spread.max() <= self.limit:
                self.sets.join(part[1:], np.broadcast_to(part[:1], len(part) - 1))
                continue
            sides = self._cut(own, spread)
            waiting += [part[side] for side in sides] if sides else self._rest(part)

    def _cut(self, own: np.ndarray, spread: np.ndarray) -> list[np.ndarray]:
        """Two sides (bool, shape (rows,)) that share few rows and have every near pair on one of them; or none."""
        best: tuple[float, int, int] = (MOST_COST * len(own) ** 2, -1, 0)
        for cell in np.argsort(-spread, kind="stable")[:CANDIDATES].tolist():
            counts = np.bincount(own[:, cell].astype(np.int64) + 128, minlength=256)
            upto = np.cumsum(counts)
            before = np.concatenate([np.zeros(self.limit, np.int64), upto])[:256]
            cost = upto.astype(float) ** 2 + (len(own) - before).astype(float) ** 2
            cut = int(cost.argmin())
            best = min(best, (float(cost[cut]), cell, cut - 128))
        _, cell, cut = best
        if cell < 0:
            return []
        values = own[:, cell].astype(np.int16)
        return [values <= cut, values > cut - self.limit]

    def _rest(self, positions: np.ndarray) -> list[np.ndarray]:
        """Connect by a few members what is near them, and compare what is outside the largest set with all.

        Nothing is left to divide then.
        """
        for pivot in positions[:: -(-len(positions) // PIVOTS)].tolist():
            self._compare(np.full(len(positions), pivot), positions)
        roots = self.sets.roots(positions)
        values, counts = np.unique(roots, return_counts=True)
        for one in positions[roots != values[counts.argmax()]].tolist():
            self._compare(np.full(len(positions), one), positions)
        return []

    def _compare(self, first: np.ndarray, second: np.ndarray) -> None:
        for start in range(0, len(first), ROWS):
            one, other = first[start : start + ROWS], second[start : start + ROWS]
            differing = np.abs(self.signatures[one].astype(np.int16) - self.signatures[other])
            near = differing.max(axis=1) <= self.limit
            self.sets.join(one[near], other[near])

    def _connected(self, positions: np.ndarray) -> bool:
        roots = self.sets.roots(positions)
        return bool((roots == roots[0]).all())
