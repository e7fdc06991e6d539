"""The files for Dataflow agree with the code: a template's parameters with `lavabeam run`, the image with Beam."""

import json
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from lavabeam import flex
from lavabeam.cli import cloud
from lavabeam.cli.data import run
from lavabeam.cli.main import app
from pipelines import catalog
from pipelines.engine.dataflow import DataflowConfig
from schemas.errors import InputError

ROOT = Path(__file__).parents[3]


def call(*words: str):
    return CliRunner().invoke(app, list(words))


def test_parameters_are_the_options_of_run(tmp_path):
    assert call("dataflow", "template", str(tmp_path / "x.json"), "--image", "r/i:1").exit_code == 0
    made = json.loads((tmp_path / "x.json").read_text())
    assert json.loads(call("dataflow", "template", "--image", "r/i:1").stdout) == made
    parameters = {one["name"]: one for one in made["metadata"]["parameters"]}
    options = {param.name for param in run.get_params(click.Context(run))}
    assert parameters.keys() == options - cloud.SAID_BY_DATAFLOW - cloud.LEFT_OUT - {"help"}
    assert parameters.keys() >= {"recipe", "folder", "settings", "retry", "min_ok", "max_workers", "machine_type"}
    assert [name for name, one in parameters.items() if not one["isOptional"]] == ["recipe"]
    assert parameters["image"]["defaultValue"] == made["image"] == "r/i:1"
    assert all(one["helpText"] and one["label"] for one in parameters.values())


def test_a_launch_is_the_command_that_its_parameters_say():
    launched = {
        "recipe": "/recipes/photos.yaml",
        "settings": "urls=gs://b/list.csv,limit=7",
        "folder": "gs://b/data",
        "max_workers": "20",
        "public_ips": "false",
        "as_json": "true",
    }
    by_dataflow = {
        "runner": "DataflowRunner",
        "project": "p",
        "region": "europe-west4",
        "temp_location": "gs://b/temp",
        "template_location": "gs://b/staging/job_object",
        "job_name": "photos",
        "sdk_container_image": "r/i:1",
    }
    words, flags = flex.split([f"--{name}={value}" for name, value in {**launched, **by_dataflow}.items()])
    assert words[:2] == ["run", "/recipes/photos.yaml"]
    context = run.make_context("run", words[1:])
    assert context.params["settings"] == ("urls=gs://b/list.csv", "limit=7")
    assert (context.params["folder"], context.params["as_json"]) == ("gs://b/data", True)
    assert (context.params["runner"], context.params["project"]) == ("dataflow", ("p",))
    assert (context.params["max_workers"], context.params["public_ips"]) == (("20",), False)
    assert context.params["image"] == ("r/i:1",)
    assert {f"--{name}={value}" for name, value in by_dataflow.items()} | {"--max_num_workers=1"} <= set(flags)
    assert not any("recipes" in flag or "settings" in flag for flag in flags)


def test_a_launch_without_a_recipe_is_one_message():
    with pytest.raises(InputError, match="the parameter 'recipe' is missing"):
        flex.split(["--project=p", "--region=r", "--temp_location=gs://b/t", "--image=r/i:1"])


def test_the_workers_command_ends_as_ours_does(caplog):
    flex.run_command(["recipes"])
    assert any("cc3m" in line or "pretrain" in line for line in caplog.messages)
    with pytest.raises(RuntimeError, match=r"lavabeam run nothing\.yaml: exit code 2: .*nothing\.yaml"):
        flex.run_command(["run", "nothing.yaml"])


def test_the_image_has_the_pinned_beam_and_python():
    dockerfile = (ROOT / "Dockerfile").read_text()
    (pinned,) = re.findall(r"^apache-beam==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert re.findall(r"--from=apache/beam_python(\S+)_sdk:(\S+)", dockerfile) == [("3.11", pinned)]
    assert set(re.findall(r"^FROM python:(\d+\.\d+)-slim", dockerfile, re.M)) == {"3.11"}
    assert re.findall(r"^USER (.+)$", dockerfile, re.M) == ["lavabeam"]


def test_an_option_of_a_step_comes_before_one_of_dataflow():
    """Nothing else that we have hides an option; what another package has may."""
    classes = [*map(catalog.step, catalog.STEPS), *map(catalog.importer, catalog.IMPORTERS)]
    hidden = {kind.name: DataflowConfig.model_fields.keys() & kind.Config.model_fields.keys() for kind in classes}
    assert {name: names for name, names in hidden.items() if names} == {
        "huggingface": {"image"},
        "huggingface_chat": {"image"},
    }
    shown = call("import", "huggingface", "--help").output
    assert len(re.findall(r"^ +--image ", shown, re.M)) == 1
    assert shown.index("--image ") < shown.index("Options of --runner dataflow") < shown.index("--machine-type")


def test_options_of_dataflow_are_shown_where_runners_are():
    for words in (("run",), ("mix",), ("dedupe",), ("import", "url_list")):
        shown = call(*words, "--help").output
        assert "Options of --runner dataflow" in shown and "--temp-location" in shown
    assert "--temp-location" not in call("show", "--help").output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--runner", "dataflow"], "--project, --region, --temp-location are missing"),
        (["--runner", "dataflow", "--project", "p", "--region", "r"], "--temp-location is missing"),
        (["--project", "p", "--max-workers", "3"], "--project, --max-workers: only for --runner dataflow"),
        (["--runner", "dataflow", "--max-workers", "many"], "max_workers"),
        (["--runner", "flink"], "Beam would fetch a job server"),
    ],
)
def test_wrong_options_are_one_message(words, message, tmp_path):
    for command in (["dedupe", "photos"], ["import", "url_list", "photos", "--path", "x.csv"]):
        error = call(*command, *words).exception
        assert isinstance(error, InputError) and message in str(error)
