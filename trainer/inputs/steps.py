"""One rank's work in each optimizer step: the micro-batches of its rows, made in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset

from schemas.chat import IGNORE
from trainer.inputs.collate import Collator
from trainer.inputs.data import Refused, Samples
from trainer.inputs.schedule import Schedule


@dataclass
class Step:
    """One rank's work in one optimizer step. `supervised`: the number of tokens that its losses are summed over."""

    number: int
    batches: list[dict[str, Any]]
    keys: list[list[str]]
    refused: list[Refused]
    supervised: int
    pictures: int


class Steps(Dataset):
    """Steps of one rank by number."""

    def __init__(self, samples: Samples, schedule: Schedule, collator: Collator, rank: int):
        self.samples, self.schedule, self.collator, self.rank = samples, schedule, collator, rank

    def __len__(self) -> int:
        return self.schedule.steps

    def __getitem__(self, number: int) -> Step:
        batches, keys, refused, pictures = [], [], [], 0
        for rows in self.schedule.micro_batches(number, self.rank):
            found = self.samples.items(self.schedule.trained[rows].tolist())
            refused += [item for item in found if isinstance(item, Refused)]
            items = [item for item in found if not isinstance(item, Refused)]
            batches.append(self.collator(items))
            keys.append([item.key for item in items])
            pictures += sum(len(item.pictures) for item in items)
        return Step(number, batches, keys, refused, supervised_tokens(batches), pictures)

    def loader(self, start: int, workers: int) -> DataLoader:
        """The steps from `start` to the end, in order, prepared by `workers` processes, or in this one."""
        return DataLoader(self, batch_size=None, sampler=range(start, len(self)), num_workers=workers)


def supervised_tokens(batches: list[dict[str, Any]]) -> int:
    """Tokens of a step that are predicted and learnt."""
    return sum(int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in batches)


def without_positions(batch: dict[str, Any]) -> dict[str, Any]:
    """Liger's loss computes the logits of a few tokens at a time, and only of those with a label."""
    return {name: value for name, value in batch.items() if name not in ("logits_to_keep", "shift_labels")}
