"""Keys of a recipe that its stage or engine does not read: refused where somebody gave them, and not saved.

A key with its default may stand there too: `stage: finetune, lora: {rank: 128}` means LoRA and is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from schemas.errors import InputError
from trainer.sections import ModelConfig
from trainer.stages import STAGES, Stage, get_stage

if TYPE_CHECKING:
    from trainer.config import Recipe


def unused(recipe: Recipe) -> dict[str, str]:
    """Why each dotted key that could be given has no effect in this recipe."""
    stage = get_stage(recipe.stage, recipe.train)
    found = {}
    if not stage.adapter:
        adapters = " or ".join(name for name, one in STAGES.items() if one.adapter)
        found["lora"] = f"stage {recipe.stage} adds no adapter. Set `stage: {adapters}`, or leave `lora` out"
    for module in sorted({"tower", "projector", "llm"} - trained(stage)):
        found[f"optimizer.learning_rates.{module}"] = (
            f"stage {recipe.stage} trains the {' and '.join(sorted(trained(stage)))} here. Leave it out, or train the "
            f"{module}"
        )
    if recipe.model.checkpoint is not None:
        for name in ModelConfig.model_fields.keys() - {"checkpoint"}:
            found[f"model.{name}"] = "`checkpoint` is a complete model. Leave it out"
    return found


def refuse_unused(recipe: Recipe, where: str) -> None:
    """Raise InputError, which begins with `where`, for a key that was given and has no effect."""
    for key, why in unused(recipe).items():
        if _given(recipe, key.split(".")):
            raise InputError(f"{where}: `{key}` has no effect: {why}.")


def notes_on_unused(recipe: Recipe) -> list[str]:
    """What was given, has no effect, and changes nothing that somebody could have meant by it."""
    notes = []
    zero = recipe.deepspeed.zero
    if recipe.engine == "fsdp2" and zero != 3 and _given(recipe, ["deepspeed", "zero"]):
        notes.append(f"engine fsdp2 divides the model as ZeRO-3 does: deepspeed.zero {zero} has no effect")
    best = recipe.evaluate is not None and recipe.evaluate.keep_best
    if not recipe.checkpoints.every and not best and _given(recipe, ["checkpoints", "keep"]):
        notes.append("checkpoints.every is 0, so that no checkpoint is written for checkpoints.keep to keep")
    return notes


def without_unused(recipe: Recipe) -> dict[str, Any]:
    """The recipe as a dictionary of JSON, defaults included, without what has no effect in it."""
    values = recipe.model_dump(mode="json")
    for key in unused(recipe):
        *sections, name = key.split(".")
        inner = values
        for section in sections:
            inner = inner[section]
        inner.pop(name, None)
    return values


def trained(stage: Stage) -> set[str]:
    """The modules that have parameters to learn: an adapter's belong to the llm."""
    return {*stage.trains, *(("llm",) if stage.adapter else ())}


def _given(value: Any, keys: list[str]) -> bool:
    """Whether somebody gave the key, be it with its default."""
    if isinstance(value, dict):
        return keys[0] in value
    if keys[0] not in value.model_fields_set:
        return False
    return len(keys) == 1 or _given(getattr(value, keys[0]), keys[1:])
