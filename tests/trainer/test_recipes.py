"""Every shipped training recipe is valid, and says where its values come from."""

from pathlib import Path

import pytest

from trainer.config import load_recipe
from trainer.plan import ALL_STRATEGIES
from trainer.stages import get_stage

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "train").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_cites_its_source(path):
    recipe = load_recipe(path)
    get_stage(recipe.stage, recipe.train)
    assert recipe.plan.strategy in ALL_STRATEGIES
    head = path.read_text(encoding="utf-8").partition("stage:")[0]
    assert any(word in head for word in ("arXiv", "scripts/", "card of", "-next.yaml", "docs/training.md"))


def test_the_published_rates_are_those_of_the_papers():
    rates = {path.stem: (load_recipe(path).optimizer.rate, load_recipe(path).plan.global_batch) for path in RECIPES}
    assert rates["v1.5-7b-pretrain"] == (1e-3, 256)
    assert rates["v1.5-13b-finetune"] == (2e-5, 128)
    assert rates["v1.5-7b-lora"] == (2e-4, 128)
    assert rates["llama-2-pretrain"] == (2e-3, 128)
    assert load_recipe(next(p for p in RECIPES if p.stem == "llama-3-8b-next")).optimizer.rates == {"tower": 2e-6}
