"""Whether a run fits into a GPU's memory, and how many layers must be checkpointed so that it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from schemas.errors import InputError
from trainer.config import Recipe
from trainer.inputs.schedule import Schedule
from trainer.models.folder import USUAL_LLM, ModelFolder
from trainer.models.sizes import DECODERS, Shape, model_count, projector_count, tower_count
from trainer.planning.memory import NF4_BYTES, Adapter, MemoryEstimate, ModelSizes, estimate_memory
from trainer.planning.report import gibibytes
from trainer.preflight import Job
from trainer.stages import Stage

STEPS_LOOKED_AT = 200
USABLE = 0.92
"""Of a GPU's memory: the CUDA context takes 0.5 to 1 GB, and fragmentation some."""
BEYOND = 1.15
"""A run is refused when its estimate is this many times the GPU's memory: estimates are not better than that."""


@dataclass(frozen=True)
class Peaks:
    """The most that a rank holds in one micro-step: tokens (padding included; its part of them where ranks share rows),
    tiles, and the share of its tokens that have logits."""

    tokens: int
    tiles: int
    learnt: float


def peaks(job: Job, schedule: Schedule) -> Peaks:
    """Of the first steps."""
    supervised = job.mix.numpy("supervised_tokens")[schedule.trained]
    steps = range(min(schedule.steps, STEPS_LOOKED_AT))
    batches = [
        rows for step in steps for rank in range(schedule.world_size) for rows in schedule.micro_batches(step, rank)
    ]
    tokens = max((schedule.held(rows) for rows in batches), default=0)
    tiles = max((int(schedule.tiles[rows].sum()) for rows in batches), default=0)
    learnt = max((int(supervised[rows].sum()) for rows in batches), default=0) / max(tokens, 1)
    return Peaks(-(-tokens // job.recipe.sequence_parallel), tiles, min(learnt, 1.0))


def memory_of(job: Job, folder: ModelFolder, gpus: int, trainable: float) -> Callable[..., MemoryEstimate]:
    """`estimate_memory` of this job on `gpus` GPUs, with peak_tokens and peak_images left to give, and what else one
    wants otherwise. As long as it is not known, `auto` counts as gradient checkpointing of all layers.
    """
    supervised, tokens = job.mix.numeric(["supervised_tokens", "tokens"])
    estimate = memory_for(job.recipe, job.stage, model_sizes(folder), gpus, trainable)
    return partial(estimate, learnt=float(supervised.sum() / max(tokens.sum(), 1)))


def memory_for(
    recipe: Recipe, stage: Stage, sizes: ModelSizes, gpus: int, trainable: float
) -> Callable[..., MemoryEstimate]:
    """`memory_of` of a stage of a model of these sizes, without a mix: with `learnt` left to give as well."""
    return partial(
        estimate_memory,
        sizes,
        gpus=gpus,
        zero_stage=recipe.deepspeed.zero if recipe.engine == "deepspeed" else 3,
        trainable_parameters=float(trainable),
        train_vision="tower" in stage.trains,
        train_language="llm" in stage.trains,
        adapter=Adapter(recipe.lora.rank, recipe.lora.dropout) if stage.adapter else None,
        # Added up in float32; at stage 1 beside those of the backward pass (docs/training.md).
        gradient_bytes=6.0 if recipe.engine == "deepspeed" and recipe.deepspeed.zero < 2 else 4.0,
        frozen_bytes=NF4_BYTES if stage.bits == 4 else 2.0,
        offload_optimizer=recipe.deepspeed.offload != "none",
        offload_parameters=recipe.deepspeed.offload == "all",
        checkpointing=recipe.again if recipe.again is not None else 1.0,
    )


def fitted_share(job: Job, schedule: Schedule, memory: int | None) -> float:
    """The share of layers to compute again: the recipe's, or for `auto` the smallest that fits `memory` bytes (of each
    GPU; None without one, where memory is the machine's and `auto` computes nothing again).

    Raises InputError, with a setting that fits, for a run that cannot fit at all.
    """
    from trainer.models.loading import empty_model

    assert job.folder is not None
    recipe = job.recipe
    if memory is None:
        return recipe.again or 0.0
    found, gpus = peaks(job, schedule), schedule.world_size * recipe.sequence_parallel
    model = empty_model(job.folder, job.stage, recipe)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    estimate = memory_of(job, job.folder, gpus, trainable)
    step = partial(estimate, peak_tokens=found.tokens, peak_images=found.tiles, learnt=found.learnt)
    layers = int(job.folder.text.get("num_hidden_layers", 32))
    # One layer is held in full anyway: to compute the last one again saves nothing.
    shares = [number / layers for number in range(max(layers, 2))] if recipe.again is None else [recipe.again]
    share = next((one for one in shares if step(checkpointing=one).total <= USABLE * memory), shares[-1])
    total = step(checkpointing=share).total
    if total > BEYOND * memory:
        fits = next((words for words, changed in remedies(recipe, found) if step(**changed).total <= memory), None)
        raise InputError(
            f"a step of {found.tokens:,} tokens and {found.tiles:,} tiles takes about {gibibytes(total)} on each of "
            f"{gpus} GPUs of {gibibytes(memory)}. "
            + (f"This would fit: {fits}." if fits else "Train with LoRA, or on more GPUs.")
        )
    return share


def remedies(recipe: Recipe, found: Peaks) -> Iterator[tuple[str, dict[str, object]]]:
    """Settings that take less memory, the least costly first: in words, and as arguments of the estimate."""
    words, changed = ["gradient_checkpointing: true"], {"checkpointing": 1.0}
    if recipe.again != 1.0:
        yield words[0], dict(changed)
    else:
        words.clear()
    for stage in range(recipe.deepspeed.zero + 1, 4):
        yield ", ".join([*words, f"deepspeed.zero: {stage}"]), {**changed, "zero_stage": stage}
    words, changed = [*words, "deepspeed.zero: 3"], {**changed, "zero_stage": 3}
    for divisor in (2, 4, 8):
        tokens = found.tokens // divisor
        smaller = {"peak_tokens": tokens, "peak_images": int(np.ceil(found.tiles / divisor))}
        yield ", ".join([*words, f"plan.max_tokens: {tokens}"]), {**changed, **smaller}
    yield ", ".join([*words, "deepspeed.offload: optimizer"]), {**changed, "offload_optimizer": True}
    both = {"offload_optimizer": True, "offload_parameters": True}
    yield ", ".join([*words, "deepspeed.offload: all"]), {**changed, **both}


def model_sizes(folder: ModelFolder) -> ModelSizes:
    """What the memory estimate needs to know about a model, from its configuration."""
    shape = Shape.of(folder.text)
    tower, projector = tower_count(folder.tower, folder.vision).total, projector_count(folder).total
    return ModelSizes(
        language_parameters=float(total_parameters(folder) - tower - projector),
        vision_parameters=float(tower),
        projector_parameters=float(projector),
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        key_value_size=shape.keys,
        layers=shape.layers,
        vocabulary=shape.vocabulary,
        vision_hidden_size=int(folder.vision.get("hidden_size", 768)),
        vision_layers=int(folder.vision.get("num_hidden_layers", 12)),
        tokens_per_image=folder.rule.side**2 + folder.rule.class_token,
    )


def total_parameters(folder: ModelFolder) -> int:
    """All parameters of the model, trained or not (adapters aside); of a language model of another type than those that
    can be counted, from a model without storage."""
    if folder.text.get("model_type", USUAL_LLM) in DECODERS:
        return model_count(folder).total
    from trainer.models.opening import empty_shell

    return sum(parameter.numel() for parameter in empty_shell(folder).parameters())
