"""Recipes: defaults, overrides, and one clear error for each misspelt or impossible key."""

import pytest

from schemas.errors import InputError
from trainer import runfolder
from trainer.config import load_recipe, load_saved_recipe, save_recipe
from trainer.preflight import check


def test_defaults_are_filled_in_and_survive_saving(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file())
    assert (recipe.plan.strategy, recipe.deepspeed.zero, recipe.checkpoints.every) == ("balanced", 2, 0)
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert load_recipe(tmp_path / "saved.yaml") == recipe


def test_a_run_folder_with_the_old_key_names_is_read(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file(optimizer__learning_rates={"projector": 2e-6}))
    save_recipe(recipe, tmp_path / "old.yaml")
    text = (tmp_path / "old.yaml").read_text()
    (tmp_path / "old.yaml").write_text(text.replace("learning_rate", "rate"))
    assert load_saved_recipe(tmp_path / "old.yaml") == recipe


def test_renamed_keys_keep_the_fingerprint_of_a_run(recipe_file, monkeypatch):
    """A checkpoint of a run with the old key names can be resumed."""
    monkeypatch.setattr(runfolder, "fingerprint", lambda settings, *_: set(settings["optimizer"]))
    names = runfolder.run_fingerprint(check(load_recipe(recipe_file()), 1))
    assert names == {"rate", "rates", "weight_decay", "betas", "epsilon", "warmup", "schedule", "clip"}


def test_overrides_replace_dotted_keys(recipe_file):
    recipe = load_recipe(recipe_file(), {"plan.global_batch": 2, "optimizer.learning_rates": {"llm": 2e-6}})
    assert recipe.plan.global_batch == 2
    assert recipe.optimizer.learning_rates == {"llm": 2e-6}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plan__global_bach": 4}, ["global_bach", "global_batch"]),
        ({"optimizer__learning_rates": {"vision": 1e-6}}, ["learning_rates", "tower"]),
        ({"optimizer__rate": 1e-3}, ["optimizer", "unknown key 'rate', now called 'learning_rate'"]),
        ({"optimizer__rates": {"tower": 1e-6}}, ["unknown key 'rates', now called 'learning_rates'"]),
        ({"optimizer__lerning_rate": 1e-3}, ["optimizer.lerning_rate", "Did you mean 'learning_rate'?"]),
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


def test_an_unknown_strategy_is_refused_with_the_nearest_known_one(recipe_file):
    with pytest.raises(InputError, match=r"plan\.strategy.*'balance' is unknown\. Did you mean 'balanced'\?"):
        load_recipe(recipe_file(plan__strategy="balance"))
