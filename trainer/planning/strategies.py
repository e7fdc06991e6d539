"""The batching strategies by name: one table for recipes, `--plan-only`, the command line and the documentation.

A strategy orders an epoch's rows; a step is the next `global_batch` of them, divided among ranks as the table says.
Imports neither numpy nor pydantic by itself: the command line shows its help.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from trainer.planning.division import Workload

SLACK = 1.1
"""length_window's own token bound over the mean share of a micro-step: without slack, rows of similar length waste
room."""


@dataclass(frozen=True)
class Draw:
    """What an epoch's order is drawn from. sizes: what the original's groupings sort by, int64 (rows,).

    generator_seed, drop_last: see `make_plan`.
    """

    work: Workload
    sizes: np.ndarray
    seed: int
    epoch: int
    generator_seed: int | None = None
    drop_last: bool = False


@dataclass(frozen=True)
class Strategy:
    """order: rows of an epoch, int64, consecutive ones make a step. help: one line.

    divided: a step is divided among ranks by cost; otherwise its rows go to them as they come.
    original: reproduces a sampler of LLaVA's or LLaVA-NeXT's (`original_name`): its batches are kept, so that it takes
    no `max_tokens`, and it sorts by words. signed: it tells rows with pictures by the sign of a length, which must not
    be 0. bound: the tokens that a micro-step may hold where a recipe does not say.
    compared: which layouts of rows `--plan-only` shows it with: False padding-free, True padded.
    """

    order: Callable[[Draw], np.ndarray]
    help: str
    divided: bool = True
    original_name: str | None = None
    signed: bool = False
    bound: Callable[[np.ndarray, float], int] | None = None
    compared: tuple[bool, ...] = ()

    @property
    def original(self) -> bool:
        return self.original_name is not None


def strategy_of(name: str) -> Strategy:
    """The strategy of this name; raises InputError for an unknown one."""
    if name not in STRATEGIES:
        from schemas.config import nearest

        raise InputError(f"strategy {name!r} is unknown. {nearest(name, list(STRATEGIES))}")
    return STRATEGIES[name]


def _random(draw: Draw) -> np.ndarray:
    from trainer.planning.order import random_steps

    return random_steps(len(draw.work.lengths), draw.seed, draw.epoch)


def _window(draw: Draw) -> np.ndarray:
    from trainer.planning.order import window_steps

    return window_steps(draw.work.lengths, draw.work.global_batch, draw.seed, draw.epoch)


def _window_bound(lengths: np.ndarray, share: float) -> int:
    """`share`: of a step's rows in one micro-step."""
    return max(math.ceil(SLACK * lengths.mean() * share), int(lengths.max()))


def _sampler(name: str) -> Callable[[Draw], np.ndarray]:
    """The order of an original's sampler, completed to full rounds of one batch per rank."""

    def order(draw: Draw) -> np.ndarray:
        import numpy as np

        from trainer.planning.original import original_order, whole_rounds

        work = draw.work
        slots = work.world_size * work.accumulation
        if work.global_batch % slots:
            raise InputError(
                f"strategy {name} gives every rank batches of equal size: global batch {work.global_batch} is not a "
                f"multiple of {work.world_size} ranks x {work.accumulation} accumulation steps; change one of them, or "
                "use balanced"
            )
        batch = work.global_batch // slots
        # LLaVA's trainer passes ranks x accumulation as world size; NeXT's variable-length one multiplies the batch
        # too.
        grouped = batch * work.accumulation if name == "variable_length" else batch
        sizes = draw.sizes
        if STRATEGIES[name].signed:
            sizes = np.where(work.image_counts > 0, sizes, -sizes)
        found = original_order(
            name, sizes, grouped, slots, seed=draw.seed, generator_seed=draw.generator_seed, epoch=draw.epoch
        )
        return whole_rounds(found, batch * work.world_size, drop_last=draw.drop_last)

    return order


def _original(name: str, text: str, function: str, signed: bool = False, compared: bool = False) -> Strategy:
    shown = (True,) if compared else ()
    return Strategy(_sampler(name), text, divided=False, original_name=function, signed=signed, compared=shown)


STRATEGIES: dict[str, Strategy] = {
    "balanced": Strategy(_random, "random rows in a step, divided among ranks by cost", compared=(False, True)),
    "length_window": Strategy(
        _window, "rows of similar length in a step, divided by cost", bound=_window_bound, compared=(False, True)
    ),
    "modality_length": _original(
        "modality_length",
        "LLaVA's own grouping, by modality and length",
        "get_modality_length_grouped_indices",
        signed=True,
        compared=True,
    ),
    "random": Strategy(_random, "random rows, as they come", divided=False, compared=(True,)),
    "length_grouped": _original("length_grouped", "LLaVA's grouping by length alone", "get_length_grouped_indices"),
    "length_grouped_auto": _original(
        "length_grouped_auto", "LLaVA-NeXT's grouping by length", "get_length_grouped_indices_auto_single"
    ),
    "variable_length": _original(
        "variable_length", "LLaVA-NeXT's order by length in windows", "get_variable_length_grouped_indices"
    ),
    "modality_length_auto": _original(
        "modality_length_auto",
        "LLaVA-NeXT's grouping by modality and length, which drops rows",
        "get_modality_length_grouped_indices_auto",
        signed=True,
    ),
}
