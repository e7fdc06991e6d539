"""Every DAG run for real, on small data, as `dag.test()` runs it."""

import shutil

import pytest

from schemas import Dataset
from tests.dags.airflow.conftest import manifest
from tests.dags.conftest import DATES, seen

DONE = {"success"}
TRAINING = {"train_recipe": "finetune.yaml", "pretrain_recipe": "pretrain.yaml", "pretrain_samples": "pretrain"}


@pytest.fixture
def copied(undisturbed, tmp_path):
    """A folder of this test's own, after three dates."""
    shutil.copytree(undisturbed / "photos", tmp_path / "photos")
    return tmp_path


@pytest.fixture(scope="session")
def talked(undisturbed, driver, tmp_path_factory):
    """Three dates and their conversations."""
    folder = tmp_path_factory.mktemp("talked")
    shutil.copytree(undisturbed / "photos", folder / "photos")
    states = driver.run("generate", folder=str(folder))
    assert states == {"caption": "skipped", "generate": "success", "announce_conversations": "success"}
    return folder


@pytest.fixture(scope="session")
def mixed(talked, driver, recipes):
    """The folder with both training sets."""
    states = driver.run("mix", **mix_of(talked, recipes))
    assert set(states.values()) == DONE, driver.said()[-5000:]
    return talked


def mix_of(folder, recipes):
    named = {"mix_recipe": recipes / "mix.yaml", "pretrain_mix_recipe": recipes / "mix-pretrain.yaml"}
    return {"folder": str(folder), "pretrain_samples": "pretrain", **{name: str(path) for name, path in named.items()}}


def test_every_dag_is_loaded_and_documented(driver):
    assert driver.loaded["errors"] == {}
    names = ("gc", "generate", "ingest", "mix", "retry_failed", "train", "verify")
    assert sorted(driver.loaded["dags"]) == [f"lavabeam_{name}" for name in names]
    for dag in driver.loaded["dags"].values():
        assert dag["doc"] and dag["max_active_runs"] == 1
        assert all(schema["type"] and schema["description"] for schema in dag["params"].values())
        assert all(pool.startswith("lavabeam") and timeout for pool, _, timeout in dag["tasks"].values())


def test_a_date_that_was_run_before_does_no_work(driver, ingested, site):
    before, requests = manifest(ingested / "photos"), site.requests.total()
    announced = driver.airflow.announced("images")
    states = driver.run("ingest", DATES[0], folder=str(ingested))
    assert states.pop("announce_images") == "skipped"
    assert set(states.values()) == DONE
    assert (manifest(ingested / "photos"), site.requests.total()) == (before, requests)
    assert driver.airflow.announced("images") == announced
    expected = {"path": f"{ingested}/photos", "manifest": before, "rows": 3, "schema": "images/1.0"}
    assert announced[-1] == expected


def test_a_date_without_a_list_is_skipped(driver, tmp_path):
    assert set(driver.run("ingest", "2026-11-09", folder=str(tmp_path)).values()) == {"skipped"}


def test_a_parameter_out_of_its_schema_is_refused(driver):
    assert "min_accuracy" in driver.run("train", min_accuracy=2)["error"]


def test_bad_input_fails_at_once_and_is_told(driver, alerts, tmp_path):
    states = driver.run("gc", folder=str(tmp_path), conversations=None, samples=None)
    assert states["gc_images"] == "failed"
    assert states["gc_samples"] == "skipped"
    assert driver.said().count(f"exit code 2: lavabeam: {tmp_path}/photos") == 1
    assert [
        text for text in alerts[1] if text.startswith("lavabeam_gc.gc_images failed in run") and str(tmp_path) in text
    ]


def test_too_few_usable_rows_fail_and_a_larger_budget_goes_on(driver, copied):
    assert driver.run("generate", folder=str(copied), max_cost=0)["generate"] == "failed"
    assert "exit code 3" in driver.said()
    assert driver.run("generate", folder=str(copied), max_cost=1)["generate"] == "success"


def test_a_second_run_asks_nothing(driver, talked, teacher):
    before, requests = manifest(talked / "talks"), len(teacher.requests)
    assert driver.run("generate", folder=str(talked))["announce_conversations"] == "skipped"
    assert (manifest(talked / "talks"), len(teacher.requests)) == (before, requests)


def test_both_stages_are_trained_once_for_each_version_of_a_mix(driver, mixed, recipes):
    runs = {"folder": str(mixed), "runs": str(mixed / "runs"), "processes": 1}
    named = {name: str(recipes / value) if "." in value else value for name, value in TRAINING.items()}
    asked = {"questions": str(mixed / "finetune"), "evaluate_options": {"limit": 1, "max_tokens": 2}}
    states = driver.run("train", **runs, **named, **asked)
    assert set(states.values()) == DONE, driver.said()[-5000:]
    folder = f"{mixed}/runs/finetune-1-on-pretrain-1"
    announced = driver.airflow.announced("checkpoint")
    expected = {"model": f"{folder}/model", "steps": 2, "path": f"{mixed}/finetune", "manifest": 1}
    assert expected.items() <= announced[-1].items()
    assert 0 <= announced[-1]["accuracy"] <= 1

    again = driver.run("train", **runs, **named)
    assert again["pretrain"] == again["finetune"] == "success"
    assert driver.said().count("nothing to do") == 2


def test_what_failed_is_tried_again(driver, copied, site):
    site.pages["/2026-11-02/gone.png"] = site.pages["/2026-11-02/small.png"]
    states = driver.run("retry_failed", folder=str(copied), retry="not_found", conversations=None)
    del site.pages["/2026-11-02/gone.png"]
    assert states["announce_images"] == "success"
    assert states["retry_generate"] == states["announce_conversations"] == "skipped"
    assert seen(copied / "photos")["2026-11-02/000000002"][1] == "ok"


def test_garbage_is_collected(driver, copied):
    newest = manifest(copied / "photos")
    only = {"folder": str(copied), "conversations": None, "samples": None, "older_than": "0.1s"}
    assert driver.run("gc", **only)["gc_images"] == "success"
    assert len(list((copied / "photos").rglob("manifest*1.json"))) == 0
    assert Dataset.open(copied / "photos").manifest.number == newest


def test_a_dag_of_ten_lines(driver, ingested):
    assert driver.run("verify", folder=str(ingested)) == {"verify": "success"}
