"""Made-up rows for bench.gpu: their order in both compared ways, and their tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.mixes import Mix, instructions
from schemas.chat import IGNORE
from trainer.config import Recipe
from trainer.models.folder import ModelFolder

IMAGE = 0
"""The image token's id: no tokenizer is involved."""

PACKED, PADDED, ORIGINAL = "balanced, padding-free", "balanced, padded", "original's grouping, padded"


@dataclass(frozen=True)
class Run:
    """One model, stage and way of making steps. `rows`: per step; `batch`: rows of a padded micro-step; `attention`: of
    packed rows, as a recipe's key."""

    model: str
    stage: str
    way: str
    rows: int
    batch: int
    longest: int
    recipe: Recipe
    attention: str = "auto"


def ways(packed: bool) -> tuple[str, str]:
    """Ours, padding-free if the attention kernel supports it, and the original's."""
    return PACKED if packed else PADDED, ORIGINAL


def made_up_mix(run: Run) -> Mix:
    """Lengths like mix665k's; for the tiny model, those of a tower of 16 patches and short texts."""
    if run.model != "tiny":
        mix = instructions(0.01)
        return replace(mix, tokens=np.minimum(mix.tokens, run.longest))
    mix = instructions(0.0005)
    text = np.maximum((mix.tokens - 576 * mix.images) // 16, 4)
    return replace(mix, tokens=np.minimum(text + 16 * mix.images, run.longest))


def order(run: Run, folder: ModelFolder, mix: Mix) -> Any:
    """The epoch plan of the run: ours is bounded by the tokens that the original's micro-step may hold."""
    from trainer.inputs.schedule import cost_model
    from trainer.plan import make_plan
    from trainer.stages import get_stage

    ours = run.way != ORIGINAL
    bound = max(run.batch * run.longest, int(mix.tokens.max()))
    return make_plan(
        mix.tokens,
        mix.images,
        seed=0,
        global_batch=run.rows,
        world_size=1,
        accumulation=1 if ours else run.rows // run.batch,
        strategy="balanced" if ours else "modality_length",
        max_tokens=bound if ours else None,
        padded=run.way != PACKED,
        cost=cost_model(folder, get_stage(run.stage), run.recipe.again),
        grouping_lengths=None if ours else mix.words,
    )


def collate(run: Run, folder: ModelFolder, mix: Mix, rows: np.ndarray) -> dict[str, Any]:
    """A micro-batch of made-up rows: a picture if the row has one, then text, half of it supervised."""
    from trainer.inputs.collate import Collator
    from trainer.inputs.data import Item

    side, vocabulary = folder.rule.image_size, int(folder.text["vocab_size"])
    patches = folder.rule.tokens(side, side)
    items = []
    for row in rows.tolist():
        random = np.random.default_rng(row)
        images, length = int(mix.images[row]), int(mix.tokens[row])
        ids = random.integers(1, vocabulary, length).astype(np.int32)
        ids[: patches * images] = IMAGE
        labels = np.where(np.arange(length) < (length + patches * images) // 2, IGNORE, ids).astype(np.int32)
        pictures = [random.integers(0, 256, (1, 3, side, side), np.uint8) for _ in range(images)]
        items.append(Item(str(row), ids, labels, pictures, [(side, side)] * images))
    return Collator(folder.rule, IMAGE, 1, packed=run.way == PACKED)(items)
