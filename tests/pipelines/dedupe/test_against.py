"""Rows that repeat a row of another dataset: copies of that one, which stays as it is."""

import json

import pytest

from pipelines.dedupe import Dedupe, DedupeConfig
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from pipelines.recipes import load_recipe
from schemas import Dataset
from schemas.errors import InputError
from tests.pipelines.dedupe.test_step import found_in, known_of

OWN = [("a", 0, 1, 300), ("b", 1, 2, 200), ("c", 2**40 - 1, 3, 200), ("d", 2**64 - 2**40, 4, 200), ("e", None)]
OTHER = [("x", 3, 9, 100), ("y", 2**40 - 1, 3, 100), ("b", 2**63 + 2**62 + 2**20 * 77777, 8, 100)]


@pytest.fixture
def two(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known_of("own", OWN, [2])
    known_of("other", OTHER, [1])


def test_a_row_of_another_dataset_comes_before_all_of_ones_own(two):
    run_step(Dedupe(DedupeConfig()), "other", Runner("local", 1))
    before = Dataset.open("other").manifest
    summary = run_step(Dedupe(DedupeConfig(against=("other",))), "own", Runner("local", 2))
    assert found_in("own") == {
        "a": ("a", 2, "other:x", "near_copy"),
        "b": ("a", 2, "other:x", "near_copy"),
        "c": ("c", 1, "other:y", "copy"),
        "d": ("d", 1, None, "ok"),
        "e": (None, None, None, "no_image"),
    }
    assert summary.rows == 5 and Dataset.open("other").manifest == before
    entry = Dataset.open("own").manifest.steps["dedupe"]
    assert entry.config["against"] == ["other"] and entry.depends_on["against.0_manifest"] == before.number
    assert run_step(Dedupe(DedupeConfig(against=("other",))), "own", Runner("local", 1)).made == 0
    assert run_step(Dedupe(DedupeConfig()), "own", Runner("local", 1)).made == 2
    assert found_in("own")["b"] == ("a", 2, "a", "near_copy")


def test_what_cannot_be_compared_with_is_one_error_before_any_work(two):
    with pytest.raises(InputError, match=r"--against other: lacks the column 'dedupe_sha256'. Run `lavabeam dedupe"):
        run_step(Dedupe(DedupeConfig(against=("other",))), "own", Runner("local", 1))
    with pytest.raises(InputError, match="is the dataset itself"):
        run_step(Dedupe(DedupeConfig(against=("own",))), "own", Runner("local", 1))
    assert "dedupe_keys" not in Dataset.open("own").manifest.steps


def test_several_datasets(two):
    known_of("third", [("q", 2**64 - 2**40, 77, 100)], [])
    for path in ("other", "third"):
        run_step(Dedupe(DedupeConfig()), path, Runner("local", 1))
    run_step(Dedupe(DedupeConfig(against=("other", "third"))), "own", Runner("local", 1))
    assert {key: row[2] for key, row in found_in("own").items()} == {
        "a": "other:x",
        "b": "other:x",
        "c": "other:y",
        "d": "third:q",
        "e": None,
    }


@pytest.mark.parametrize("against", ["other", ["other"]])
def test_a_recipe_finds_the_other_dataset_in_its_folder(two, tmp_path, against):
    run_step(Dedupe(DedupeConfig()), "other", Runner("local", 1))
    (tmp_path / "r.yaml").write_text(json.dumps({"steps": [{"dedupe": {"dataset": "own", "against": against}}]}))
    (action,) = load_recipe(tmp_path / "r.yaml", tmp_path)
    assert action.reads == (str(tmp_path / "own"), str(tmp_path / "other"))
    action.admit(Runner("local", 1))
    action.check()


def test_a_recipe_that_names_no_dataset_is_refused(two, tmp_path):
    (tmp_path / "r.yaml").write_text(json.dumps({"steps": [{"dedupe": {"dataset": "own", "against": 5}}]}))
    with pytest.raises(InputError, match="against"):
        load_recipe(tmp_path / "r.yaml", tmp_path)
