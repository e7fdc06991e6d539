"""All epoch plans as one sequence of steps: the position of a run is the number of optimizer steps done."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np

from schemas.dataset import Dataset
from schemas.errors import InputError
from trainer.config import Recipe
from trainer.inputs.heldout import held_out
from trainer.inputs.rows import Rows, original_lengths
from trainer.models.folder import ModelFolder
from trainer.models.sizes import Shape, language_count, projector_count, tower_count
from trainer.plan import Plan, make_plan, strategy_of
from trainer.planning.cost import CostModel
from trainer.stages import Stage, get_stage

KEPT_EPOCHS = 2


class Schedule:
    """Which rows a rank trains on in which step, over all epochs. `trained`: their numbers in the mix; everything else
    counts rows without the held-out ones. `lengths`, `images`, `tiles`: of each."""

    def __init__(self, mix: Dataset, recipe: Recipe, folder: ModelFolder, world_size: int, packed: bool):
        rows = Rows.of(mix, folder.rule, folder.longest(recipe.data.max_length))
        self.trained = np.flatnonzero(~held_out(mix, recipe.held_out))
        self.lengths, self.images, self.tiles = (
            values[self.trained] for values in (rows.lengths, rows.images, rows.tiles)
        )
        self.recipe, self.world_size, self.packed = recipe, world_size, packed
        self.cost = cost_model(folder, get_stage(recipe.stage, recipe.train), recipe.again)
        if len(self.lengths) == 0:
            raise InputError(f"{mix.path}: the mix has no rows. `lavabeam show` says why rows were left out.")
        original = strategy_of(recipe.plan.strategy).original
        self.grouping_lengths = original_lengths(mix, recipe.plan.strategy)[self.trained] if original else None
        self._plans: OrderedDict[int, Plan] = OrderedDict()
        self.steps_per_epoch = self.plan(0).steps
        self.steps = recipe.steps or math.ceil((recipe.epochs or 1) * self.steps_per_epoch)

    def plan(self, epoch: int) -> Plan:
        """The plan of an epoch; the last few are kept."""
        if epoch not in self._plans:
            self._plans[epoch] = self._plan(epoch)
            while len(self._plans) > KEPT_EPOCHS:
                self._plans.popitem(last=False)
        return self._plans[epoch]

    def micro_batches(self, step: int, rank: int) -> list[np.ndarray]:
        """Rows of each micro-step of a rank in optimizer step `step` (counted over all epochs)."""
        epoch, inner = divmod(step, self.steps_per_epoch)
        return self.plan(epoch).micro_batches(inner, rank)

    def load(self, step: int) -> tuple[int, int, float]:
        """(useful tokens, tokens with padding, rank balance) of a step; balance is mean over maximum work of ranks."""
        ranks = [self.micro_batches(step, rank) for rank in range(self.world_size)]
        useful = sum(int(self.lengths[rows].sum()) for batches in ranks for rows in batches)
        held = [[self.held(rows) for rows in batches] for batches in ranks]
        totals = [sum(batches) for batches in held]
        return useful, sum(totals), float(np.mean(totals) / max(*totals, 1))

    def held(self, rows: np.ndarray) -> int:
        """Tokens that a micro-batch occupies, padding included."""
        lengths = self.lengths[rows]
        if len(lengths) == 0:
            return 0
        return int(lengths.sum()) if self.packed else int(lengths.max()) * len(lengths)

    def _plan(self, epoch: int) -> Plan:
        plan = self.recipe.plan
        return make_plan(
            self.lengths,
            self.tiles,
            seed=plan.seed,
            epoch=epoch,
            global_batch=plan.global_batch,
            world_size=self.world_size,
            accumulation=plan.accumulation,
            strategy=plan.strategy,
            max_tokens=plan.max_tokens,
            padded=not self.packed,
            cost=self.cost,
            grouping_lengths=self.grouping_lengths,
        )


def cost_model(folder: ModelFolder, stage: Stage, again: float | None) -> CostModel:
    """The cost of a token and a tile at the sizes of this model. again: `Recipe.again`."""
    shape, rule = Shape.of(folder.text), folder.rule
    return CostModel.from_sizes(
        language_parameters=float(language_count(folder.text).products),
        hidden_size=shape.width,
        layers=shape.layers,
        vision_parameters=float(tower_count(folder.tower, folder.vision).products),
        projector_parameters=float(projector_count(folder).products),
        tokens_per_image=rule.side**2 + rule.class_token,
        train_language="llm" in stage.trains,
        train_vision="tower" in stage.trains,
        checkpointing=1.0 if again is None else again,
    )
