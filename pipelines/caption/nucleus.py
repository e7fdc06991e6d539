"""Nucleus sampling with draws per row, independent of its batch, its position and previous draws.

A model library draws for a whole batch from one random state. Here each row has its own random state, and noise
is added to its logits before the likeliest token is taken. With Gumbel noise that is a draw from the softmax (Gumbel
1954; Maddison, Tarlow and Minka, "A* Sampling", 2014, section 2). The nucleus is Holtzman et al., arXiv 1904.09751.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from transformers import LogitsProcessor


class NucleusSampling(LogitsProcessor):
    """For `generate(do_sample=False, logits_processor=[...])`: greedy decoding becomes nucleus sampling.

    `keys` names the rows of the batch: the same (seed, key) draws the same noise wherever the row is.
    """

    def __init__(self, keys: Sequence[str], seed: int, top_p: float, temperature: float):
        self._top_p, self._temperature = top_p, temperature
        self._states = [torch.Generator().manual_seed(_number(seed, key)) for key in keys]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocabulary) -> logits of the nucleus with noise, all others -inf."""
        kept = nucleus(scores.float() / self._temperature, self._top_p)
        # Exponential draws on the CPU, so that a row draws the same on every device; their negative log is Gumbel.
        drawn = [torch.empty(scores.shape[-1]).exponential_(generator=state) for state in self._states]
        return kept - torch.stack(drawn).log().to(scores.device)


def nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Logits (rows, vocabulary) with -inf outside the smallest set of likeliest tokens whose mass reaches `top_p`."""
    ordered, order = logits.sort(descending=True, stable=True)
    mass = ordered.softmax(dim=-1)
    outside = mass.cumsum(dim=-1) - mass >= top_p
    return torch.empty_like(logits).scatter(-1, order, ordered.masked_fill(outside, float("-inf")))


def _number(seed: int, key: str) -> int:
    """63 bits of a hash, the same on every machine."""
    return int(hashlib.sha256(f"{seed}/{key}".encode()).hexdigest()[:16], 16) >> 1
