"""The loss over held-out rows, on all ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from schemas.errors import InputError
from trainer.engines.base import Engine
from trainer.inputs.collate import Collator
from trainer.inputs.data import BadRows, Refused, Samples
from trainer.inputs.steps import WHOLE, Part, supervised_tokens

TOKENS = 8192
"""Of a batch, padding included; without gradients its activations are small beside a training step's."""


@dataclass
class Evaluation:
    """`rows`: numbers of the rows of `samples`, and their `lengths` in tokens. `part`: which of the ranks that share
    each row this is."""

    samples: Samples
    rows: np.ndarray
    lengths: np.ndarray
    collator: Collator
    bad_rows: BadRows
    part: Part = WHOLE
    looked: bool = False

    @torch.no_grad()
    def loss(self, engine: Engine, inputs: Callable[[dict[str, Any]], dict[str, Any]]) -> float:
        """The mean loss of all supervised tokens. Every rank calls this, and gets the same number. `inputs`: what the
        engine is given of a batch.

        Raises InputError on every rank for more bad rows than allowed.
        """
        batches = batched(self.rows, self.lengths)
        ranks = engine.world // self.part.parts
        own = batches[engine.rank // self.part.parts :: ranks]
        # Every rank runs as often: layers are gathered from all of them.
        own += [np.empty(0, np.int64)] * (-(-len(batches) // ranks) - len(own))
        totals = torch.zeros(3, dtype=torch.float64, device=engine.device)
        one = torch.ones((), device=engine.device)
        refused: list[Refused] = []
        engine.training(False)
        for rows in own:
            found = self.samples.items(rows.tolist())
            refused += [item for item in found if isinstance(item, Refused)] if self.part.number == 0 else []
            batch = self.part.of(self.collator([item for item in found if not isinstance(item, Refused)]))
            loss = engine(**inputs(batch), use_cache=False, num_items_in_batch=one).loss
            totals[0] += loss.double()
            totals[1] += supervised_tokens(batch)
        engine.training(True)
        totals[2] = len(refused)
        if dist.is_initialized():
            dist.all_reduce(totals)
        total, tokens, bad = totals.tolist()
        self.check(engine, refused, int(bad), int(tokens))
        return total / tokens

    def check(self, engine: Engine, refused: list[Refused], bad: int, tokens: int) -> None:
        """Raise InputError, on every rank, for more `bad` rows than allowed, and for no `tokens` to predict. What this
        rank `refused` is recorded once."""
        if not self.looked:
            self.bad_rows.record(refused)
            if self.bad_rows.too_many(bad):
                raise self.bad_rows.error(gathered(self.bad_rows.latest, engine))
        self.looked = True
        if not tokens:
            raise InputError(
                f"none of the {len(self.rows)} rows that `evaluate` chose has a token to predict. Raise evaluate.rows, "
                "evaluate.split or data.max_length."
            )


def batched(rows: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """`rows` in batches of TOKENS padded tokens at most (or of one row), the longest first."""
    order = np.argsort(-lengths, kind="stable")
    found: list[np.ndarray] = []
    while len(order):
        count = max(TOKENS // int(lengths[order[0]]), 1)
        found.append(rows[order[:count]])
        order = order[count:]
    return found


def gathered(own: Any, engine: Engine) -> list[Any]:
    """A value of every rank, in the order of ranks."""
    found: list[Any] = [own] * engine.world
    if dist.is_initialized():
        dist.all_gather_object(found, own)
    return found
