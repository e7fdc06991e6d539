"""`--dry-run`: parameters, groups and learning rates, steps, memory, and the launch commands."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from trainer.config import Recipe
from trainer.cuts import notes_on_cuts
from trainer.inputs.schedule import Schedule
from trainer.launchers import launcher_lines
from trainer.models.folder import ModelFolder
from trainer.planning.memory import MemoryEstimate
from trainer.preflight import Job
from trainer.room import STEPS_LOOKED_AT, memory_of, peaks, total_parameters
from trainer.stages import Stage

FITS_GIB = 72
"""What a step may take on the largest of the common GPUs, of 80 GB, beside the CUDA context and fragmentation."""


def describe(job: Job, processes: int, nodes: int = 1) -> dict[str, Any]:
    """Everything that a run of `job` would use on `nodes` machines of `processes` GPUs each. Writes nothing."""
    from trainer.models.parts import planned_folder

    recipe = job.recipe
    folder = job.folder or planned_folder(job)
    ranks = processes * nodes
    shared = recipe.sequence_parallel
    schedule = Schedule(job.mix, recipe, folder, ranks // shared, packed=shared > 1 or recipe.plan.rows == "packed")
    groups = parameter_table(folder, job.stage, recipe)
    trainable = sum(group["parameters"] for group in groups)
    steps = range(min(schedule.steps, STEPS_LOOKED_AT))
    loads = [schedule.load(step) for step in steps]
    useful, held = sum(load[0] for load in loads), sum(load[1] for load in loads)
    found = peaks(job, schedule)
    step = partial(
        memory_of(job, folder, ranks, trainable),
        peak_tokens=found.tokens,
        peak_images=found.tiles,
        learnt=found.learnt,
    )
    memory = step()
    return {
        "stage": recipe.stage,
        "mix": {"path": job.mix.path, "manifest": job.mix.manifest.number, "rows": job.mix.rows},
        "model": str(folder.path),
        "parameters": total_parameters(folder),
        "trainable_parameters": trainable,
        "groups": groups,
        "steps": schedule.steps,
        "warmup_steps": recipe.optimizer.warmup_steps(schedule.steps),
        "steps_per_epoch": schedule.steps_per_epoch,
        "global_batch": recipe.plan.global_batch,
        "processes": ranks,
        "padding": round(1 - useful / max(held, 1), 4),
        "rank_balance": round(sum(load[2] for load in loads) / max(len(loads), 1), 4),
        "peak_tokens": found.tokens,
        "memory_gib_per_gpu": round(memory.total / 2**30, 2),
        **(
            {"notes": notes}
            if (notes := [*job.notes, *notes_on_cuts(job), *notes_on_zero(recipe, ranks, step)])
            else {}
        ),
        "launch": {**_own_lines(processes, nodes), **launcher_lines(Path(recipe.output), processes, nodes)},
    }


def notes_on_zero(recipe: Recipe, ranks: int, step: Callable[..., MemoryEstimate]) -> list[str]:
    """That ZeRO-2 fits where the recipe has ZeRO-3. `step`: the memory of one GPU, `zero_stage` left to give."""
    settings = recipe.deepspeed
    if recipe.engine != "deepspeed" or settings.zero != 3 or settings.offload != "none" or ranks == 1:
        return []
    divided, whole = step(zero_stage=3).total / 2**30, step(zero_stage=2).total / 2**30
    if whole > FITS_GIB:
        return []
    return [
        f"ZeRO-2 takes {whole:.1f} GiB per GPU instead of {divided:.1f}, and does not gather the weights in every "
        f"forward and backward pass: where GPUs have more than that, deepspeed.zero=2 is faster"
    ]


def _own_lines(processes: int, nodes: int) -> dict[str, str]:
    """The commands by which `lavabeam train` runs the recipe, or prepares its folder for a cluster's launcher."""
    here = f"lavabeam train RECIPE --processes={processes}"
    return {**({"here": here} if nodes == 1 else {}), "prepare": f"{here} --nodes={nodes} --prepare, and then one of:"}


def parameter_table(folder: ModelFolder, stage: Stage, recipe: Recipe) -> list[dict[str, Any]]:
    """The optimizer's groups with their sizes, from a model without storage."""
    from trainer.engines.optimizer import parameter_groups
    from trainer.models.loading import empty_model

    model = empty_model(folder, stage, recipe)
    return [
        {
            "name": group["name"],
            "parameters": sum(parameter.numel() for parameter in group["params"]),
            "tensors": len(group["params"]),
            "rate": group["lr"],
            "weight_decay": group["weight_decay"],
        }
        for group in parameter_groups(model, recipe.optimizer)
    ]
