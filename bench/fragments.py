"""What a fragment costs beside its work: `python -m bench.scale --jobs fragments [--fragments 10,1000,10000]`.

The work is tiny (20 short keys doubled), so a run's CPU seconds are those of the engine and the runner. `plain` reads
the same rows and calls the step in a loop, writing nothing. The smallest run is taken for the start.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.engine.runners import Runner
from pipelines.engine.step import Config, Step
from pipelines.engine.work import run_step
from schemas.dataset import Dataset
from schemas.records import BASE
from schemas.writing import write_dataset

ROWS = 20
SIZES = "10,1000,10000"
EXPONENT = 1.1
PLAIN = "plain"
Measured = dict[str, float]


class Status(StrEnum):
    ok = "ok"


class Tiny(Step[Config]):
    """Doubles the key."""

    name, version, Config, statuses = "tiny", 1, Config, Status
    reads = ("key",)
    adds = (pa.field("twice", pa.string()),)

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.rows_to_batch([{"twice": key * 2, "status": "ok"} for key in batch.column("key").to_pylist()])


def run(folder: Path, runner: Runner) -> None:
    """The job, or its plain function."""
    step = Tiny(Config())
    if runner.name != PLAIN:
        run_step(step, folder / "data", runner)
        return
    for fragment in Dataset.open(folder / "data").fragments:
        for batch in fragment.read(["key"]).to_batches():
            step.process(batch)


def measure(
    work: Path, sizes: list[int], runners: list[str], one: Callable[[Path, str, int], Measured]
) -> Iterator[dict[str, Any]]:
    """The figures; `one` runs the job in a process of its own."""
    shape = [(PLAIN, 1), *((runner, workers) for runner in runners for workers in (1, 2))]
    found: dict[tuple[str, int], list[Measured]] = {how: [] for how in shape}
    for size in sizes:
        folder = work / str(size)
        for how in shape:
            shutil.rmtree(folder, ignore_errors=True)
            write_dataset(folder / "data", "images", _tables(size))
            found[how].append(one(folder, *how))
            shown = found[how][-1]
            print(
                f"{how[0]:6} {how[1]} worker(s), {size:6} fragments: {shown['seconds']:7.1f} s, "
                f"{shown['cpu']:7.1f} s CPU, peak {shown['peak_mb']:.0f} MB",
                flush=True,
            )
    plain = _cost(sizes, found[PLAIN, 1])
    for how in shape[1:]:
        yield _figure(sizes, how, found[how], plain)


def _figure(sizes: list[int], how: tuple[str, int], runs: list[Measured], plain: float) -> dict[str, Any]:
    cost, start = _cost(sizes, runs), runs[0]
    beyond = [max(one["cpu"] - start["cpu"], 1e-3) for one in runs[-2:]]
    exponent = math.log(beyond[1] / beyond[0]) / math.log((sizes[-1] - sizes[0]) / (sizes[-2] - sizes[0]))
    print(
        f"{how[0]:6} {how[1]} worker(s): start {start['seconds']:.1f} s ({start['cpu']:.1f} s CPU), "
        f"{(cost - plain) * 1000:.2f} ms CPU a fragment over the plain function's {plain * 1000:.2f}, "
        f"exponent {exponent:.2f} from {sizes[-2]} to {sizes[-1]}",
        flush=True,
    )
    return {
        "figure": f"fragments: exponent of CPU, {how[0]}, {how[1]} worker(s)",
        "value": round(exponent, 3),
        "ms_over_plain": round((cost - plain) * 1000, 2),
        "plain_ms": round(plain * 1000, 2),
        "start_s": round(start["seconds"], 1),
        "start_cpu": start["cpu"],
        "peak_mb": runs[-1]["peak_mb"],
        "goal": EXPONENT,
        "ok": exponent <= EXPONENT,
    }


def _cost(sizes: list[int], runs: list[Measured]) -> float:
    """CPU seconds of a fragment, without the start."""
    return (runs[-1]["cpu"] - runs[0]["cpu"]) / (sizes[-1] - sizes[0])


def _tables(fragments: int) -> Iterator[pa.Table]:
    for number in range(fragments):
        keys = [{"key": f"{number}-{row}"} for row in range(ROWS)]
        yield pa.Table.from_pylist(keys, BASE["images"])
