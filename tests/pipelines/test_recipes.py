"""Data recipes: what the keys of a line mean."""

import json

import pytest

from pipelines.engine.runners import Runner
from pipelines.recipes import load_recipe, preview_recipe, run_recipe
from schemas import Dataset
from schemas.errors import InputError

LOCAL = Runner("local", 1)


@pytest.fixture
def recipe(tmp_path):
    """A recipe of imports into one dataset, each a list of one URL: (name, other keys of the line)."""

    def made(*lines):
        steps = []
        for name, keys in lines:
            (tmp_path / f"{name}.csv").write_text(f"url\n{name}\n")
            order = {"importer": "url_list", "to": "p", "path": str(tmp_path / f"{name}.csv"), **keys}
            steps.append({"import": order})
        (tmp_path / "r.yaml").write_text(json.dumps({"steps": steps}))
        return load_recipe(tmp_path / "r.yaml", tmp_path)

    return made


def urls(tmp_path):
    return [row["url"] for batch in Dataset.open(tmp_path / "p").batches(["url"]) for row in batch.to_pylist()]


def test_a_source_of_a_recipe_is_appended_or_replaces_where_its_line_says_so(recipe, tmp_path):
    both = recipe(("a", {}), ("b", {"append": True}))
    assert [one.made for one in run_recipe(both, LOCAL)] == [1, 1]
    assert [one.made for one in run_recipe(both, LOCAL)] == [0, 0]
    assert urls(tmp_path) == ["a", "b"]
    instead = recipe(("c", {"replace": True}))
    assert [one.removed for one, _ in preview_recipe(instead)] == [2]
    list(run_recipe(instead, LOCAL))
    assert urls(tmp_path) == ["c"]


def test_a_second_source_without_a_word_is_refused_and_so_are_both_words(recipe):
    with pytest.raises(InputError, match=r"url_list \S+b.csv is another source. --append adds"):
        list(run_recipe(recipe(("a", {}), ("b", {})), LOCAL))
    with pytest.raises(InputError, match=r"step 1 \(import\): append and replace exclude each other"):
        recipe(("a", {"append": True, "replace": True}))
