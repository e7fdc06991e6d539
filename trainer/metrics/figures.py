"""The figures of a step over all ranks, in the one all-reduce that a step needs besides its engine's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from trainer.engines.base import Engine


@dataclass(frozen=True)
class Figures:
    """Of the step to come: `supervised` tokens, how many ranks were asked to `stop`, `refused` rows. Of the step
    before: `pictures` shown, the sum of the ranks' losses, `learnt`: in how many ranks each watched module had a
    gradient, and the peak `memory` of any rank in bytes."""

    supervised: int
    stop: int
    refused: int
    pictures: int
    loss: float
    learnt: list[int]
    memory: int


def agree(
    engine: Engine,
    *,
    coming: tuple[int, int, int],
    pictures: int,
    loss: torch.Tensor,
    learnt: torch.Tensor,
    memory: int,
) -> Figures:
    """Add this rank's figures to those of the others; every rank calls this. `coming`: supervised, stop, refused.

    Sums in float64 keep integers exact below 2**53. A maximum over ranks is a sum in which each has its own element.
    """
    places = torch.zeros(engine.world, dtype=torch.float64)
    places[engine.rank] = memory
    known = torch.cat([torch.tensor([*coming, pictures], dtype=torch.float64), places]).to(engine.device)
    numbers = torch.cat([known, loss.double()[None], learnt.double()])
    if dist.is_initialized():
        dist.all_reduce(numbers)
    supervised, stop, refused, shown, *rest = numbers.tolist()
    held, (total, *having) = rest[: engine.world], rest[engine.world :]
    return Figures(
        int(supervised), int(stop), int(refused), int(shown), total, [int(one) for one in having], int(max(held))
    )
