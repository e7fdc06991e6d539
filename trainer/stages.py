"""What each stage trains: one table over the three modules of a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemas.config import nearest
from schemas.errors import InputError
from trainer.models.towers import tower_of

if TYPE_CHECKING:
    from torch import nn

MODULES = ("tower", "projector", "llm")


@dataclass(frozen=True)
class Stage:
    """`trains`: the modules whose weights are updated. `adapter`: the llm trains through LoRA instead; `bits` 4: its
    frozen weights are quantised as well (QLoRA)."""

    trains: tuple[str, ...]
    adapter: bool = False
    bits: int = 16


STAGES: dict[str, Stage] = {
    "pretrain": Stage(("projector",)),
    "finetune": Stage(("projector", "llm")),
    "finetune_tower": Stage(("tower", "projector", "llm")),
    "finetune_lora": Stage(("projector",), adapter=True),
    "finetune_qlora": Stage(("projector",), adapter=True, bits=4),
}
"""LLaVA (Liu et al. 2023, arXiv 2304.08485, section 4.2) trains the projector, then projector and llm; LLaVA-NeXT the
tower as well; the LoRA stages keep training the projector in full, as LLaVA v1.5 does."""


def get_stage(name: str, train: tuple[str, ...] | None = None) -> Stage:
    """The stage of this name, with its modules replaced by `train` if given; raises InputError for unknown names."""
    if name not in STAGES:
        raise InputError(f"stage {name!r} is unknown. {nearest(name, list(STAGES))}")
    stage = STAGES[name]
    for module in train or ():
        if module not in MODULES:
            raise InputError(f"train: the model has no module {module!r}. {nearest(module, list(MODULES))}")
    if train is None:
        return stage
    if not train and not stage.adapter:
        raise InputError(f"train: [] leaves nothing to learn. Name modules ({', '.join(MODULES)}), or leave it out.")
    if stage.adapter and "llm" in train:
        raise InputError(
            f"stage {name!r} trains the llm through LoRA: leave 'llm' out of `train`, or choose 'finetune'."
        )
    return Stage(tuple(train), stage.adapter, stage.bits)


def module_of(parameter: str) -> str:
    """`tower`, `projector` or `llm`, from a parameter's name in transformers' LLaVA classes.

    `image_newline` belongs to the llm, as in LLaVA-NeXT's `mm_language_model` part (llava/train/train.py).
    """
    if "vision_tower" in parameter:
        return "tower"
    return "projector" if "multi_modal_projector" in parameter else "llm"


def freeze(model: nn.Module, stage: Stage) -> None:
    """Make exactly the stage's modules trainable, except for parameters that the loss cannot reach.

    With `vision_feature_layer` -2 the tower's last layer and its final norm never get a gradient, and ZeRO would wait
    for one. LoRA's own weights stay trainable.
    """
    unreached = set(unreached_parameters(model))
    for name, parameter in model.named_parameters():
        adapter = stage.adapter and "lora_" in name
        trains = module_of(name) in stage.trains and parameter.is_floating_point()
        parameter.requires_grad_(adapter or (trains and name not in unreached))


def unreached_parameters(model: nn.Module) -> Iterable[str]:
    """Names of parameters that get no gradient: those of the tower after the feature layer that the model reads."""
    config: Any = model.config
    layer, depth = config.vision_feature_layer, config.vision_config.num_hidden_layers
    layers = [layer] if isinstance(layer, int) else list(layer)
    read = max(index if index >= 0 else depth + 1 + index for index in layers)
    tower = tower_of(config.vision_config.model_type, "config.json")
    # A linear projector is transformers' two layers without the activation: the second one stays the identity.
    linear = config.projector_hidden_act == "linear"
    for name, _ in model.named_parameters():
        if linear and "multi_modal_projector.linear_2" in name:
            yield name
        if "vision_tower" not in name:
            continue
        if not tower.reaches(name, read):
            yield name
