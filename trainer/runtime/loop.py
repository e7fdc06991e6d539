"""A thin subclass of transformers' Trainer with our epoch plans, our loss over whole steps, and our checkpoints."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl

from schemas.chat import IGNORE
from schemas.errors import LavaBeamError
from trainer.inputs.collate import Collator
from trainer.inputs.data import BadRows, Refused, Samples
from trainer.inputs.device import Device
from trainer.inputs.schedule import Schedule
from trainer.runfolder import checkpoint_step, write_json
from trainer.runtime import checkpoint
from trainer.runtime.optimizer import forget_first_step, parameter_groups
from trainer.runtime.watch import GradientWatch

SCHEDULER = "scheduler.json"
NAMED = 32
"""The number of samples that an error lists."""


class NonFiniteLoss(LavaBeamError):
    """The loss or its gradient is not finite; nothing was updated."""


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
            found = self.samples.items(rows.tolist())
            refused += [item for item in found if isinstance(item, Refused)]
            items = [item for item in found if not isinstance(item, Refused)]
            batches.append(self.collator(items))
            keys.append([item.key for item in items])
            pictures += sum(len(item.pictures) for item in items)
        supervised = sum(int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in batches)
        return Step(number, batches, keys, refused, supervised, pictures)


class StopCallback(TrainerCallback):
    """Ends the run with a checkpoint after a step in which any rank was asked to stop."""

    trainer: LlavaTrainer

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        if self.trainer.stopping and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True


class FromPosition(Sampler):
    """Step numbers from the run's position to its end."""

    def __init__(self, trainer: LlavaTrainer):
        self.trainer = trainer

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.trainer.state.global_step, len(self)))

    def __len__(self) -> int:
        return self.trainer.steps.schedule.steps


class LlavaTrainer(Trainer):
    """`stop` set on any rank ends the run after the current step, with a checkpoint."""

    def __init__(
        self, *, steps: Steps, bad_rows: BadRows, workers: int = 0, recipe: Any, stop: threading.Event, **kwargs: Any
    ):
        super().__init__(train_dataset=steps, **kwargs)
        self.steps, self.bad_rows, self.workers, self.recipe = steps, bad_rows, workers, recipe
        self.stop, self.stopping = stop, False
        folder, dtype = steps.samples.folder, torch.bfloat16 if self.args.bf16 else torch.float32
        self.place = Device(self.args.device, dtype, folder.mean, folder.std)
        self.gradient_norm: float | None = None
        self.rates: dict[str, float] = {}
        self.watch = GradientWatch(self.model)
        self._before: int | None = None  # pictures that this rank showed in the step before
        self._order = lru_cache(1)(lambda epoch: checkpoint.order_digest(steps.schedule.plan(epoch)))
        self.remove_callback(PrinterCallback)
        ends = StopCallback()
        ends.trainer = self
        self.add_callback(ends)

    model: Any
    deepspeed: Any
    lr_scheduler: Any

    def get_train_dataloader(self) -> DataLoader:
        """Steps of this rank, in order; not passed to accelerate, which would shard them again."""
        sampler = FromPosition(self)
        return DataLoader(self.steps, batch_size=None, sampler=sampler, num_workers=self.workers)

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: Any) -> tuple[list, None]:
        step = next(epoch_iterator, None)
        return ([] if step is None else [step]), None

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of a `Step`. The loss is the mean over the step's supervised tokens on all ranks.

        Returns this rank's share times the number of ranks; the mean over ranks is the loss. Raises NonFiniteLoss
        before the optimizer's step.
        """
        self.bad_rows.record(inputs.refused)
        self._seed(inputs.number)
        model.train()
        optimizer: Any = self.optimizer
        self.rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        supervised = self._agree(inputs)
        share = torch.tensor(supervised / self.args.world_size, device=self.args.device)
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(inputs.batches):
            tensors = self.place.inputs(batch)
            loss = model(**tensors, use_cache=False, num_items_in_batch=share).loss
            if not torch.isfinite(loss):
                raise self._not_finite(inputs, number, float(loss))
            self._backward(loss, inputs, last=number == len(inputs.batches) - 1)
            total += loss.detach()
        return total

    def floating_point_ops(self, inputs: Any) -> int:
        """transformers' own estimate needs a batch's tensors; our metrics count useful tokens instead."""
        return 0

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with one group per module and weight decay."""
        if self.optimizer is None:
            settings = self.recipe.optimizer
            groups = parameter_groups(self.model if model is None else model, settings)
            rate, betas, epsilon = settings.learning_rate, settings.betas, settings.epsilon
            self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=betas, eps=epsilon)
        return self.optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Checkpoints hold only what trains; `trainer.models.export` writes the finished model."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write `checkpoint-N`. It counts once its last file is written; then older ones are removed."""
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            checkpoint.begin(folder)
        dist.barrier()
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            order = self._order(self.state.global_step // self.steps.schedule.steps_per_epoch)
            checkpoint.commit(folder, self.deepspeed, order, self.recipe.checkpoints.keep)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        checkpoint.write_share(Path(output_dir), self.deepspeed)
        if self.args.should_save:
            write_json(Path(output_dir) / SCHEDULER, self.lr_scheduler.state_dict())

    def _save_rng_state(self, output_dir: str) -> None:
        """Nothing to save: every step is seeded. What rank 0 writes next states that all ranks have written."""
        dist.barrier()

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        forget_first_step(self.deepspeed)
        if resume_from_checkpoint is not None:
            folder = Path(resume_from_checkpoint)
            checkpoint.load(folder, self.deepspeed)
            self.deepspeed.global_steps = checkpoint_step(folder)
            self.lr_scheduler.load_state_dict(json.loads((folder / SCHEDULER).read_text(encoding="utf-8")))
            optimizer: Any = self.optimizer
            for group, rate in zip(optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
                group["lr"] = rate
        return prepared

    def _seed(self, step: int) -> None:
        """Make dropout a function of the seed, the step and the rank: resuming needs no generator state."""
        words = np.random.SeedSequence([self.recipe.plan.seed, step, self.args.process_index]).generate_state(2)
        torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)

    def _agree(self, step: Step) -> int:
        """Supervised tokens of the step on all ranks. Stop requests and bad rows are shared among the ranks as well."""
        counts = [step.supervised, int(self.stop.is_set()), len(step.refused)]
        numbers, learnt = self._summed(counts)
        self.stopping = bool(numbers[1])
        if self._before is not None:
            self.watch.check(step.number - 1, *learnt)
        self._before = step.pictures
        if self.bad_rows.too_many(int(numbers[2])):
            latest: list[Any] = [self.bad_rows.latest] * self.args.world_size
            if dist.is_initialized():
                dist.all_gather_object(latest, self.bad_rows.latest)
            raise self.bad_rows.error(latest)
        if not numbers[0] and self.recipe.data.too_long != "cut":
            raise LavaBeamError(f"step {step.number}: none of its rows can be trained on; see bad-rows-*.jsonl.")
        return max(numbers[0], 1)

    def _summed(self, counts: list[int]) -> tuple[list[int], tuple[list[int], int]]:
        """`counts` over all ranks; and of the step before, how many ranks had a gradient per module, and the number of
        pictures."""
        device = self.args.device
        own = torch.tensor([*counts, self._before or 0], dtype=torch.int64, device=device)
        numbers = torch.cat([own, self.watch.take(device)])
        if dist.is_initialized():
            dist.all_reduce(numbers)
        found = numbers.tolist()
        return found[: len(counts)], (found[len(counts) + 1 :], found[len(counts)])

    def check_learnt(self) -> None:
        """Raise LavaBeamError if a module had no gradient in any step; every rank calls this after the last one."""
        if self._before is not None:
            _, learnt = self._summed([])
            self.watch.check(self.state.global_step - 1, *learnt, last=True)

    def _backward(self, loss: torch.Tensor, step: Step, last: bool) -> None:
        """Compute gradients and, after the last micro-batch, update, unless the gradient is not finite.

        DeepSpeed silently skips such an update and the schedule's step; without ZeRO, in float32, it does not.
        """
        engine = self.deepspeed
        engine.set_gradient_accumulation_boundary(last)
        engine.backward(loss, scale_wrt_gas=False)
        if not last:
            return
        if engine.optimizer is engine.basic_optimizer:
            gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            self._check_gradient(step, torch.nn.utils.get_total_norm(gradients))
            engine.step()
        else:
            engine.step()
            norm = engine.get_global_grad_norm()
            if norm is not None:
                self._check_gradient(step, norm)

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """DeepSpeed has no gradient norm without ZeRO in float32, and the optimizer has the next step's rates."""
        if "loss" in logs:
            logs = {**logs, "rates": self.rates}
            if self.gradient_norm is not None:
                logs["grad_norm"] = self.gradient_norm
        super().log(logs, *args, **kwargs)

    def _check_gradient(self, step: Step, norm: Any) -> None:
        self.gradient_norm = float(norm)
        if not math.isfinite(norm):
            keys = [key for batch in step.keys for key in batch]
            more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
            raise NonFiniteLoss(
                f"step {step.number}, rank {self.args.process_index}: the norm of the gradient is {float(norm)}. "
                f"Nothing was updated. This rank's samples: {', '.join(keys[:NAMED])}{more}. Look at them, lower the "
                "learning rate, or use fp32."
            )

    def _not_finite(self, step: Step, number: int, loss: float) -> NonFiniteLoss:
        names = ", ".join(step.keys[number]) or "none"
        return NonFiniteLoss(
            f"step {step.number}, rank {self.args.process_index}, micro-batch {number}: the loss is {loss}. "
            f"Nothing was updated. Its samples: {names}. Look at them, lower the learning rate, or use fp32."
        )
