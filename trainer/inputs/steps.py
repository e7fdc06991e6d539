"""A rank's steps, made by its worker processes a micro-batch at a time.

Row numbers of the epoch plan flow to the workers, micro-batches flow back through /dev/shm, whose use is bounded;
steps, each with all its micro-batches, flow out.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from schemas.chat import IGNORE
from schemas.errors import InputError
from trainer.inputs.collate import Collator
from trainer.inputs.data import Refused, Samples
from trainer.inputs.schedule import Schedule

SHARED = Path("/dev/shm")
"""Where torch's worker processes leave tensors for the process that asked for them (tmpfs, in a container 64 MB unless
it was started with another --shm-size)."""

SHARE = 0.5
"""Of its free bytes, how much all ranks of a machine may fill together."""

MOST_AHEAD = 4
"""Micro-batches that a worker prepares ahead at most."""

TOKEN_BYTES = 5 * 8
"""Of a token, padding included: id, label, mask or position, and a label and its place where something is learnt."""


@dataclass(frozen=True)
class MicroBatch:
    """One rank's micro-batch. `supervised`: tokens that its loss is summed over; `last`: of its step."""

    step: int
    last: bool
    inputs: dict[str, Any]
    keys: list[str]
    refused: list[Refused]
    supervised: int
    pictures: int

    def pin_memory(self) -> MicroBatch:
        """In memory that a GPU can fetch by itself; torch's loader calls this. The worker's memory is then free."""
        pinned = {
            name: value.pin_memory() if isinstance(value, torch.Tensor) else value
            for name, value in self.inputs.items()
        }
        return replace(self, inputs=pinned)


@dataclass(frozen=True)
class Step:
    """One rank's work in one optimizer step. `supervised`: the number of tokens that its losses are summed over."""

    number: int
    batches: list[dict[str, Any]]
    keys: list[list[str]]
    refused: list[Refused]
    supervised: int
    pictures: int


@dataclass(frozen=True)
class Task:
    """What a worker is asked for: int64 numbers of the rows of a micro-batch."""

    step: int
    rows: np.ndarray
    last: bool


@dataclass(frozen=True)
class Part:
    """Which of `parts` ranks that share each row this is (sequence parallelism), counted from 0."""

    number: int = 0
    parts: int = 1

    def of(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs of this rank: all tokens, which it embeds, and what is learnt at its own part of them.

        `logits_to_keep` count from the part's first token, and `shift_labels` are those of its tokens.
        """
        if self.parts == 1:
            return inputs
        length = inputs["input_ids"].shape[1] // self.parts
        places = inputs["logits_to_keep"] - self.number * length
        own = (places >= 0) & (places < length)
        kept, targets = places[own], inputs["shift_labels"][:, own]
        if not len(kept):  # the loss of nothing is 0, not missing
            kept, targets = torch.zeros(1, dtype=torch.int64), torch.full((1, 1), IGNORE)
        return {**inputs, "logits_to_keep": kept, "shift_labels": targets}


WHOLE = Part()


class Steps:
    """The steps of one rank. rank: among those that have rows of their own; part: which of those that share them."""

    def __init__(self, samples: Samples, schedule: Schedule, collator: Collator, rank: int, part: Part = WHOLE):
        self.made, self.schedule, self.rank = MicroBatches(samples, collator, part), schedule, rank

    def __len__(self) -> int:
        return self.schedule.steps

    def loader(self, start: int, workers: int, *, pin: bool = False, context: str | None = None) -> Iterator[Step]:
        """The steps from number `start` to the end, in order, prepared by `workers` processes, or in this one, when
        they are asked for.

        pin: for a GPU. context: how workers are started, by default Python's way. Raises InputError where /dev/shm has
        no room for a micro-batch of each worker.
        """
        options: dict[str, Any] = {}
        if workers:
            side = self.made.collator.rule.image_size
            ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            largest = largest_bytes(self.schedule, self.rank, side)
            options = {
                "prefetch_factor": ahead(largest, workers, ranks, free_bytes()),
                "multiprocessing_context": context,
                "worker_init_fn": _one_thread,
            }
        tasks: Any = Tasks(self.schedule, self.rank, start)
        return joined(
            DataLoader(self.made, batch_size=None, sampler=tasks, num_workers=workers, pin_memory=pin, **options)
        )


def joined(batches: Iterable[MicroBatch]) -> Iterator[Step]:
    """Micro-batches in order, as steps."""
    waiting: list[MicroBatch] = []
    for batch in batches:
        waiting.append(batch)
        if batch.last:
            yield Step(
                batch.step,
                [one.inputs for one in waiting],
                [one.keys for one in waiting],
                [row for one in waiting for row in one.refused],
                sum(one.supervised for one in waiting),
                sum(one.pictures for one in waiting),
            )
            waiting = []


class MicroBatches(Dataset):
    """Micro-batches by task. Workers need the rows and the collator, not the plan: they may be started by fork, spawn
    or forkserver."""

    def __init__(self, samples: Samples, collator: Collator, part: Part = WHOLE):
        self.samples, self.collator, self.part = samples, collator, part

    def __getitem__(self, task: Task) -> MicroBatch:
        found = self.samples.items(task.rows.tolist())
        items = [item for item in found if not isinstance(item, Refused)]
        inputs = self.part.of(self.collator(items))
        # A row that several ranks share counts once.
        refused = [item for item in found if isinstance(item, Refused)] if self.part.number == 0 else []
        return MicroBatch(
            task.step,
            task.last,
            inputs,
            [item.key for item in items],
            refused,
            supervised_tokens(inputs),
            sum(len(item.pictures) for item in items),
        )


class Tasks:
    """The tasks of a rank from step `start` on, made as they are needed."""

    def __init__(self, schedule: Schedule, rank: int, start: int):
        self.schedule, self.rank, self.start = schedule, rank, start

    def __iter__(self) -> Iterator[Task]:
        for step in range(self.start, self.schedule.steps):
            batches = self.schedule.micro_batches(step, self.rank)
            for number, rows in enumerate(batches, 1):
                yield Task(step, self.schedule.trained[rows], number == len(batches))


def supervised_tokens(inputs: dict[str, Any]) -> int:
    """Tokens of a micro-batch that are predicted and learnt."""
    return int((inputs["shift_labels"] != IGNORE).sum())


def largest_bytes(schedule: Schedule, rank: int, side: int) -> int:
    """The most bytes of any micro-batch of a rank in the first epoch: uint8 tiles of `side` pixels, and tokens."""
    plan = schedule.plan(0)
    return max(
        int(schedule.tiles[rows].sum()) * 3 * side**2 + schedule.held(rows) * TOKEN_BYTES
        for step in range(plan.steps)
        for rows in plan.micro_batches(step, rank)
    )


def ahead(largest: int, workers: int, ranks: int, free: int | None) -> int:
    """Micro-batches of `largest` bytes that each worker may prepare ahead, so that those of all `ranks` of a machine
    fill at most SHARE of the `free` bytes of /dev/shm (None: there is none). Raises InputError where one is too many.
    """
    if free is None:
        return 2
    room = int(free * SHARE) // (largest * ranks)
    if room < workers:
        remedy = f"Set `data: {{workers: {room}}}`" if room else "Set `data: {workers: 0}`"
        needed = largest * workers * ranks / 2**20
        raise InputError(
            f"data.workers: {workers} workers on each of {ranks} ranks put {needed:,.0f} MiB into {SHARED}, which has "
            f"{free / 2**20:,.0f} MiB free, half of them for this. {remedy}, or give the container more "
            "(docker run --shm-size=16g)."
        )
    return min(room // workers, MOST_AHEAD)


def free_bytes() -> int | None:
    """Of /dev/shm; None where the system has none."""
    return shutil.disk_usage(SHARED).free if SHARED.is_dir() else None


def _one_thread(_: int) -> None:
    """A worker is one of many: OpenCV would start a thread for every core in each (torch already starts one)."""
    import cv2

    cv2.setNumThreads(1)
