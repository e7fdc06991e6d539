"""What a run tells while it runs: metrics.jsonl, and a progress bar with loss, useful tokens/s, padding and balance."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.schedule import Schedule

PLAIN_LINES = 10
"""How many progress lines a run prints where stderr is no terminal."""


class Recorder(TrainerCallback):
    """Rank 0 writes one line of metrics per logged step and moves the bar."""

    def __init__(self, path: Path, schedule: Schedule, title: str):
        self.path, self.schedule, self.title = path, schedule, title
        self.bar: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.seen, self.started = state.global_step, time.perf_counter()
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
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        loads = [self.schedule.load(step) for step in range(self.seen, state.global_step)]
        useful, held = sum(load[0] for load in loads), sum(load[1] for load in loads)
        now = time.perf_counter()
        values = {
            "step": state.global_step,
            "loss": logs["loss"],
            "grad_norm": logs.get("grad_norm"),
            "rates": {group["name"]: group["lr"] for group in optimizer.param_groups} if optimizer is not None else {},
            "useful_tokens": useful,
            "useful_tokens_per_second": round(useful / max(now - self.started, 1e-9), 1),
            "padding": round(1 - useful / max(held, 1), 4),
            "rank_balance": round(min(load[2] for load in loads), 4),
        }
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()
        self._show(values, state.global_step - self.seen)
        self.seen, self.started = state.global_step, now

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.file.close()
            if self.bar is not None:
                self.bar.close()

    def _show(self, values: dict[str, Any], steps: int) -> None:
        speed, padding = values["useful_tokens_per_second"], values["padding"]
        text = f"loss {values['loss']:.4f}, {speed:,.0f} useful tokens/s, padding {padding:.0%}"
        text += f", balance {values['rank_balance']:.2f}"
        if self.bar is not None:
            self.bar.update(steps)
            self.bar.set_postfix_str(text)
            return
        every = max(self.schedule.steps // PLAIN_LINES, 1)
        if values["step"] // every != (values["step"] - steps) // every:
            print(f"{self.title}: step {values['step']}/{self.schedule.steps}, {text}", file=sys.stderr, flush=True)


def keep_until(path: Path, step: int) -> None:
    """Drop the lines of steps after `step`: a resumed run makes them again."""
    if path.is_file():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none where the run has not started."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
