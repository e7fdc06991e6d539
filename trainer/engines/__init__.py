"""Engines: what divides a model's weights, gradients and optimizer state among ranks. A loaded model flows in, updated
weights flow out. `base.Engine` is all that the loop and the checkpoints know; a file here for each way to do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainer.config import Recipe

Loader = Callable[[Any], Any]
"""Loads the model in a dtype: the engine decides which, and what has to be set before."""


def start_engine(recipe: Recipe, precision: str, device: Any, text: dict[str, Any], load: Loader) -> Any:
    """The recipe's engine (`base.Engine`) around the model that `load` returns. `precision`: bf16, fp16 or fp32;
    `text`: the language model's configuration."""
    if recipe.engine == "fsdp2":
        from trainer.engines.fsdp2 import FSDP2

        return FSDP2.start(recipe, precision, device, load)
    from trainer.engines.deepspeed import DeepSpeed

    return DeepSpeed.start(recipe, precision, device, text, load)
