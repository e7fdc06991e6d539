"""The plan of one epoch: which rows each rank trains on in each micro-step of each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainer.planning.division import Divider, Division, Workload
from trainer.planning.figures import figures

# Steps are divided in blocks of this many rows, when one of them is first needed.
BLOCK_ROWS = 2**18


@dataclass(frozen=True, eq=False)
class Plan:
    """One epoch of steps. A position in it is the number of steps done, for any number of ranks."""

    strategy: str
    seed: int
    epoch: int
    work: Workload
    order: np.ndarray = field(repr=False)
    divider: Divider = field(repr=False)
    _blocks: dict[int, list[Division]] = field(default_factory=dict, repr=False)

    @property
    def padded(self) -> bool:
        """Whether the rows of a micro-batch are padded to the longest one."""
        return self.work.padded

    @property
    def steps(self) -> int:
        """The number of optimizer steps in the epoch."""
        return -(-len(self.order) // self.work.global_batch)

    def samples(self, step: int) -> np.ndarray:
        """The rows of a step, int64, ascending: the same for every number of ranks."""
        return np.sort(self._rows(step))

    def micro_steps(self, step: int) -> int:
        """The number of micro-steps of every rank in a step."""
        return self.division(step).micro_steps

    def micro_batches(self, step: int, rank: int) -> list[np.ndarray]:
        """The rows of each micro-step of one rank, int64; every rank has the same number of micro-steps.

        A micro-batch is empty only where a step has fewer rows than ranks x micro-steps.
        """
        if not 0 <= rank < self.work.world_size:
            raise IndexError(f"rank {rank} of a plan for {self.work.world_size} ranks")
        division = self.division(step)
        world = self.work.world_size
        return [division.rows[division.slots == micro * world + rank] for micro in range(division.micro_steps)]

    def from_position(self, position: int, rank: int) -> Iterator[tuple[int, list[np.ndarray]]]:
        """(step, micro-batches of this rank) for every step from `position` on: how a run resumes."""
        for step in range(position, self.steps):
            yield step, self.micro_batches(step, rank)

    def division(self, step: int) -> Division:
        """How a step is divided among all ranks."""
        self._check(step)
        size = max(1, BLOCK_ROWS // self.work.global_batch)
        block, offset = divmod(step, size)
        if block not in self._blocks:
            steps = range(block * size, min((block + 1) * size, self.steps))
            self._blocks[block] = self.divider([self._rows(index) for index in steps], self.work)
        return self._blocks[block][offset]

    def summary(self) -> dict[str, Any]:
        """Padding share, rank balance, modelled time over the ideal and peak tokens: see `figures.figures`."""
        return figures(self)

    def _rows(self, step: int) -> np.ndarray:
        self._check(step)
        return self.order[step * self.work.global_batch : (step + 1) * self.work.global_batch]

    def _check(self, step: int) -> None:
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of a plan of {self.steps} steps")
