"""What an epoch costs under a plan: padding, rank balance, modelled time over the ideal, peak memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from trainer.planning.epoch import Plan


def figures(plan: Plan) -> dict[str, Any]:
    """The figures of a whole epoch under the plan's cost model.

    - padding_share: share of all positions that are padding.
    - rank_balance: time of the slowest rank over the mean rank's, summed over micro-steps; 1.0 when no rank waits.
      Ranks are assumed to wait for each other in every micro-step, as under ZeRO-3.
    - time_ratio: modelled time over the ideal without padding or waiting. step_operations and ideal_operations: the
      same two for a mean step, in floating point operations of one rank.
    - peak_tokens, peak_images: the most that a rank holds in one micro-step (tokens include padding).
    - samples_per_step, tokens_per_step: means; micro_steps: the maximum over steps.
    - unused, repeated: rows that the epoch leaves out, and rows that it trains on twice.
    """
    work = plan.work
    rows, slots, batches = _flat(plan)
    costs = work.cost.cost(work.lengths[rows], work.image_counts[rows])
    tokens = np.bincount(slots, work.lengths[rows], batches)
    images = np.bincount(slots, work.image_counts[rows], batches)
    held, spent = tokens, np.bincount(slots, costs, batches)
    if plan.padded:
        longest = np.zeros(batches, np.int64)
        np.maximum.at(longest, slots, work.lengths[rows])
        samples = np.bincount(slots, minlength=batches)
        held, spent = samples * longest, work.cost.padded_cost(samples, longest, images)
    by_rank = spent.reshape(-1, work.world_size)
    time = by_rank.max(1).sum()
    seen = np.bincount(rows, minlength=len(work.lengths))
    return {
        "strategy": plan.strategy,
        "rows": rows_name(plan.padded),
        "steps": plan.steps,
        "micro_steps": max(plan.micro_steps(step) for step in range(plan.steps)),
        "samples_per_step": float(len(rows) / plan.steps),
        "tokens_per_step": float(tokens.sum() / plan.steps),
        "padding_share": float(1 - tokens.sum() / held.sum()),
        "rank_balance": float(time / by_rank.mean(1).sum()),
        "time_ratio": float(time / (costs.sum() / work.world_size)),
        "step_operations": float(time / plan.steps),
        "ideal_operations": float(costs.sum() / work.world_size / plan.steps),
        "peak_tokens": int(held.max()),
        "peak_images": int(images.max()),
        "unused": int((seen == 0).sum()),
        "repeated": int(np.maximum(seen - 1, 0).sum()),
    }


def _flat(plan: Plan) -> tuple[np.ndarray, np.ndarray, int]:
    """All rows of the epoch in order, the micro-batch number of each, and the number of micro-batches."""
    rows, slots, base = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    for step in range(plan.steps):
        division = plan.division(step)
        rows.append(division.rows)
        slots.append(division.slots + base)
        base += division.micro_steps * plan.work.world_size
    return np.concatenate(rows), np.concatenate(slots), base


def rows_name(padded: bool) -> str:
    return "padded" if padded else "padding-free"
