"""Make the plan of one epoch from the token and image counts of all rows."""

from __future__ import annotations

import math

import numpy as np

from schemas.errors import InputError
from trainer.planning.checks import check_rows, check_sizes, check_token_bound
from trainer.planning.cost import CostModel
from trainer.planning.division import Divider, Workload, as_they_come, by_cost, by_padded_cost
from trainer.planning.epoch import Plan
from trainer.planning.order import random_steps, window_steps
from trainer.planning.original import GROUPINGS, UNSIGNED, original_order, whole_rounds

STRATEGIES = ("balanced", "modality_length", "length_window", "random")
# Groupings of the original code other than the one LLaVA's recipes use.
ORIGINAL_STRATEGIES = tuple(GROUPINGS)
ALL_STRATEGIES = STRATEGIES + tuple(name for name in ORIGINAL_STRATEGIES if name not in STRATEGIES)
# length_window's own token bound over the mean share of a micro-step: without slack, rows of similar length waste room.
SLACK = 1.1


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
    allow_empty: bool = False,
) -> Plan:
    """The plan of one epoch over rows of `lengths` tokens (images included) and `image_counts` images (or tiles).

    - strategy: `balanced` (random steps divided by cost), `length_window` (steps of rows of similar length), `random`
      (random rows in order), `modality_length` (LLaVA's own grouping), or another of `ORIGINAL_STRATEGIES`.
    - max_tokens: the most tokens a rank may hold in one micro-step (with padding where `padded`). A step that does not
      fit gets more micro-steps than `accumulation`, the same on all ranks. length_window sets its own bound: the mean
      share of a micro-step, or the longest row. The original's groupings cannot apply one.
    - padded: rows of a micro-batch are padded to the longest (attention is not variable-length).
    - cost: defaults to Llama-2-7B behind CLIP-L/336.
    - drop_last: leave out the incomplete last step. Otherwise the last step is shorter, every row is used exactly once,
      and some micro-batches are empty where the step has fewer rows than slots. The original's groupings complete it
      with rows of the first step instead, as accelerate does.
    - grouping_lengths: what the original's groupings sort by (LLaVA counts words); their sign is ignored.
    - generator_seed: see `original_order`.
    - allow_empty: return a plan without steps when the only step is incomplete and left out.

    Raises InputError for counts that are not positive integers (the original's groupings without modality accept
    lengths of 0), unequal sizes, sizes that do not divide, and an epoch without a step.
    """
    check_sizes(strategy, ALL_STRATEGIES, global_batch, world_size, accumulation, epoch)
    least = 0 if strategy in ORIGINAL_STRATEGIES else 1
    lengths, image_counts = check_rows(lengths, image_counts, least)
    if strategy == "length_window" and max_tokens is None:
        share = lengths.mean() * global_batch / (world_size * accumulation)
        max_tokens = max(math.ceil(SLACK * share), int(lengths.max()))
    check_token_bound(strategy, ORIGINAL_STRATEGIES, lengths, max_tokens)
    cost = cost or CostModel.from_sizes()
    work = Workload(lengths, image_counts, cost, global_batch, world_size, accumulation, max_tokens, padded)
    divider: Divider = by_padded_cost if padded else by_cost
    if strategy in ORIGINAL_STRATEGIES:
        divider = as_they_come
        sizes = lengths if grouping_lengths is None else check_rows(grouping_lengths, image_counts, least)[0]
        order = _original(
            strategy, np.where(image_counts > 0, sizes, -sizes), work, seed, epoch, generator_seed, drop_last
        )
    elif strategy == "length_window":
        order = window_steps(lengths, global_batch, seed, epoch)
    else:
        divider = as_they_come if strategy == "random" else divider
        order = random_steps(len(lengths), seed, epoch)
    if drop_last and strategy not in ORIGINAL_STRATEGIES:
        order = order[: len(order) // global_batch * global_batch]
    if len(order) == 0 and not allow_empty:
        raise InputError(
            f"{len(lengths)} rows do not fill a step of {global_batch}, and an incomplete one is left out; "
            "use a smaller batch, or keep the incomplete step"
        )
    return Plan(strategy, seed, epoch, work, order, divider)


def _original(
    strategy: str,
    signed: np.ndarray,
    work: Workload,
    seed: int,
    epoch: int,
    generator_seed: int | None,
    drop_last: bool,
) -> np.ndarray:
    """The original's indices, completed to full rounds of one batch per rank."""
    slots = work.world_size * work.accumulation
    if work.global_batch % slots:
        raise InputError(
            f"strategy {strategy} gives every rank batches of equal size: global batch {work.global_batch} is not a "
            f"multiple of {work.world_size} ranks x {work.accumulation} accumulation steps; change one of them, or use "
            "balanced"
        )
    batch_size = work.global_batch // slots
    # LLaVA's trainer passes ranks x accumulation as world size; NeXT's variable-length one multiplies the batch too.
    grouped = batch_size * work.accumulation if strategy == "variable_length" else batch_size
    if strategy in UNSIGNED:
        signed = np.abs(signed)
    order = original_order(strategy, signed, grouped, slots, seed=seed, generator_seed=generator_seed, epoch=epoch)
    return whole_rounds(order, batch_size * work.world_size, drop_last=drop_last)
