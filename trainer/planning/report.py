"""All strategies side by side on the same rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from schemas.errors import InputError
from trainer.planning.cost import CostModel
from trainer.planning.figures import figures, rows_name
from trainer.planning.make import make_plan
from trainer.planning.memory import MemoryEstimate

# What `compare` lays side by side. The original and `random` pad in every trainer that uses them.
COMPARED = (
    ("balanced", False),
    ("balanced", True),
    ("length_window", False),
    ("length_window", True),
    ("modality_length", True),
    ("random", True),
)


def compare(
    lengths: np.ndarray,
    image_counts: np.ndarray,
    *,
    seed: int,
    global_batch: int,
    world_size: int,
    accumulation: int = 1,
    max_tokens: int | None = None,
    cost: CostModel | None = None,
    grouping_lengths: np.ndarray | None = None,
    memory: Callable[..., MemoryEstimate] | None = None,
) -> list[dict[str, Any]]:
    """`figures` of every strategy on the same rows; one that cannot plan them has `error` instead of figures.

    max_tokens does not apply to `modality_length`; `grouping_lengths` applies to it alone (LLaVA sorts by words).
    memory: `estimate_memory` with everything but peak_tokens and peak_images given (functools.partial); adds the bytes
    on one GPU as `memory`, by what holds them, and as `memory_total`.
    """
    found: list[dict[str, Any]] = []
    for strategy, padded in COMPARED:
        original = strategy == "modality_length"
        try:
            plan = make_plan(
                lengths,
                image_counts,
                seed=seed,
                global_batch=global_batch,
                world_size=world_size,
                accumulation=accumulation,
                strategy=strategy,
                max_tokens=None if original else max_tokens,
                padded=padded,
                cost=cost,
                grouping_lengths=grouping_lengths if original else None,
            )
        except InputError as error:
            found.append({"strategy": strategy, "rows": rows_name(padded), "error": str(error)})
            continue
        entry = figures(plan)
        if memory is not None:
            estimate = memory(peak_tokens=entry["peak_tokens"], peak_images=entry["peak_images"])
            entry |= {"memory": asdict(estimate), "memory_total": estimate.total}
        found.append(entry)
    return found


def render(found: list[dict[str, Any]]) -> str:
    """The figures of `compare` as a table of text."""
    head = ["steps", "padding", "balance", "time/ideal", "peak tokens"]
    head += ["memory/GPU"] if any("memory" in entry for entry in found) else []
    lines = [f"{'strategy':16} {'rows':13} " + " ".join(f"{name:>{max(len(name), 8)}}" for name in head)]
    for entry in found:
        name = f"{entry['strategy']:16} {entry['rows']:13}"
        if "error" in entry:
            lines.append(f"{name} {entry['error']}")
            continue
        lines.append(
            f"{name} {entry['steps']:8d} {entry['padding_share']:8.1%} {entry['rank_balance']:8.3f} "
            f"{entry['time_ratio']:10.3f} {entry['peak_tokens']:11,d}"
            + (f" {entry['memory_total'] / 2**30:6.1f} GiB" if "memory" in entry else "")
        )
    return "\n".join(lines)
