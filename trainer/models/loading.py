"""Load a LLaVA model for training: attention kernel, frozen parts, gradient checkpointing."""

from __future__ import annotations

from typing import Any

import torch

from schemas.errors import LavaBeamError
from trainer.config import Recipe
from trainer.models.adapter import add_lora, quantisation
from trainer.models.folder import ModelFolder
from trainer.models.kernels import compile_layers, for_text, shield_tower, use_liger
from trainer.models.opening import empty_shell, from_folder
from trainer.models.ulysses import share_rows
from trainer.preflight import Job
from trainer.stages import Stage, freeze, module_of


def load_model(job: Job, kernel: str | None, dtype: torch.dtype = torch.float32, group: Any = None) -> Any:
    """The model of a job's folder, loaded as `dtype`, with the stage's modules trainable. kernel: the attention of its
    language model (`trainer.models.kernels.attention`). group: the ranks that share rows with this one, if any."""
    assert job.folder is not None
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": for_text(kernel)}
    if job.stage.bits == 4:
        options["quantization_config"] = quantisation()
    llava = from_folder(job.folder, **options)
    model = llava
    shield_tower(llava)
    if group is not None and kernel is not None:
        share_rows(llava, group, kernel)
    if job.recipe.liger:
        use_liger(llava)
    if job.recipe.gradient_checkpointing:
        # On the whole model, transformers would also run backward through a frozen tower.
        how = {"use_reentrant": False}
        model.model.language_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
        if "tower" in job.stage.trains:
            model.model.vision_tower.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
    if job.stage.adapter:
        model = add_lora(model, job.recipe.lora)
    freeze(model, job.stage)
    check_learning(model, job.stage)
    if job.recipe.compile:
        compile_layers(llava)
    return model


def check_learning(model: Any, stage: Stage) -> None:
    """Raise LavaBeamError when a module that the stage trains was quantised: its weights would silently not change."""
    for name, parameter in model.named_parameters():
        if module_of(name) in stage.trains and not parameter.is_floating_point():
            raise LavaBeamError(
                f"{name} was loaded as {parameter.dtype} and cannot be trained: this transformers or bitsandbytes "
                "quantises more than the language model. Use finetune_lora, or the versions in constraints.txt."
            )


def empty_model(folder: ModelFolder, stage: Stage, recipe: Recipe) -> Any:
    """`empty_shell` as a stage would train it."""
    model = empty_shell(folder)
    if stage.adapter:
        model = add_lora(model, recipe.lora)
    freeze(model, stage)
    return model
