"""AdamW with a learning rate per module, and how the rates change from step to step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from trainer.sections import OptimizerConfig
from trainer.stages import MODULES, module_of

NO_DECAY = "_no_decay"


def adamw(model: nn.Module, settings: OptimizerConfig, device: torch.device) -> torch.optim.AdamW:
    """torch's AdamW over the trainable parameters, in groups with names; `device`: where the model computes."""
    groups, fused = parameter_groups(model, settings), fuses(device)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon, fused=fused)


def fuses(device: torch.device) -> bool:
    """Whether AdamW is one kernel: on a GPU, also for what is offloaded to its host. It rounds otherwise than the plain
    one, which runs on a CPU so that recorded losses stay."""
    return device.type == "cuda"


def counter(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, updates: float) -> torch.Tensor:
    """AdamW's count of the updates of `parameter`, where torch expects it: fused, on the device of the parameter."""
    return torch.tensor(float(updates), device=parameter.device if optimizer.defaults["fused"] else "cpu")


def rates(settings: OptimizerConfig, groups: list[str], step: int, steps: int) -> dict[str, float]:
    """The learning rate of each group of this name in step `step` of `steps`, counted from 0."""
    share = rate_share(settings.schedule, step, settings.warmup_steps(steps), steps)
    highest = {name: name.removesuffix(NO_DECAY) for name in groups}
    return {
        name: settings.learning_rates.get(module, settings.learning_rate) * share  # type: ignore[call-overload]
        for name, module in highest.items()
    }


def rate_share(schedule: str, step: int, warmup: int, steps: int) -> float:
    """A rate over its highest: a line from 0 in `warmup` steps, then constant, or a line or half a cosine to 0.

    As transformers' schedules of these names (transformers/optimization.py), which the original trains with.
    """
    if step < warmup:
        return step / warmup
    if schedule == "constant_with_warmup":
        return 1.0
    if schedule == "linear":
        return (steps - step) / max(1, steps - warmup)
    done = (step - warmup) / max(1, steps - warmup)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * done)))


def parameter_groups(model: nn.Module, settings: OptimizerConfig) -> list[dict[str, Any]]:
    """One group per module and kind (`llm`, `llm_no_decay`, ...); empty ones are left out.

    Biases and norms do not decay, as in transformers' Trainer and the original's `create_optimizer`.
    """
    decaying = decaying_parameters(model)
    members: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members.setdefault((module_of(name), name in decaying), []).append(parameter)
    order = [(module, decays) for module in MODULES for decays in (True, False) if (module, decays) in members]
    return [
        {
            "params": members[module, decays],
            "lr": settings.learning_rates.get(module, settings.learning_rate),  # type: ignore[call-overload]
            "weight_decay": settings.weight_decay if decays else 0.0,
            "name": module if decays else module + NO_DECAY,
        }
        for module, decays in order
    ]


def decaying_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay applies to: all but biases and the weights of normalisation layers."""
    kept = set()
    for path, module in model.named_modules():
        if "norm" in type(module).__name__.lower():
            continue
        for name, _ in module.named_parameters(recurse=False):
            if "bias" not in name:
                kept.add(f"{path}.{name}" if path else name)
    return kept
