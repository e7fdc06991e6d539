"""The next token of each row: the likeliest, or a draw that depends on the row alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch


@dataclass
class Sampler:
    """How one row chooses its tokens. `temperature` 0 takes the likeliest. The same `seed` draws the same numbers."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    numbers: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.numbers = random.Random(self.seed)


def next_tokens(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """logits: (rows, vocabulary), on any device. One token for each row.

    A nucleus is the likeliest tokens whose probabilities sum up to `top_p`, the one that passes it included (Holtzman
    et al. 2020, arXiv 1904.09751, section 3.1).
    """
    chosen = logits.argmax(-1)
    drawn = [number for number, sampler in enumerate(samplers) if sampler.temperature > 0]
    if drawn:
        chosen[torch.tensor(drawn, device=logits.device)] = _drawn(logits[drawn], [samplers[one] for one in drawn])
    return chosen.tolist()


def _drawn(logits: torch.Tensor, samplers: list[Sampler]) -> torch.Tensor:
    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=logits.device)[:, None]

    # Below a hundred thousandth nothing but the likeliest is drawn, and what is divided by it is no number any more.
    scaled = logits.float() / column([max(sampler.temperature, 1e-5) for sampler in samplers])
    shares, order = torch.softmax(scaled, -1).sort(dim=-1, descending=True, stable=True)
    before = shares.cumsum(-1) - shares
    shares = shares.masked_fill(before >= column([sampler.top_p for sampler in samplers]), 0)
    shares[:, 0] = shares[:, 0].clamp_min(1e-30)  # a top_p of 0 leaves the likeliest
    sums = shares.cumsum(-1)
    point = column([sampler.numbers.random() for sampler in samplers]) * sums[:, -1:]
    place = torch.searchsorted(sums, point, right=True).clamp_max(shares.shape[-1] - 1)
    # Rounding may put the point on the last sum, after which tokens have no probability.
    place = torch.minimum(place, (shares > 0).sum(-1, keepdim=True) - 1)
    return order.gather(-1, place)[:, 0]
