"""`lavabeam plan`: print which rows each rank trains on in each step, for any list of lengths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import InputError
from trainer.planning.epoch import Plan
from trainer.planning.make import make_plan
from trainer.planning.strategies import strategy_of

# Enough to see a mistake, not a screenful.
SHOWN = 60


def plan_command(
    lengths: Path,
    strategy: str,
    world_size: int,
    batch_size: int,
    seed: int,
    as_json: bool,
    *,
    accumulation: int = 1,
    epoch: int = 0,
    max_tokens: int | None = None,
    padded: bool = False,
    drop_last: bool = False,
    generator_seed: int | None = None,
) -> str:
    """The row numbers of each step, rank and micro-step, as text or JSON.

    lengths: a JSON file that holds one list of integers, a row's tokens (or words) each; positive: the row has an
    image, negative: text only. batch_size is that of one rank and micro-step. The original's groupings are those of
    the original code after `torch.manual_seed(seed)` with `generator=None`, or with a torch.Generator of
    `generator_seed`. Raises InputError for anything else in the file.
    """
    if batch_size < 1:
        raise InputError(f"batch size is {batch_size}; the minimum is 1")
    chosen = strategy_of(strategy)
    signed = read_lengths(lengths, zeros=chosen.original and not chosen.signed)
    plan = make_plan(
        np.abs(signed),
        (signed > 0).astype(np.int64),
        seed=seed,
        epoch=epoch,
        global_batch=world_size * batch_size * accumulation,
        world_size=world_size,
        accumulation=accumulation,
        strategy=strategy,
        max_tokens=max_tokens,
        padded=padded,
        drop_last=drop_last,
        generator_seed=generator_seed,
        allow_empty=True,
    )
    listing = _listing(plan, batch_size)
    return json.dumps(listing) if as_json else _text(listing)


def read_lengths(path: Path, zeros: bool = False) -> np.ndarray:
    """The signed lengths of a JSON list, int64 (N,). Raises InputError naming the entry that is not a length.

    zeros: accept lengths of 0, as the original's groupings without modality do.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}); expected one list of integers, such as [812, -95]") from error
    if not isinstance(values, list):
        raise InputError(f"{path} holds a {type(values).__name__}; expected one list of integers, such as [812, -95]")
    if not values:
        raise InputError(f"{path} holds an empty list; expected one length per row")
    for row, value in enumerate(values):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not abs(value) < 2**31 or value != int(value) or (value == 0 and not zeros):
            shown = json.dumps(value)
            shown = shown if len(shown) <= SHOWN else shown[:SHOWN] + "..."
            raise InputError(
                f"{path}, entry {row}: found {shown}; expected an integer other than 0 "
                "(positive: tokens of a row with an image, negative: of a text-only row)"
            )
    return np.array(values, np.int64)


def _listing(plan: Plan, batch_size: int) -> dict[str, Any]:
    work = plan.work
    first = np.unique(plan.order, return_index=True)[1]
    # Rows that complete the last round follow the sampler's own order.
    indices = plan.order[np.sort(first)]
    steps = []
    for step in range(plan.steps):
        ranks = [plan.micro_batches(step, rank) for rank in range(work.world_size)]
        steps.append({"step": step, "ranks": [[batch.tolist() for batch in batches] for batches in ranks]})
    return {
        "strategy": plan.strategy,
        "world_size": work.world_size,
        "batch_size": batch_size,
        "accumulation": work.accumulation,
        "seed": plan.seed,
        "epoch": plan.epoch,
        "rows": len(work.lengths),
        "indices": indices.tolist(),
        "steps": steps,
        "unused": np.setdiff1d(np.arange(len(work.lengths)), indices).tolist(),
        "repeated": len(plan.order) - len(indices),
    }


def _text(listing: dict[str, Any]) -> str:
    sizes = f"{listing['world_size']} ranks x batch {listing['batch_size']} x {listing['accumulation']} micro-steps"
    lines = [
        f"{listing['strategy']}: {listing['rows']} rows, {len(listing['steps'])} steps of {sizes}, "
        f"seed {listing['seed']}, epoch {listing['epoch']}"
    ]
    if strategy_of(listing["strategy"]).original:
        lines.append("order: " + " ".join(map(str, listing["indices"])))
    for step in listing["steps"]:
        for rank, batches in enumerate(step["ranks"]):
            rows = " | ".join(" ".join(map(str, batch)) or "-" for batch in batches)
            lines.append(f"step {step['step']} rank {rank}: {rows}")
    if listing["unused"]:
        lines.append(f"not in this epoch: {len(listing['unused'])} rows: " + " ".join(map(str, listing["unused"])))
    if listing["repeated"]:
        lines.append(f"repeated to complete the last step: {listing['repeated']} rows")
    return "\n".join(lines)
