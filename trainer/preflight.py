"""Find everything that can be wrong with a training run before a process is started. Needs no torch."""

from __future__ import annotations

import importlib.util
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from schemas.chat import ImageRule, load_tokenizer
from schemas.dataset import Dataset
from schemas.errors import InputError
from trainer.config import Recipe
from trainer.inputs.heldout import evaluated, held_out
from trainer.mixcheck import check_agreement, check_lengths, check_pictures, check_template, differences, open_mix
from trainer.models.families import family_of
from trainer.models.folder import ModelFolder, known_positions
from trainer.models.partcheck import check_llm, check_tower, check_vocabulary
from trainer.plan import make_plan
from trainer.stages import Stage, get_stage
from trainer.unused import notes_on_unused

COMPILERS = ("g++", "gcc", "clang", "cc")
"""torch.compile's backends need one: for the kernels themselves on a CPU, for launching them on a GPU."""


@dataclass(frozen=True)
class Job:
    """A recipe whose inputs fit together. `folder` is None while the model is still in parts (tower and llm)."""

    recipe: Recipe
    stage: Stage
    mix: Dataset
    folder: ModelFolder | None
    rule: ImageRule
    template: str
    notes: tuple[str, ...] = ()
    """What is possible, and perhaps not meant."""


def check(recipe: Recipe, processes: int) -> Job:
    """Open and compare all inputs; raises InputError for the first mismatch."""
    stage = get_stage(recipe.stage, recipe.train)
    ranks = recipe.data_ranks(processes)
    check_installed(recipe, stage)
    mix = open_mix(recipe.data.mix, recipe.data.at)
    notes = [*notes_on_unused(recipe), *check_pictures(mix, stage)]
    information = mix.manifest.info
    rule = ImageRule.from_dict(information["image"]) if information.get("image") else None
    folder = None
    if recipe.model.checkpoint is not None:
        folder = ModelFolder.open(model_path(recipe.model.checkpoint))
        rule = rule or folder.rule
        check_agreement(folder, mix, rule)
        notes += differences(folder, mix, rule)
        folder = folder.with_training(rule, information["template"])
        positions, text = folder.positions, folder.text
    else:
        text = _check_parts(recipe, mix, rule)
        positions = known_positions(text)
    check_heads(recipe, text)
    if rule is None:
        raise InputError(f"{mix.path}: the mix has no image rule. Give `image` in its recipe and make it again.")
    family_of(rule, mix.path)
    limit = min(recipe.data.max_length or positions, positions)
    check_lengths(mix, limit, recipe.data.too_long)
    plan, trained = recipe.plan, ~held_out(mix, recipe.held_out)
    made = make_plan(
        np.minimum(mix.numpy("tokens").astype(np.int64), limit)[trained],
        mix.numpy("image_count").astype(np.int64)[trained],
        seed=plan.seed,
        global_batch=plan.global_batch,
        world_size=ranks,
        accumulation=plan.accumulation,
        strategy=plan.strategy,
        max_tokens=plan.max_tokens,
    )
    if recipe.evaluate is not None:
        check_evaluation(recipe, mix, limit, recipe.steps or math.ceil((recipe.epochs or 1) * made.steps))
    return Job(recipe, stage, mix, folder, rule, information["template"], tuple(notes))


def evaluation_mix(recipe: Recipe, mix: Dataset) -> Dataset:
    """What the recipe evaluates on: its own mix, of which it holds rows out, or another one."""
    assert recipe.evaluate is not None
    return mix if recipe.evaluate.mix is None else open_mix(recipe.evaluate.mix, None)


def check_evaluation(recipe: Recipe, mix: Dataset, limit: int, steps: int) -> None:
    """Raise InputError for an evaluation that would never run, or could not be compared with the training's loss."""
    settings = recipe.evaluate
    assert settings is not None
    if settings.every > steps:
        raise InputError(
            f"evaluate.every is {settings.every}, and the run has {steps} steps. Set it to {steps} or less."
        )
    other = evaluation_mix(recipe, mix)
    if settings.mix is None:
        if not len(evaluated(mix, settings.split, settings.rows)):
            raise InputError(
                f"{mix.path}: evaluate.split {settings.split} holds out none of its {mix.rows} rows. Raise it, or name "
                "another mix with evaluate.mix."
            )
        return
    if other.as_parent().sha256 == mix.as_parent().sha256:
        raise InputError(f"evaluate.mix {other.path} is what is trained on. Hold a share of it out: evaluate.split.")
    ours, theirs = mix.manifest.info, other.manifest.info
    for name, one, another in (
        ("template", ours["template"], theirs["template"]),
        ("image rule", ours.get("image"), theirs.get("image")),
        ("tokenizer", ours["tokenizer"]["hash"], theirs["tokenizer"]["hash"]),
    ):
        if one != another:
            raise InputError(
                f"evaluate.mix {other.path}: made with {name} {another}, but {mix.path} with {one}. Make it again with "
                "the same."
            )
    check_lengths(other, limit, recipe.data.too_long)


def check_installed(recipe: Recipe, stage: Stage) -> None:
    """Raise InputError for a package or compiler that the recipe needs and this machine lacks, and for settings that
    exclude each other."""
    wanted = [("wandb", "`wandb`", "wandb", "leave it out")] if recipe.wandb is not None else []
    if stage.adapter:
        wanted.append(("peft", f"stage {recipe.stage}", "'lavabeam[train]'", "use finetune"))
    if stage.bits == 4:
        wanted.append(("bitsandbytes", f"stage {recipe.stage}", "'lavabeam[qlora]'", "use finetune_lora"))
    if recipe.liger:
        wanted.append(("liger_kernel", "liger: true", "'lavabeam[liger]'", "leave it out"))
    for module, what, package, otherwise in wanted:
        if importlib.util.find_spec(module) is None:
            raise InputError(f"{what} needs {module}, which is not installed: pip install {package}, or {otherwise}.")
    if stage.bits == 4 and recipe.deepspeed.zero == 3:
        raise InputError(f"stage {recipe.stage}: ZeRO-3 cannot shard 4-bit weights. Set `deepspeed: {{zero: 2}}`.")
    if recipe.engine == "fsdp2":
        check_fsdp2(recipe, stage)
    if recipe.compile and not any(shutil.which(name) for name in COMPILERS):
        raise InputError("compile: true needs a C compiler (gcc, g++ or clang), and none is found. Leave it out.")


def check_heads(recipe: Recipe, text: dict[str, Any]) -> None:
    """Raise InputError where the ranks that share a row cannot share the language model's heads evenly."""
    heads = int(text.get("num_attention_heads", 32))
    shared = int(text.get("num_key_value_heads") or heads)
    common = math.gcd(heads, shared)
    if common % recipe.sequence_parallel:
        fitting = ", ".join(str(number) for number in range(1, common + 1) if common % number == 0)
        raise InputError(
            f"sequence_parallel: {recipe.sequence_parallel} ranks cannot share the language model's {heads} heads and "
            f"{shared} key-value heads evenly. Set one of {fitting}."
        )


def check_fsdp2(recipe: Recipe, stage: Stage) -> None:
    """Raise InputError for what only DeepSpeed does here."""
    if stage.bits == 4:
        raise InputError(f"stage {recipe.stage}: fsdp2 cannot divide 4-bit weights. Set `engine: deepspeed`.")
    if recipe.deepspeed.offload != "none":
        raise InputError(
            f"engine: fsdp2 does not offload, and deepspeed.offload is {recipe.deepspeed.offload!r}. Set `engine: "
            "deepspeed`, or `deepspeed: {offload: none}`."
        )


def model_path(path: str) -> Path:
    """The model folder that `path` means: itself, or `model` inside a run folder."""
    inner = Path(path) / "model"
    return inner if (inner / "config.json").is_file() else Path(path)


def _check_parts(recipe: Recipe, mix: Dataset, rule: ImageRule | None) -> dict[str, Any]:
    """Check the parts of a new model; returns the language model's configuration."""
    projector = recipe.model.projector
    if projector is not None and not Path(projector).is_file():
        raise InputError(f"{projector}: no such file. Give the mm_projector.bin of a pretraining run.")
    tokenizer = load_tokenizer(recipe.model.tokenizer or str(recipe.model.llm))
    counted = mix.manifest.info["tokenizer"]["hash"]
    if tokenizer.hash != counted:
        raise InputError(
            f"{tokenizer.where}: this tokenizer ({tokenizer.hash[:12]}) is not the one that {mix.path} was "
            f"counted with ({counted[:12]}). Make the mix again with it."
        )
    check_template(tokenizer, mix.manifest.info["template"])
    if rule is not None:
        check_tower(str(recipe.model.tower), rule)
    config = check_llm(str(recipe.model.llm))
    check_vocabulary(config, tokenizer, str(recipe.model.llm))
    return config
