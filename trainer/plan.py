"""The order of training data: which rows make a step, and which rank works on which of them in which micro-step.

A plan is a pure function of its arguments; numpy only, no torch. Token counts and image counts of all rows flow in
(from the dataset's columns, without touching an image), row numbers flow out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from schemas.errors import InputError
from trainer.planning.checks import check_rows, check_sizes, check_token_bound
from trainer.planning.cost import CostModel
from trainer.planning.division import Divider, Division, Workload, as_they_come, by_cost, by_padded_cost
from trainer.planning.order import random_steps, window_steps
from trainer.planning.original import GROUPINGS, original_order, whole_rounds

STRATEGIES = ("balanced", "modality_length", "length_window", "random")
# Groupings of the original code other than the one LLaVA's recipes use.
ORIGINAL_STRATEGIES = tuple(GROUPINGS)
ALL_STRATEGIES = STRATEGIES + tuple(name for name in ORIGINAL_STRATEGIES if name not in STRATEGIES)
# Steps are divided this many at a time, when one of them is first asked for.
BLOCK = 512


def make_plan(
    lengths: np.ndarray,
    image_counts: np.ndarray,
    *,
    seed: int,
    epoch: int = 0,
    global_batch: int,
    world_size: int,
    accumulation: int = 1,
    strategy: str = "balanced",
    max_tokens: int | None = None,
    padded: bool = False,
    cost: CostModel | None = None,
    drop_last: bool = False,
    grouping_lengths: np.ndarray | None = None,
    generator_seed: int | None = None,
) -> Plan:
    """The plan of one epoch over rows of `lengths` tokens (images included) and `image_counts` images (or tiles).

    - strategy: `balanced` (random steps divided by cost), `length_window` (steps of rows of similar length), `random`
      (random rows as they come), `modality_length` (LLaVA's own grouping), or another of `ORIGINAL_STRATEGIES`.
    - max_tokens: the most tokens a rank may hold in one micro-step (with padding where `padded`); a step that needs it
      gets more micro-steps than `accumulation`, on all ranks alike. length_window sets one by itself: the mean share of
      a micro-step, or the longest row. The original's groupings cannot honour one.
    - padded: rows of a micro-batch are padded to the longest (attention is not variable-length).
    - cost: defaults to Llama-2-7B behind CLIP-L/336.
    - drop_last: leave out the incomplete last step. Otherwise it is a shorter step, every row comes exactly once, and
      where it has fewer rows than slots some micro-batches are empty. The original's groupings complete it with rows of
      the first step instead, as accelerate does.
    - grouping_lengths: what the original's groupings sort by (LLaVA counts words); their sign is ignored.
    - generator_seed: see `original_order`.

    Raises InputError for counts that are not positive integers, unequal sizes, and sizes that do not divide.
    """
    lengths, image_counts = check_rows(lengths, image_counts)
    check_sizes(strategy, ALL_STRATEGIES, global_batch, world_size, accumulation, epoch)
    if strategy == "length_window" and max_tokens is None:
        share = -(-int(lengths.sum()) * global_batch // (len(lengths) * world_size * accumulation))
        max_tokens = max(share, int(lengths.max()))
    check_token_bound(strategy, ORIGINAL_STRATEGIES, lengths, max_tokens)
    work = Workload(lengths, image_counts, cost or CostModel.from_sizes(), global_batch, world_size, accumulation, max_tokens)
    divider: Divider = by_padded_cost if padded else by_cost
    if strategy in ORIGINAL_STRATEGIES:
        divider = as_they_come
        sizes = lengths if grouping_lengths is None else check_rows(grouping_lengths, image_counts)[0]
        order = _original(strategy, np.where(image_counts > 0, sizes, -sizes), work, seed, epoch, generator_seed, drop_last)
    elif strategy == "length_window":
        order = window_steps(lengths, global_batch, seed, epoch)
    else:
        divider = as_they_come if strategy == "random" else divider
        order = random_steps(len(lengths), seed, epoch)
    if drop_last:
        order = order[: len(order) // global_batch * global_batch]
    return Plan(strategy, seed, epoch, padded, work, order, divider)


def _original(
    strategy: str, signed: np.ndarray, work: Workload, seed: int, epoch: int, generator_seed: int | None, drop_last: bool
) -> np.ndarray:
    """The original's indices, completed to whole rounds of one batch per rank."""
    slots = work.world_size * work.accumulation
    if work.global_batch % slots:
        raise InputError(
            f"strategy {strategy} gives every rank batches of one size: global batch {work.global_batch} is not a multiple "
            f"of {work.world_size} ranks x {work.accumulation} accumulation steps; change one of them, or use balanced"
        )
    batch_size = work.global_batch // slots
    # LLaVA's trainer passes ranks x accumulation as the world; NeXT's variable-length one multiplies the batch as well.
    grouped = batch_size * work.accumulation if strategy == "variable_length" else batch_size
    if strategy in ("length_grouped_auto", "variable_length"):
        signed = np.abs(signed)
    order = original_order(strategy, signed, grouped, slots, seed=seed, generator_seed=generator_seed, epoch=epoch)
    return whole_rounds(order, batch_size * work.world_size, drop_last=drop_last)


@dataclass(frozen=True)
class Plan:
    """One epoch of steps. A position in it is one integer, the number of steps done, whatever the number of ranks."""

    strategy: str
    seed: int
    epoch: int
    padded: bool
    work: Workload
    order: np.ndarray = field(repr=False)
    divider: Divider = field(repr=False)
    _blocks: dict[int, list[Division]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def steps(self) -> int:
        """How many optimizer steps the epoch has."""
        return -(-len(self.order) // self.work.global_batch)

    def samples(self, step: int) -> np.ndarray:
        """The rows of a step, int64, ascending: the same for every number of ranks."""
        return np.sort(self._rows(step))

    def micro_steps(self, step: int) -> int:
        """How many micro-steps every rank makes in a step."""
        return self.division(step).micro_steps

    def micro_batches(self, step: int, rank: int) -> list[np.ndarray]:
        """The rows of each micro-step of one rank, int64; as many micro-steps on every rank.

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
        block, offset = divmod(step, BLOCK)
        if block not in self._blocks:
            steps = range(block * BLOCK, min((block + 1) * BLOCK, self.steps))
            self._blocks[block] = self.divider([self._rows(index) for index in steps], self.work)
        return self._blocks[block][offset]

    def summary(self) -> dict[str, float | int | str]:
        """Padding share, rank balance, modelled time against the ideal and peak tokens: see `report.figures`."""
        from trainer.planning.report import figures

        return figures(self)

    def _rows(self, step: int) -> np.ndarray:
        self._check(step)
        return self.order[step * self.work.global_batch : (step + 1) * self.work.global_batch]

    def _check(self, step: int) -> None:
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of a plan of {self.steps} steps")
