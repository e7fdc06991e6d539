"""`lavabeam report` shows runs and evaluations, without a dataset too."""

import json

from click.testing import CliRunner

from lavabeam.cli.main import app
from schemas.errors import InputError
from tests.lavabeam.evaluation.report.test_results import WORDS, evaluated


def call(*words):
    return CliRunner().invoke(app, ["report", *map(str, words)])


def test_curves_stand_beside_scores(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "inputs.json").write_text("{}")
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    (run / "result.json").write_text(json.dumps({"steps": 2, "last_loss": 1.0}))
    evaluated(tmp_path / "eval", [1.0, 0.0], scored=2, target="run/model", notes=[WORDS])
    done = call("--run", run, "--evaluation", tmp_path / "eval", "--out", tmp_path / "r.html")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "r.html").read_text()
    assert "<polyline" in page and "last loss" in page
    assert "run/model" in page and "40 to 60" in page and "&lt;script&gt;" in page
    assert "<script" not in page


def test_folders_of_another_kind_are_refused(tmp_path):
    assert "not a run folder" in str(call("--run", tmp_path).exception)
    error = call("--evaluation", tmp_path).exception
    assert isinstance(error, InputError) and "holds no scores.json" in str(error)
    assert "Nothing to report on" in call().output
