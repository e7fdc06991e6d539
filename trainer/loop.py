"""The training loop: step -> micro-batches -> loss -> backward -> clip -> update -> log -> checkpoint.

It knows an engine (`engines.base.Engine`), which divides the model among ranks, and steps (`inputs.steps.Step`), which
hold this rank's micro-batches. The position of a run is the number of optimizer steps done.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from schemas.errors import LavaBeamError
from trainer import checkpoint
from trainer.config import Recipe
from trainer.engines.base import Engine
from trainer.engines.optimizer import rates
from trainer.evaluation import Evaluation, gathered
from trainer.inputs.data import BadRows
from trainer.inputs.device import Device
from trainer.inputs.steps import Step, Steps
from trainer.metrics.figures import Figures, agree
from trainer.metrics.recorder import Recorder, peak_memory
from trainer.metrics.watch import GradientWatch

Ready = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes a micro-batch the model's inputs, when its turn comes."""

OVERFLOWS = 20
"""How often in a row a step is taken again with a smaller loss scale (fp16): down to 1/16 from the first one."""

NAMED = 32
"""The number of samples that an error lists."""


class NonFiniteLoss(LavaBeamError):
    """The loss (`of_loss`) or only its gradient is not finite; nothing was updated."""

    def __init__(self, message: str, of_loss: bool):
        super().__init__(message)
        self.of_loss = of_loss


def train_step(
    engine: Engine, batches: list[dict[str, Any]], supervised: int, ready: Ready = lambda batch: batch
) -> tuple[torch.Tensor, float]:
    """Forward and backward of every micro-batch, clip, update. Returns this rank's losses (micro-batches,), whose sum
    over all ranks is the mean over the step's `supervised` tokens of all ranks; and the norm of the gradient, over all
    ranks and before clipping. Where that is not finite, nothing was updated.
    """
    share = torch.tensor(supervised / engine.world, device=engine.device)  # an engine takes the mean over ranks
    losses = []
    for number, batch in enumerate(batches):
        loss = engine(**ready(batch), use_cache=False, num_items_in_batch=share).loss
        losses.append(loss.detach())
        # 1, or NaN where the loss is not finite: then the gradient on all ranks is not either, so that looking at its
        # norm is enough, and nothing has to wait for the device between micro-batches.
        finite = 1 + (losses[-1] - losses[-1])
        engine.backward(loss * finite, last=number == len(batches) - 1)
    return torch.stack(losses) / engine.world, engine.step()


@dataclass(frozen=True)
class Done:
    """What is known of a step once this rank has done it. `loss`: this rank's part of it."""

    step: int
    pictures: int
    loss: torch.Tensor
    norm: float
    rates: dict[str, float]
    scaling: dict[str, float]
    """In fp16: the loss scale, and how many overflows there were before it."""


class Loop:
    """One rank's run. `stop` set on any rank ends it after the step that follows, with a checkpoint."""

    def __init__(
        self,
        engine: Engine,
        steps: Steps,
        place: Device,
        recipe: Recipe,
        folder: Path,
        *,
        recorder: Recorder | None,
        stop: threading.Event,
        evaluation: Evaluation | None = None,
        best: dict[str, Any] | None = None,
    ):
        """place: where the engine computes, to which the tensors of `steps` go. recorder: on rank 0. best: of the
        evaluations before, `step` and `eval_loss`."""
        self.engine, self.steps, self.place, self.recipe, self.folder = engine, steps, place, recipe, folder
        self.recorder, self.stop, self.stopping = recorder, stop, False
        self.bad_rows = BadRows(folder / f"bad-rows-{engine.rank}.jsonl", recipe.data.max_bad)
        self.watch = GradientWatch(engine)
        self.before: Done | None = None
        self.evaluation, self.best = evaluation, best

    def run(self, done: int = 0) -> int:
        """Train from step `done` to the end, or until a rank was asked to stop. Returns the number of steps done."""
        self.engine.training(True)
        if self.recorder:
            self.recorder.begin(done)
        pin = self.engine.device.type == "cuda"
        for step in self.place.ahead(self.steps.loader(done, self.recipe.data.workers, pin=pin)):
            self.take(step)
            done = step.number + 1
            ends = self.stopping and done < len(self.steps)
            every = self.recipe.checkpoints.every
            best = self.evaluate(done)
            if ends or best or (every and done % every == 0):
                self.settle()
                self.save(done)
            if ends:
                break
        self.settle()
        if self.recorder:
            self.recorder.end()
        if done == len(self.steps):
            self.watch.end(done - 1)
        return done

    def take(self, step: Step) -> None:
        """One optimizer step. Raises LavaBeamError, on every rank, for errors that must stop the run."""
        self.bad_rows.record(step.refused)
        figures = self.agree(step)
        self.check_rows(step, figures)
        self.stopping = bool(figures.stop)
        now = self.set_rates(step.number)
        losses, norm, scaling = self.update(step, max(figures.supervised, 1))
        self.before = Done(step.number, step.pictures, losses.sum(), norm, now, scaling)

    def update(self, step: Step, supervised: int) -> tuple[torch.Tensor, float, dict[str, float]]:
        """`train_step`, again with a smaller loss scale for as long as only that makes the gradient overflow."""
        scale = self.engine.scale
        for overflows in range(OVERFLOWS):
            used = scale.value if scale else 1.0
            seed(self.recipe.plan.seed, step.number, self.engine.rank)
            losses, norm = train_step(self.engine, step.batches, supervised, self.place.inputs)
            if math.isfinite(norm):
                return losses, norm, {"loss_scale": used, "overflows": overflows} if scale else {}
            error = self.not_finite(step, losses, norm)
            if scale is None or error.of_loss:
                raise error
            if self.recorder:
                self.recorder.say(
                    f"step {step.number}: gradient overflow in fp16 at loss scale {used:g}; taken again with "
                    f"{scale.value:g}."
                )
        raise error

    def agree(self, step: Step | None) -> Figures:
        """The figures of all ranks, of the step to come; with them the step before is complete, and is recorded."""
        before, device = self.before, self.engine.device
        figures = agree(
            self.engine,
            coming=(step.supervised, int(self.stop.is_set()), len(step.refused)) if step else (0, 0, 0),
            pictures=before.pictures if before else 0,
            loss=before.loss if before else torch.zeros((), device=device),
            learnt=self.watch.take(device),
            memory=peak_memory(device),
        )
        if before is not None:
            self.before = None
            if self.recorder:
                known = {"loss": figures.loss, "grad_norm": before.norm, "rates": before.rates, **before.scaling}
                self.recorder.write(before.step, known, figures.memory)
            self.watch.check(before.step, figures.learnt, figures.pictures)
        return figures

    def settle(self) -> None:
        """Record the step before now, not with the next one's figures: before a checkpoint, and at the end."""
        if self.before is not None:
            self.agree(None)

    def evaluate(self, done: int) -> bool:
        """Evaluate if it is time to after `done` steps. Whether this one is the best so far, and its weights need a
        checkpoint: those of the last step are the finished model."""
        settings, last = self.recipe.evaluate, done == len(self.steps)
        if settings is None or self.evaluation is None or not (last or done % settings.every == 0):
            return False
        self.settle()
        loss = self.evaluation.loss(self.engine, self.place.inputs)
        if self.recorder:
            self.recorder.evaluated(done, loss)
        if not math.isfinite(loss) or (self.best is not None and loss >= self.best["eval_loss"]):
            return False
        self.best = {"step": done, "eval_loss": loss}
        return settings.keep_best and not last

    def set_rates(self, step: int) -> dict[str, float]:
        """Give every group of the optimizer its learning rate in this step."""
        groups = self.engine.optimizer.param_groups
        now = rates(self.recipe.optimizer, [group["name"] for group in groups], step, len(self.steps))
        for group in groups:
            group["lr"] = now[group["name"]]
        return now

    def save(self, done: int) -> None:
        """Write `checkpoint-N`. It counts once its last file is written; then older ones are removed."""
        folder, first = self.folder / f"checkpoint-{done}", self.engine.rank == 0
        if first:
            checkpoint.begin(folder)
        dist.barrier()
        checkpoint.write_share(folder, self.engine)
        dist.barrier()
        if first:
            order = self.order(done // self.steps.schedule.steps_per_epoch)
            settings = self.recipe.evaluate
            keep, keep_best = self.recipe.checkpoints.keep, settings is not None and settings.keep_best
            checkpoint.commit(folder, self.engine, order, keep, self.best, keep_best)
        if self.recorder:
            self.recorder.start_clock()

    @cached_property
    def order(self) -> Any:
        """Epoch -> the digest of its order of rows, which takes a while; the latest is kept."""
        return lru_cache(1)(lambda epoch: checkpoint.order_digest(self.steps.schedule.plan(epoch)))

    def check_rows(self, step: Step, figures: Figures) -> None:
        """Raise LavaBeamError for more bad rows than allowed, and for a step with nothing to learn from."""
        if self.bad_rows.too_many(figures.refused):
            raise self.bad_rows.error(gathered(self.bad_rows.latest, self.engine))
        if not figures.supervised and self.recipe.data.too_long != "cut":
            raise LavaBeamError(f"step {step.number}: none of its rows is trainable; see bad-rows-*.jsonl.")

    def not_finite(self, step: Step, losses: torch.Tensor, norm: float) -> NonFiniteLoss:
        """The error that every rank raises, for the first micro-batch of any rank whose loss is not finite."""
        every = gathered((losses.tolist(), step.keys), self.engine)
        for rank, (found, keys) in enumerate(every):
            for number, loss in enumerate(found):
                if not math.isfinite(loss):
                    return NonFiniteLoss(
                        f"step {step.number}, rank {rank}, micro-batch {number}: the loss is {loss}. Nothing was "
                        f"updated. Its samples: {named(keys[number])}. Look at them, lower the learning rate, or use "
                        "fp32.",
                        of_loss=True,
                    )
        samples = named([key for _, keys in every for batch in keys for key in batch])
        again = f" in {OVERFLOWS} tries with ever smaller loss scales" if self.engine.scale else ""
        return NonFiniteLoss(
            f"step {step.number}: the norm of the gradient is {norm}{again}. Nothing was updated. The step's samples: "
            f"{samples}. Inspect them, lower the learning rate, or use fp32.",
            of_loss=False,
        )


def seed(base: int, step: int, rank: int) -> None:
    """Make dropout a function of the run's seed, the step and the rank: resuming needs no generator state."""
    words = np.random.SeedSequence([base, step, rank]).generate_state(2)
    torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def named(keys: list[str]) -> str:
    """Some of the keys, for an error."""
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return ", ".join(keys[:NAMED]) + more or "none"
