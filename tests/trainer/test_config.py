"""Recipes: defaults, overrides, and one clear error for each misspelt or impossible key."""

import pytest

from schemas.errors import InputError
from trainer.config import load_recipe, save_recipe


def test_defaults_are_filled_in_and_survive_saving(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file())
    assert (recipe.plan.strategy, recipe.deepspeed.zero, recipe.checkpoints.every) == ("balanced", 2, 0)
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert load_recipe(tmp_path / "saved.yaml") == recipe


def test_overrides_replace_dotted_keys(recipe_file):
    recipe = load_recipe(recipe_file(), {"plan.global_batch": 2, "optimizer.rates": {"tower": 2e-6}})
    assert recipe.plan.global_batch == 2
    assert recipe.optimizer.rates == {"tower": 2e-6}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plan__global_bach": 4}, ["global_bach", "global_batch"]),
        ({"optimizer__rates": {"vision": 1e-6}}, ["rates", "tower"]),
        ({"epochs": 1.0}, ["epochs", "steps", "not both"]),
        ({"model__tower": "a", "model__llm": "b"}, ["checkpoint", "tower"]),
        ({"model__projector": "mm_projector.bin"}, ["`projector` would do nothing"]),
        ({"model__select_layer": -1}, ["`select_layer` would do nothing"]),
        ({"deepspeed": {"zero": 2, "offload": "all"}}, ["zero: 3"]),
        ({"deepspeed": {"zero": 0, "offload": "optimizer"}}, ["offload", "zero"]),
    ],
)
def test_wrong_recipes_are_refused(recipe_file, changes, words):
    with pytest.raises(InputError) as caught:
        load_recipe(recipe_file(**changes))
    for word in ["recipe.yaml", *words]:
        assert word in str(caught.value)
