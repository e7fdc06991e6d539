"""What a rank's data workers hold in /dev/shm: micro-batches of uint8 pictures against whole steps of float32 ones.

`python -m bench.shared_memory [--workers 2] [--rows 16] [--accumulation 4]`: rows like LLaVA-NeXT's for Qwen2 (one
picture of 672x672 pixels, five tiles of 336, 2,930 tokens), `--rows` per step and rank. The peer is the loader as it
was: a worker sent its whole step, pictures in float32. The consumer is slower than the workers, so that all of them are
as far ahead as they may be. Counted are the files of this process and its workers, seen in /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from torch.utils.data import DataLoader, Dataset

from schemas.chat import IGNORE, ImageRule
from trainer.inputs.collate import Collator
from trainer.inputs.data import Item
from trainer.inputs.steps import Steps, ahead, free_bytes, largest_bytes

TOKENS, TILES, SIDE = 2930, 5, 336
STEPS = 8
LOOKS, PAUSE = 60, 0.02
"""How often /dev/shm is looked at for each step that is taken, and seconds between."""


class Rows:
    """Rows of one picture, as trainer.inputs.data.Samples gives them."""

    def items(self, rows: list[int]) -> list[Item]:
        ids = np.ones(TOKENS, np.int32)
        labels = np.where(np.arange(TOKENS) < TOKENS * 4 // 5, IGNORE, ids).astype(np.int32)
        tiles = np.zeros((TILES, 3, SIDE, SIDE), np.uint8)
        return [Item(str(row), ids, labels, [tiles], [(672, 672)]) for row in rows]


@dataclass
class Order:
    """Steps of `rows` rows in `accumulation` micro-batches: what Steps asks of a Schedule."""

    rows: int
    accumulation: int
    steps: int = STEPS

    def __post_init__(self) -> None:
        self.tiles = np.full(self.rows, TILES)

    def plan(self, _: int) -> Order:
        return self

    def micro_batches(self, _: int, __: int) -> list[np.ndarray]:
        return np.array_split(np.arange(self.rows), self.accumulation)

    def held(self, rows: np.ndarray) -> int:
        return TOKENS * len(rows)


class WholeSteps(Dataset):
    """The peer: a step's micro-batches together, pictures in float32."""

    def __init__(self, order: Order, collator: Collator):
        self.order, self.collator = order, collator

    def __getitem__(self, number: int) -> list[dict[str, Any]]:
        parts = [self.collator(Rows().items(rows.tolist())) for rows in self.order.micro_batches(number, 0)]
        return [{**part, "pixel_values": part["pixel_values"].float()} for part in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=16, help="rows of a step on one rank")
    parser.add_argument("--accumulation", type=int, default=4, help="micro-batches of a step")
    arguments = parser.parse_args()
    order, workers = Order(arguments.rows, arguments.accumulation), arguments.workers
    collator = Collator(ImageRule("anyres"), image_id=9, pad_id=0, packed=True)
    made: Any = order
    samples: Any = Rows()
    largest = largest_bytes(made, 0, SIDE)
    depth = ahead(largest, workers, 1, free_bytes())
    ours = most(Steps(samples, made, collator, 0).loader(0, workers))
    peer = most(DataLoader(WholeSteps(order, collator), batch_size=None, sampler=range(STEPS), num_workers=workers))
    # What is being worked on is still there: on a GPU it is pinned, and no longer in /dev/shm.
    bound = (depth * workers + 2 * arguments.accumulation) * largest
    size = f"{largest / 1e6:.1f} MB"
    print(f"{workers} workers, {depth} micro-batches of {size} ahead each: at most {bound / 1e6:.0f} MB")
    print(f"peak {ours / 1e6:.0f} MB; whole steps in float32: {peer / 1e6:.0f} MB, {peer / ours:.1f} times as much")
    figure = {"figure": f"/dev/shm of a rank, {workers} workers, anyres, MB", "value": round(ours / 1e6)}
    print(json.dumps([{**figure, "peer": round(peer / 1e6), "ratio": round(peer / ours, 1), "ok": ours <= bound}]))


def most(steps: Iterable[Any]) -> int:
    """The most bytes held in /dev/shm while the steps are taken."""
    peak = 0
    for _ in steps:
        for _ in range(LOOKS):
            peak = max(peak, held())
            time.sleep(PAUSE)
    return peak


def held() -> int:
    """Bytes of torch's files in /dev/shm that this process or a worker of it has open, each once."""
    files: dict[int, int] = {}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        for link in Path(f"/proc/{process.pid}/fd").glob("*"):
            try:
                if os.readlink(link).startswith("/dev/shm/torch_"):
                    found = link.stat()
                    files[found.st_ino] = found.st_blocks * 512
            except OSError:  # closed in the meantime
                continue
    return sum(files.values())


if __name__ == "__main__":
    main()
