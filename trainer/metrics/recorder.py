"""Metrics of a running run: metrics.jsonl, a progress bar, and the open trackers."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.inputs.schedule import Schedule
from trainer.metrics.flops import ModelFlops
from trainer.metrics.trackers import Tracker, scalars

PLAIN_LINES = 10
"""The number of progress lines that a run prints when stderr is not a terminal."""


class Recorder:
    """Rank 0 writes a line of metrics for every step, moves the bar and feeds the trackers.

    flops: operations that the model needs for a row; peak: operations per second of one device, None if unknown.
    """

    def __init__(
        self,
        path: Path,
        schedule: Schedule,
        title: str,
        *,
        flops: ModelFlops,
        peak: float | None,
        trackers: Callable[[int], list[Tracker]],
    ):
        self.path, self.schedule, self.title = path, schedule, title
        self.flops, self.peak, self.open_trackers = flops, peak, trackers
        self.bar: Any = None
        self.trackers: list[Tracker] = []

    def begin(self, done: int) -> None:
        """Open everything for a run that has done `done` steps."""
        self.trackers = self.open_trackers(done)
        keep_until(self.path, done)
        self.file = self.path.open("a", encoding="utf-8")
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.schedule.steps, initial=done, desc=self.title, unit="step")
        self.start_clock()

    def start_clock(self) -> None:
        """The next step begins now: writing a checkpoint does not count as training time."""
        self.started = time.perf_counter()

    def write(self, step: int, figures: dict[str, Any], memory: int) -> None:
        """The line of step `step`, counted from 0. figures: loss, grad_norm, rates; memory: peak bytes of any rank."""
        values = {
            "step": step + 1,
            **figures,
            **self._work(step),
            "peak_memory_gib": round(memory / 2**30, 3),
        }
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()
        for tracker in self.trackers:
            tracker.write(step + 1, scalars(values))
        self._show(values)
        self.start_clock()

    def evaluated(self, done: int, loss: float) -> None:
        """The line of an evaluation after `done` steps."""
        self.file.write(json.dumps({"step": done, "eval_loss": loss}) + "\n")
        self.file.flush()
        for tracker in self.trackers:
            tracker.write(done, {"eval_loss": loss})
        self.say(f"step {done}/{self.schedule.steps}, eval loss {loss:.4f}")
        self.start_clock()

    def say(self, text: str) -> None:
        """A line for humans, on stderr, above the bar."""
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            print(f"{self.title}: {text}", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Close everything."""
        self.file.close()
        for tracker in self.trackers:
            tracker.close()
        if self.bar is not None:
            self.bar.close()

    def _work(self, step: int) -> dict[str, Any]:
        """Tokens, padding and speed of a step."""
        useful, held, balance = self.schedule.load(step)
        seconds = max(time.perf_counter() - self.started, 1e-9)
        share = None
        if self.peak is not None:
            needed = self.flops.of(*self._rows(step))
            devices = self.schedule.world_size * self.schedule.recipe.sequence_parallel
            share = float(f"{needed / (seconds * self.peak * devices):.3g}")
        return {
            "useful_tokens": useful,
            "useful_tokens_per_second": round(useful / seconds, 1),
            "padding": round(1 - useful / max(held, 1), 4),
            "rank_balance": round(balance, 4),
            "mfu": share,
        }

    def _rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and tiles of a step's rows, on all ranks."""
        epoch, inner = divmod(step, self.schedule.steps_per_epoch)
        rows = self.schedule.plan(epoch).samples(inner)
        return self.schedule.lengths[rows], self.schedule.tiles[rows]

    def _show(self, values: dict[str, Any]) -> None:
        text = describe(values)
        if self.bar is not None:
            self.bar.update(1)
            self.bar.set_postfix_str(text)
        elif values["step"] % max(self.schedule.steps // PLAIN_LINES, 1) == 0:
            print(f"{self.title}: step {values['step']}/{self.schedule.steps}, {text}", file=sys.stderr, flush=True)


def describe(values: dict[str, Any]) -> str:
    """A line of metrics for humans."""
    text = f"loss {values['loss']:.4f}, {values['useful_tokens_per_second']:,.0f} useful tokens/s, "
    text += f"padding {values['padding']:.0%}, balance {values['rank_balance']:.2f}"
    if values["mfu"] is not None:
        text += f", MFU {values['mfu']:.1%}"
    return f"{text}, {values['peak_memory_gib']:.1f} GiB"


def peak_memory(device: torch.device) -> int:
    """Peak bytes of this rank so far: allocated on its GPU, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Median speed and MFU, without the first step, which warms up, and peak memory."""
    timed = lines[1:] or lines
    shares = [line["mfu"] for line in timed if line.get("mfu") is not None]
    return {
        "useful_tokens_per_second": statistics.median(line["useful_tokens_per_second"] for line in timed),
        "mfu": statistics.median(shares) if shares else None,
        "peak_memory_gib": max(line.get("peak_memory_gib", 0.0) for line in lines),
        **({"overflows": sum(line["overflows"] for line in lines)} if "overflows" in lines[0] else {}),
    }


def keep_until(path: Path, step: int) -> None:
    """Drop the lines of steps after `step`: a resumed run repeats them."""
    if path.is_file():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def read_metrics(path: Path, of: str = "loss") -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, of its steps or (`of` eval_loss) of its evaluations; empty if the run has not
    started."""
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if of in line]
