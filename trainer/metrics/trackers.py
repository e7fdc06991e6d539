"""Trackers that show a run's metrics besides metrics.jsonl: TensorBoard, and Weights & Biases if configured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Protocol

from schemas.errors import InputError
from trainer.config import Recipe

FOLDER = "tensorboard"


class Tracker(Protocol):
    """Receives the metrics of a step, numbers by name."""

    def write(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def open_trackers(recipe: Recipe, folder: Path, step: int, mark: str) -> list[Tracker]:
    """The trackers of a run that has done `step` steps, on rank 0. `mark`: the run's fingerprint.

    TensorBoard is on unless the recipe says `trackers: []`; if it is not installed, one line says so. Raises InputError
    when Weights & Biases is configured and does not start.
    """
    opened: list[Tracker] = []
    if "tensorboard" in recipe.trackers:
        try:
            opened.append(TensorBoard(folder / FOLDER, step))
        except ImportError:
            print(
                "TensorBoard is not installed: metrics are only in metrics.jsonl (pip install tensorboard, or set "
                "`trackers: []`).",
                file=sys.stderr,
            )
    if recipe.wandb is not None:
        opened.append(WeightsAndBiases(recipe, folder, mark))
    return opened


class TensorBoard:
    """Events under `tensorboard/` in the run folder. Steps after `step` are hidden: a resumed run repeats them."""

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """One run per fingerprint: a resumed run continues it."""

    def __init__(self, recipe: Recipe, folder: Path, mark: str):
        import wandb

        settings = recipe.wandb
        assert settings is not None
        try:
            self.run: Any = wandb.init(
                project=settings.project,
                entity=settings.entity,
                name=settings.name or folder.name,
                id=mark[:16],
                resume="allow",
                dir=str(folder),
                config=recipe.model_dump(mode="json"),
            )
        except wandb.Error as error:
            raise InputError(
                f"wandb: {error}. Log in with `wandb login`, set WANDB_MODE=offline, or leave `wandb` out."
            ) from error

    def write(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def close(self) -> None:
        self.run.finish()


def scalars(values: dict[str, Any]) -> dict[str, float]:
    """A line of metrics as single numbers: `rates` becomes `rate/llm`, ...; None is left out."""
    flat = {name: value for name, value in values.items() if name not in ("step", "rates") and value is not None}
    return {**flat, **{f"rate/{group}": rate for group, rate in values["rates"].items()}}
