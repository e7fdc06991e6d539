"""All strategies side by side on the same rows."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from schemas.errors import InputError
from trainer.planning.cost import CostModel
from trainer.planning.figures import figures, rows_name
from trainer.planning.make import make_plan
from trainer.planning.memory import MemoryEstimate
from trainer.planning.strategies import STRATEGIES

WIDTH = 100
"""Maximum characters in a line of a table."""


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
    chosen: str | None = None,
) -> list[dict[str, Any]]:
    """`figures` of every strategy on the same rows; a strategy that cannot plan them has `error` instead.

    max_tokens does not apply to the original's groupings; `grouping_lengths` applies only to them (LLaVA sorts by
    words). memory: `estimate_memory` with everything given but peak_tokens and peak_images (functools.partial); adds
    the bytes on one GPU as `memory`, by use, and as `memory_total`. chosen: a strategy to mark, and to add if it is
    not one of the usual ones.
    """
    found: list[dict[str, Any]] = []
    for strategy, padded in compared(chosen):
        original = STRATEGIES[strategy].original
        entry: dict[str, Any] = {"strategy": strategy, "rows": rows_name(padded), "chosen": strategy == chosen}
        found.append(entry)
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
            entry |= figures(plan)
        except InputError as error:
            entry["error"] = str(error)
            continue
        if memory is not None:
            estimate = memory(peak_tokens=entry["peak_tokens"], peak_images=entry["peak_images"])
            entry |= {"memory": asdict(estimate), "memory_total": estimate.total}
    return found


def compared(chosen: str | None) -> list[tuple[str, bool]]:
    """(strategy, whether rows are padded) of what `compare` compares: the usual ones, and the chosen one if it is not
    among them. The original's groupings and `random` pad in every trainer that uses them."""
    usual = [(name, padded) for name, strategy in STRATEGIES.items() for padded in strategy.compared]
    known = {name for name, _ in usual}
    return usual if chosen is None or chosen in known else [*usual, (chosen, True)]


def render(found: list[dict[str, Any]]) -> str:
    """The figures of `compare` as a text table, at most WIDTH characters wide; `*` marks the chosen strategy."""
    head = ["steps", "padding", "balance", "time/ideal", "peak tokens"]
    head += ["memory/GPU"] if any("memory" in entry for entry in found) else []
    width = name_width(found)
    lines = [f"{'strategy':{width}}{'rows':13}" + " ".join(f"{name:>{max(len(name), 8)}}" for name in head)]
    for entry in found:
        name = f"{marked(entry):{width}}{entry['rows']:13}"
        if "error" in entry:
            lines += textwrap.wrap(entry["error"], WIDTH, initial_indent=name, subsequent_indent=" " * len(name))
            continue
        lines.append(
            f"{name}{entry['steps']:8,d} {entry['padding_share']:8.1%} {entry['rank_balance']:8.3f} "
            f"{entry['time_ratio']:10.3f} {entry['peak_tokens']:11,d}"
            + (f" {gibibytes(entry['memory_total']):>10}" if "memory" in entry else "")
        )
    return "\n".join(lines)


def gibibytes(size: float) -> str:
    """Bytes for humans: in GiB, small models in MiB, tiny ones in KiB."""
    if size >= 2**30:
        return f"{size / 2**30:.1f} GiB"
    return f"{size / 2**20:.0f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"


def marked(entry: dict[str, Any]) -> str:
    """The strategy's name, with a star if it was chosen."""
    return entry["strategy"] + (" *" if entry["chosen"] else "")


def name_width(found: list[dict[str, Any]]) -> int:
    """Width of the column of names in characters."""
    return max(len(marked(entry)) for entry in found) + 1
