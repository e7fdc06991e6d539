"""The loop's own arithmetic: rates, a loss that is not finite, and how often ranks talk."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from trainer import launch
from trainer.engines.optimizer import rates
from trainer.loop import train_step
from trainer.sections import OptimizerConfig


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant_with_warmup"])
@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 5), (0.3, 7), (0.9, 10), (0.5, 1), (0.03, 100)])
def test_rates_are_those_of_transformers(schedule, warmup, steps):
    from transformers import get_scheduler

    settings = OptimizerConfig(learning_rate=1e-3, learning_rates={"llm": 2e-5}, warmup=warmup, schedule=schedule)
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": rate} for rate in (1e-3, 2e-5)]
    optimizer = torch.optim.AdamW(groups)
    theirs = get_scheduler(schedule, optimizer, settings.warmup_steps(steps), steps)
    for step in range(steps):
        ours = rates(settings, ["projector", "llm_no_decay"], step, steps)
        assert list(ours.values()) == theirs.get_last_lr()
        optimizer.step()
        theirs.step()


class Plain:
    """An engine of one rank whose model's loss is its weight times `x`, plus `y`."""

    world, device, dtype = 1, torch.device("cpu"), torch.float32

    def __init__(self):
        self.weight = torch.nn.Parameter(torch.ones(()))

    def __call__(self, *, x, y, use_cache, num_items_in_batch):
        return SimpleNamespace(loss=(self.weight * x + y) / num_items_in_batch)

    def backward(self, loss, last):
        loss.backward()

    def step(self):
        return float(self.weight.grad)


def test_a_step_adds_up_its_micro_batches_over_all_supervised_tokens():
    batches = [{"x": torch.tensor(2.0), "y": torch.tensor(1.0)}, {"x": torch.tensor(6.0), "y": torch.tensor(0.0)}]
    losses, norm = train_step(Plain(), batches, supervised=4)
    assert losses.tolist() == [0.75, 1.5]
    assert norm == 2.0


def test_a_loss_that_is_not_finite_spoils_the_gradient_even_where_that_would_be_finite():
    """A token of probability 0 gives an infinite loss, and a gradient of softmax minus 1."""
    losses, norm = train_step(Plain(), [{"x": torch.tensor(2.0), "y": torch.tensor(float("inf"))}], supervised=1)
    assert losses.tolist() == [float("inf")]
    assert math.isnan(norm)


def count_our_reductions(loop, step):
    """Only the figures are float64: one sum for each step before this one, and the gradient is not counted."""
    if step.number == 0:
        loop.counted, reduce = [], dist.all_reduce

        def counting(tensor, *arguments, **options):
            loop.counted.extend([1] if tensor.dtype == torch.float64 else [])
            return reduce(tensor, *arguments, **options)

        dist.all_reduce = counting
    assert len(loop.counted) == step.number


def test_ranks_share_all_figures_of_a_step_at_once(recipe_file, forked, tmp_path):
    forked["observe"] = count_our_reductions
    assert launch.train(recipe_file(steps=4), processes=2)["steps"] == 4
