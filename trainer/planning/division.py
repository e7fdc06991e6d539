"""Divide the rows of steps among ranks and micro-steps: by cost, by padded cost, or in order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trainer.planning.balance import balance
from trainer.planning.cost import CostModel
from trainer.planning.padded import partition


@dataclass(frozen=True)
class Workload:
    """What each row costs, and how many ranks and micro-steps share a step."""

    lengths: np.ndarray
    image_counts: np.ndarray
    cost: CostModel
    global_batch: int
    world_size: int
    accumulation: int
    max_tokens: int | None
    padded: bool

    def fewest_micro_steps(self, rows: np.ndarray) -> int:
        """A lower bound on the micro-steps for these rows: `accumulation` (fewer for an incomplete last step), or more.

        A micro-batch of `max_tokens` holds at most k rows longer than max_tokens / (k + 1); that, and the sum of all
        tokens, bound the number of micro-batches from below.
        """
        micro_steps = min(self.accumulation, math.ceil(len(rows) * self.accumulation / self.global_batch))
        if self.max_tokens is None:
            return micro_steps
        lengths = self.lengths[rows]
        batches = math.ceil(lengths.sum() / self.max_tokens)
        for together in range(1, 9):
            batches = max(batches, math.ceil((lengths > self.max_tokens / (together + 1)).sum() / together))
        return max(micro_steps, math.ceil(batches / self.world_size))


@dataclass(frozen=True)
class Division:
    """One step, divided: row numbers int64 (N,), and the slot of each, micro-step * ranks + rank, int64 (N,)."""

    rows: np.ndarray
    slots: np.ndarray
    micro_steps: int


Divider = Callable[[list[np.ndarray], Workload], list[Division]]
# Rows (S, N), number of micro-steps -> rows in the method's order, their slots, and which steps fit.
Method = Callable[[np.ndarray, int, Workload], tuple[np.ndarray, np.ndarray, np.ndarray]]


def by_cost(steps: list[np.ndarray], work: Workload) -> list[Division]:
    """Padding-free micro-batches of nearly equal cost."""
    return _divide(steps, work, _balanced)


def by_padded_cost(steps: list[np.ndarray], work: Workload) -> list[Division]:
    """Padded micro-batches of nearly equal cost."""
    return _divide(steps, work, _padded)


def as_they_come(steps: list[np.ndarray], work: Workload) -> list[Division]:
    """Consecutive rows, the same number for every rank, batch j to rank j % world_size, whatever their length."""
    return _divide(steps, work, _consecutive)


def _divide(steps: list[np.ndarray], work: Workload, method: Method) -> list[Division]:
    """Divide steps of equal size together; those whose tokens do not fit are tried again with more micro-steps."""
    divided: dict[int, Division] = {}
    pending: dict[tuple[int, int], list[int]] = {}
    for index, rows in enumerate(steps):
        pending.setdefault((len(rows), work.fewest_micro_steps(rows)), []).append(index)
    while pending:
        size, micro_steps = min(pending)
        indices = pending.pop((size, micro_steps))
        rows, slots, feasible = method(np.stack([steps[index] for index in indices]), micro_steps, work)
        for line, index in enumerate(indices):
            if feasible[line]:
                divided[index] = Division(rows[line], slots[line], micro_steps)
            else:
                pending.setdefault((size, micro_steps + 1), []).append(index)
    return [divided[index] for index in range(len(steps))]


def _balanced(rows: np.ndarray, micro_steps: int, work: Workload) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    costs = work.cost.cost(work.lengths[rows], work.image_counts[rows])
    order = np.argsort(-costs, axis=1, kind="stable")
    rows, costs = np.take_along_axis(rows, order, axis=1), np.take_along_axis(costs, order, axis=1)
    bins = micro_steps * work.world_size
    slots, feasible = balance(costs, work.lengths[rows], bins, work.world_size, work.max_tokens)
    return rows, slots, feasible


def _padded(rows: np.ndarray, micro_steps: int, work: Workload) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = np.take_along_axis(rows, np.argsort(-work.lengths[rows], axis=1, kind="stable"), axis=1)
    lengths, images, bins = work.lengths[rows], work.image_counts[rows], micro_steps * work.world_size
    slots, feasible = partition(lengths, images, bins, work.world_size, work.max_tokens, work.cost)
    return rows, slots, feasible


def _consecutive(rows: np.ndarray, micro_steps: int, work: Workload) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    steps, size = rows.shape
    bins = micro_steps * work.world_size
    slots = np.broadcast_to(np.arange(size) * bins // size, rows.shape)
    feasible = np.ones(steps, bool)
    if work.max_tokens is not None:
        held = np.zeros((steps, bins), np.int64)
        cell = (np.arange(steps)[:, None], slots)
        if work.padded:
            np.maximum.at(held, cell, work.lengths[rows])
            held *= np.bincount(slots[0], minlength=bins)
        else:
            np.add.at(held, cell, work.lengths[rows])
        feasible = held.max(1) <= work.max_tokens
    return rows, slots, feasible
