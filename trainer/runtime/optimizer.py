"""Parameter groups with a learning rate per module, and AdamW's state before the first step."""

from __future__ import annotations

from typing import Any

from torch import nn

from trainer.config import OptimizerConfig
from trainer.stages import MODULES, module_of


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
            "name": module if decays else f"{module}_no_decay",
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


def forget_first_step(engine: Any) -> None:
    """Undo the extra step with a zero gradient that DeepSpeed 0.19.8 takes in advance without ZeRO in bf16.

    It decays the weights, and AdamW's bias correction would count one step too many.
    """
    if engine.optimizer is not engine.basic_optimizer and engine.zero_optimization_stage() == 0:
        engine.optimizer.refresh_fp32_params()
        engine.basic_optimizer.state.clear()
