"""Find everything that can be wrong with a training run before a process is started. Needs no torch."""

from __future__ import annotations

import importlib.util
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from schemas.chat import ImageRule, Tokenizer, encode, get_template, load_tokenizer
from schemas.dataset import Dataset
from schemas.errors import InputError
from trainer.config import Recipe
from trainer.inputs.heldout import evaluated, held_out
from trainer.models.families import family_of
from trainer.models.folder import ModelFolder, known_positions
from trainer.models.partcheck import check_checkpoint, check_llm, check_tower, check_vocabulary
from trainer.plan import make_plan
from trainer.stages import Stage, get_stage
from trainer.unused import notes_on_unused

PLAIN = "plain"
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


def check_pictures(mix: Dataset, stage: Stage) -> list[str]:
    """What to know about a mix without a picture. Raises InputError where nothing else would be learnt from."""
    if mix.numpy("image_count").any():
        return []
    if not stage.adapter and "llm" not in stage.trains:
        raise InputError(
            f"{mix.path}: none of its rows has a picture, and only the {' and '.join(stage.trains)} would be trained: "
            "nothing could be learnt. Give a mix with pictures, or train the llm."
        )
    idle = [module for module in stage.trains if module != "llm"]
    return [f"none of the mix's rows has a picture: the {' and '.join(idle)} will not change"] if idle else []


def differences(folder: ModelFolder, mix: Dataset, rule: ImageRule) -> list[str]:
    """How the mix differs from what the checkpoint was trained with, where it can still be trained on."""
    template = mix.manifest.info["template"]
    notes = []
    # Stage 1 has a template of its own by design: a caption after its picture, and nothing else.
    if folder.template not in (None, template) and PLAIN not in (folder.template, template):
        notes.append(f"the checkpoint was trained with template {folder.template}, the mix is made for {template}")
    if folder.rule.mode != rule.mode:
        notes.append(f"the checkpoint was trained with image mode {folder.rule.mode}, the mix is made for {rule.mode}")
    return notes


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


def open_mix(path: str, at: int | None) -> Dataset:
    """The samples dataset of a recipe; raises InputError for another schema, no rows, or one made without `mix`."""
    mix = Dataset.open(path, at)
    if mix.schema_name != "samples":
        raise InputError(
            f"{mix.path}: holds {mix.schema_version}; training reads samples. Make a mix of it: lavabeam mix RECIPE."
        )
    if mix.rows == 0:
        raise InputError(f"{mix.path}: the mix has no rows; `lavabeam show` says why rows were left out.")
    missing = [key for key in ("tokenizer", "template") if not mix.manifest.info.get(key)]
    if missing:
        raise InputError(
            f"{mix.path}: its manifest does not say which {missing[0]} its tokens were counted with. "
            "Make the mix with `lavabeam mix`."
        )
    get_template(mix.manifest.info["template"])
    return mix


def check_agreement(folder: ModelFolder, mix: Dataset, rule: ImageRule) -> None:
    """Raise InputError unless the checkpoint makes exactly the tokens of this mix's rows that the mix counted."""
    counted = mix.manifest.info["tokenizer"]["hash"]
    found = folder.tokenizer.hash
    if counted != found:
        raise InputError(
            f"{folder.path}: its tokenizer ({found[:12]}) is not the one that {mix.path} was counted with "
            f"({counted[:12]}). Make the mix again with `tokenizer: {folder.path}`, or train the model it was made for."
        )
    folder.check_image_token()
    table = folder.text.get("vocab_size")
    if table is not None and folder.tokenizer.vocab_size > table:
        raise InputError(
            f"{folder.path}: its tokenizer has {folder.tokenizer.vocab_size} tokens, but its embeddings only {table} "
            "rows. Assemble the checkpoint again from its tower and llm, which adds the missing rows."
        )
    check_template(folder.tokenizer, mix.manifest.info["template"])
    _check_rule(folder, rule, mix)
    check_checkpoint(folder.path, folder.text)


def _check_rule(folder: ModelFolder, rule: ImageRule, mix: Dataset) -> None:
    """Raise InputError unless the checkpoint computes what the rule counts. The mode may differ where the number of
    tokens is the same (square and pad)."""
    for name in ("image_size", "patch_size"):
        ours, theirs = getattr(rule, name), getattr(folder.rule, name)
        if ours != theirs:
            raise InputError(
                f"{folder.path}: its tower has {name} {theirs}, but {mix.path} was made for {ours}. "
                f"Set `image: {{{name}: {theirs}}}` in the mix's recipe and make it again."
            )
    family = folder.family
    if (found := family.mismatch(rule)) is not None:
        raise InputError(
            f"{folder.path}: cannot read {mix.path}, which was made with image {found}. Make the mix with "
            f"{family.usual}, or train a {family_of(rule, mix.path).model_type} checkpoint."
        )
    probe = [(64, 64), (640, 480), (480, 640), (1000, 300)]
    if [rule.tokens(*size) for size in probe] != [folder.rule.tokens(*size) for size in probe]:
        raise InputError(
            f"{folder.path}: counts {folder.rule.tokens(640, 480)} tokens for a 640x480 picture, {mix.path} counted "
            f"{rule.tokens(640, 480)}. Make the mix with this checkpoint's image rule: {folder.rule.to_dict()}."
        )


def check_lengths(mix: Dataset, limit: int, too_long: str) -> None:
    """Raise InputError when rows are longer than the model allows and the recipe does not say to cut them."""
    if too_long == "cut":
        return
    lengths = mix.numpy("tokens")
    over = np.flatnonzero(lengths > limit)
    if len(over):
        key = mix.take([int(over[0])], ["key"])[0]["key"]
        raise InputError(
            f"{mix.path}: {len(over)} rows are longer than the model's limit of {limit} tokens; the first is row "
            f"{over[0]} (key {key!r}, {lengths[over[0]]} tokens). Set `max_tokens: {limit}` in the mix's recipe, or "
            "`data: {too_long: cut}` here."
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


def check_template(tokenizer: Tokenizer, template: str) -> None:
    """Raise InputError when the tokenizer lacks a control token of the template."""
    turns = [{"role": role, "content": [{"type": "text", "text": "a"}]} for role in ("system", "user", "assistant")]
    encode(turns, [], get_template(template), tokenizer)
