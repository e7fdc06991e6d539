"""docs/recipes.md is what the models of recipes say, about every key."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from lavabeam.cli.main import app
from lavabeam.recipes import published
from lavabeam.recipes.keys import page, rows_of
from pipelines import catalog
from pipelines.mix.recipe import MixRecipe
from trainer.config import Recipe

DOCS = Path(__file__).parents[2] / "docs" / "recipes.md"


def rows(text):
    """(section, key, value, default, meaning) of each row of the page's tables."""
    section, found = "", []
    for line in text.splitlines():
        if line.startswith("#"):
            section = line.lstrip("# ")
        elif line.startswith("| `"):
            found.append((section, *(cell.strip() for cell in line.strip("|").split(" | "))))
    return found


def test_the_page_is_what_the_models_say():
    assert DOCS.read_text(encoding="utf-8") == page(), "run `lavabeam recipes --keys > docs/recipes.md`"
    assert CliRunner().invoke(app, ["recipes", "--keys"]).stdout == page()


def test_every_key_has_a_value_a_default_and_a_meaning():
    found = rows(page())
    assert len(found) > 300
    assert [row for row in found if len(row) != 5 or not all(row)] == []


def test_every_step_importer_and_kind_of_recipe_is_there():
    sections = {row[0] for row in rows(page())}
    expected = {*catalog.STEPS, *(f"importer: {name}" for name in catalog.IMPORTERS)}
    assert sections == expected | {"Data recipes", "import", "mix", "Mixes", "Training recipes"}


@pytest.mark.parametrize(("kind", "section"), [("mixes", "Mixes"), ("training", "Training recipes")])
def test_the_keys_of_the_published_recipes_are_there(kind, section):
    known = {row[1].strip("`") for row in rows(page()) if row[0] == section}
    for one in published(kind):
        values = yaml.safe_load(one.path.read_text(encoding="utf-8"))
        inner = {f"{key}.{name}" for key, value in values.items() if isinstance(value, dict) for name in value}
        assert {*values} <= known
        assert {key for key in inner if not key.startswith(("sources.", "optimizer.learning_rates"))} <= known


def test_inner_keys_are_dotted():
    assert {"sources.*.weight", "pictures.max_side"} <= {row[0] for row in rows_of(MixRecipe)}
    assert {"plan.seed", "wandb.project"} <= {row[0] for row in rows_of(Recipe)}
    engines = {row[0] for row in rows_of(catalog.step("caption").Config)}
    assert {"engine[labels].top", "engine[endpoint].price.input", "engine[transformers].model"} <= engines
    assert "kinds.*.sources" in {row[0] for row in rows_of(catalog.step("generate").Config)}
