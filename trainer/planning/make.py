"""Make the plan of one epoch from the token and image counts of all rows."""

from __future__ import annotations

import numpy as np

from schemas.errors import InputError
from trainer.planning.checks import check_rows, check_sizes, check_token_bound
from trainer.planning.cost import CostModel
from trainer.planning.division import Divider, Workload, as_they_come, by_cost, by_padded_cost
from trainer.planning.epoch import Plan
from trainer.planning.strategies import Draw, strategy_of


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

    - strategy: one of `strategies.STRATEGIES`.
    - max_tokens: the most tokens a rank may hold in one micro-step (with padding where `padded`). A step that does not
      fit gets more micro-steps than `accumulation`, the same on all ranks. length_window sets its own bound: the mean
      share of a micro-step, or the longest row. The original's groupings cannot apply one.
    - padded: rows of a micro-batch are padded to the longest (attention is not variable-length).
    - cost: defaults to Llama-2-7B with CLIP-L/336.
    - drop_last: leave out the incomplete last step. Otherwise the last step is shorter, every row is used exactly once,
      and some micro-batches are empty where the step has fewer rows than slots. The original's groupings complete it
      with rows of the first step instead, as accelerate does.
    - grouping_lengths: what the original's groupings sort by (LLaVA counts words); their sign is ignored.
    - generator_seed: see `original_order`.
    - allow_empty: return a plan without steps when the only step is incomplete and left out.

    Raises InputError for counts that are not positive integers (the original's groupings without modality accept
    lengths of 0), unequal sizes, sizes that do not divide, and an epoch without a step.
    """
    chosen = strategy_of(strategy)
    check_sizes(global_batch, world_size, accumulation, epoch)
    least = 0 if chosen.original else 1
    lengths, image_counts = check_rows(lengths, image_counts, least)
    if chosen.bound is not None and max_tokens is None:
        max_tokens = chosen.bound(lengths, global_batch / (world_size * accumulation))
    check_token_bound(strategy, chosen.original, lengths, max_tokens)
    cost = cost or CostModel.from_sizes()
    work = Workload(lengths, image_counts, cost, global_batch, world_size, accumulation, max_tokens, padded)
    divider: Divider = as_they_come
    if chosen.divided:
        divider = by_padded_cost if padded else by_cost
    sizes = lengths if grouping_lengths is None else check_rows(grouping_lengths, image_counts, least)[0]
    order = chosen.order(Draw(work, sizes, seed, epoch, generator_seed, drop_last))
    if drop_last and not chosen.original:
        order = order[: len(order) // global_batch * global_batch]
    if len(order) == 0 and not allow_empty:
        raise InputError(
            f"{len(lengths)} rows do not fill a step of {global_batch}, and an incomplete one is left out; "
            "use a smaller batch, or keep the incomplete step"
        )
    return Plan(strategy, seed, epoch, work, order, divider)
