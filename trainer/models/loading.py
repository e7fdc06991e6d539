"""Load a LLaVA model for training: attention kernel, frozen parts, gradient checkpointing."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from schemas.errors import LavaBeamError
from trainer.config import Recipe
from trainer.models.adapter import add_lora, quantisation
from trainer.models.folder import ModelFolder
from trainer.models.kernels import compile_layers, for_text, shield_tower, use_liger
from trainer.models.opening import empty_shell, from_folder
from trainer.models.ulysses import share_rows
from trainer.preflight import Job
from trainer.stages import Stage, freeze, module_of


def load_model(
    job: Job, kernel: str | None, dtype: torch.dtype = torch.float32, again: float = 0.0, group: Any = None
) -> Any:
    """The model of a job's folder, loaded as `dtype`, with the stage's modules trainable.

    kernel: the attention of its language model (`trainer.models.kernels.attention`). again: the share of layers whose
    activations are computed again in the backward pass. group: the ranks that share rows with this one, if any.
    """
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
    # On the whole model, transformers would also run backward through a frozen tower.
    compute_again(model.model.language_model, again)
    if "tower" in job.stage.trains:
        compute_again(model.model.vision_tower, again)
    if job.stage.adapter:
        model = add_lora(model, job.recipe.lora)
    freeze(model, job.stage)
    check_learning(model, job.stage)
    if job.recipe.compile:
        compile_layers(llava)
    return model


def compute_again(part: Any, share: float) -> None:
    """Turn on gradient checkpointing for this share of the layers of a language model or a tower: the first ones."""
    if not share:
        return
    # transformers renamed it in 5.23
    enable = getattr(part, "activation_checkpointing_enable", None) or part.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    layers = [module for module in part.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers[math.ceil(share * len(layers)) :]:
        layer.gradient_checkpointing = False


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
