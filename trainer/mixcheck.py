"""Whether a mix can be trained on: by itself, and by the model that a recipe names. Needs no torch."""

from __future__ import annotations

import numpy as np

from schemas.chat import ImageRule, Tokenizer, encode, get_template
from schemas.dataset import Dataset
from schemas.errors import InputError
from trainer.models.families import family_of
from trainer.models.folder import ModelFolder
from trainer.models.partcheck import check_checkpoint
from trainer.stages import Stage

PLAIN = "plain"


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


def check_template(tokenizer: Tokenizer, template: str) -> None:
    """Raise InputError when the tokenizer lacks a control token of the template."""
    turns = [{"role": role, "content": [{"type": "text", "text": "a"}]} for role in ("system", "user", "assistant")]
    encode(turns, [], get_template(template), tokenizer)
