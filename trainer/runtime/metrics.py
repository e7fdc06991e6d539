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
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.inputs.schedule import Schedule
from trainer.runtime.flops import ModelFlops
from trainer.runtime.trackers import Tracker, scalars

PLAIN_LINES = 10
"""The number of progress lines that a run prints when stderr is not a terminal."""


class Recorder(TrainerCallback):
    """Rank 0 writes a line of metrics for every logged step, moves the bar and feeds the trackers.

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

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.seen, self.started = state.global_step, time.perf_counter()
        if not state.is_world_process_zero:
            return
        self.trackers = self.open_trackers(state.global_step)
        keep_until(self.path, state.global_step)
        self.file = self.path.open("a", encoding="utf-8")
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.schedule.steps, initial=self.seen, desc=self.title, unit="step")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        memory = most_memory(args.device)
        if not state.is_world_process_zero:
            return
        values = {
            "step": state.global_step,
            "loss": logs["loss"],
            "grad_norm": logs.get("grad_norm"),
            "rates": logs["rates"],
            **self._work(range(self.seen, state.global_step)),
            "peak_memory_gib": round(memory / 2**30, 3),
        }
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()
        for tracker in self.trackers:
            tracker.write(state.global_step, scalars(values))
        self._show(values, state.global_step - self.seen)
        self.seen, self.started = state.global_step, time.perf_counter()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.started = time.perf_counter()  # writing a checkpoint does not count as training time

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.file.close()
            for tracker in self.trackers:
                tracker.close()
            if self.bar is not None:
                self.bar.close()

    def _work(self, steps: range) -> dict[str, Any]:
        """Tokens, padding and speed of the steps since the last line."""
        loads = [self.schedule.load(step) for step in steps]
        useful, held = sum(load[0] for load in loads), sum(load[1] for load in loads)
        seconds = max(time.perf_counter() - self.started, 1e-9)
        share = None
        if self.peak is not None:
            needed = sum(self.flops.of(*self._rows(step)) for step in steps)
            share = float(f"{needed / (seconds * self.peak * self.schedule.world_size):.3g}")
        return {
            "useful_tokens": useful,
            "useful_tokens_per_second": round(useful / seconds, 1),
            "padding": round(1 - useful / max(held, 1), 4),
            "rank_balance": round(min(load[2] for load in loads), 4),
            "mfu": share,
        }

    def _rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and tiles of a step's rows, on all ranks."""
        epoch, inner = divmod(step, self.schedule.steps_per_epoch)
        rows = self.schedule.plan(epoch).samples(inner)
        return self.schedule.lengths[rows], self.schedule.tiles[rows]

    def _show(self, values: dict[str, Any], steps: int) -> None:
        text = describe(values)
        if self.bar is not None:
            self.bar.update(steps)
            self.bar.set_postfix_str(text)
            return
        every = max(self.schedule.steps // PLAIN_LINES, 1)
        if values["step"] // every != (values["step"] - steps) // every:
            print(f"{self.title}: step {values['step']}/{self.schedule.steps}, {text}", file=sys.stderr, flush=True)


def describe(values: dict[str, Any]) -> str:
    """A line of metrics for humans."""
    text = f"loss {values['loss']:.4f}, {values['useful_tokens_per_second']:,.0f} useful tokens/s, "
    text += f"padding {values['padding']:.0%}, balance {values['rank_balance']:.2f}"
    if values["mfu"] is not None:
        text += f", MFU {values['mfu']:.1%}"
    return f"{text}, {values['peak_memory_gib']:.1f} GiB"


def most_memory(device: torch.device) -> int:
    """Peak bytes of any rank so far: allocated on its GPU, or resident on a CPU. All ranks have to call this."""
    if device.type == "cuda":
        held = torch.cuda.max_memory_allocated(device)
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if not dist.is_initialized():
        return held
    most = torch.tensor(held, dtype=torch.int64, device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Median speed and MFU, without the first step, which warms up, and peak memory."""
    timed = lines[1:] or lines
    shares = [line["mfu"] for line in timed if line.get("mfu") is not None]
    return {
        "useful_tokens_per_second": statistics.median(line["useful_tokens_per_second"] for line in timed),
        "mfu": statistics.median(shares) if shares else None,
        "peak_memory_gib": max(line.get("peak_memory_gib", 0.0) for line in lines),
    }


def keep_until(path: Path, step: int) -> None:
    """Drop the lines of steps after `step`: a resumed run repeats them."""
    if path.is_file():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; empty if the run has not started."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
