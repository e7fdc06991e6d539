"""Detects trained modules that do not learn: a gradient of exactly 0, step after step."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from schemas.errors import LavaBeamError
from trainer.engines.base import Engine
from trainer.stages import MODULES, module_of

IDLE_STEPS = 20
"""Steps in a row without a gradient after which a run stops."""

NEEDS_PICTURES = ("tower", "projector")


class GradientWatch:
    """Looks at the gradient of one parameter of each trained module. Whether it was 0 in one step is reported with the
    next one's figures: this costs no communication."""

    def __init__(self, engine: Engine):
        self.watched = watched_parameters(engine.model)
        self.idle = dict.fromkeys(self.watched, 0)
        self.countable = dict.fromkeys(self.watched, 0)
        self._found: dict[str, torch.Tensor] = {}
        for module, parameter in self.watched.items():
            engine.watch(parameter, partial(self._look, module))

    def _look(self, module: str, gradient: torch.Tensor) -> None:
        found = (gradient.detach() != 0).any()
        self._found[module] = found | self._found[module] if module in self._found else found

    def take(self, device: Any) -> torch.Tensor:
        """int64 (modules,): 1 for each module that had a gradient on this rank since the last call."""
        none = torch.zeros((), dtype=torch.bool, device=device)
        found = [self._found.pop(module, none).to(device) for module in self.watched]
        return torch.stack(found).long() if found else torch.zeros(0, dtype=torch.int64, device=device)

    def check(self, step: int, ranks: list[int], pictures: int) -> None:
        """Raise LavaBeamError for a module without a gradient in `IDLE_STEPS` steps.

        ranks: how many had a gradient in `step`, per module. pictures: how many were shown in it; without any, only
        the language model can learn.
        """
        for module, having in zip(self.watched, ranks, strict=True):
            if pictures or module not in NEEDS_PICTURES:
                self.countable[module] += 1
                self.idle[module] = 0 if having else self.idle[module] + 1
            if self.idle[module] >= IDLE_STEPS:
                raise self._error(step, module)

    def end(self, step: int) -> None:
        """Raise LavaBeamError for a module without a gradient in any step of a run that ended with `step`."""
        for module, idle in self.idle.items():
            if idle and idle == self.countable[module]:
                raise self._error(step, module)

    def _error(self, step: int, module: str) -> LavaBeamError:
        return LavaBeamError(
            f"step {step}: the gradient of the {module} was 0 in the last {self.idle[module]} steps that could "
            "change it. It learns nothing: check the mix's labels, or leave the module out with `train`."
        )


def watched_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Per trained module the parameter to look at: the last bias or norm, or a LoRA's second matrix (the first one has
    no gradient before the second has changed)."""
    found: dict[str, nn.Parameter] = {}
    for module in MODULES:
        trained = [
            (name, parameter)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and module_of(name) == module and "image_newline" not in name
        ]
        adapters = [parameter for name, parameter in trained if "lora_B" in name]
        small = [parameter for _, parameter in trained if len(getattr(parameter, "ds_shape", parameter.shape)) == 1]
        if trained:
            found[module] = (adapters or small or [parameter for _, parameter in trained])[-1]
    return found
