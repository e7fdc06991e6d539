"""`lavabeam export` as a user meets it."""

import json

from click.testing import CliRunner

from lavabeam.cli import exporting
from lavabeam.cli.main import app
from pipelines.exporters.config import ExportConfig
from schemas.errors import InputError
from tests.pipelines.exporting import photos, picture, talks

ROW = {"id": 1, "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>"}], "model": ""}


def call(*arguments: str):
    return CliRunner().invoke(app, ["export", *arguments])


def made(tmp_path, *rows):
    (tmp_path / "in.json").write_text(json.dumps(list(rows)))
    photos(tmp_path / "photos", {"a.jpg": picture(1)})
    return talks(tmp_path / "talks", tmp_path / "in.json").path


def test_rows_are_written_and_counted(tmp_path):
    talks, out = made(tmp_path, ROW, {**ROW, "image": "no.jpg"}), tmp_path / "out"
    options = ["--images", str(tmp_path / "photos"), "--checked"]
    done = call(talks, "--to", "llava_json", str(out), *options)
    assert done.exit_code == 0
    assert "1 of 2 rows written; left out: 1 image_missing." in done.output
    assert json.loads((out / "llava.json").read_text()) == [ROW]
    again = json.loads(call(talks, str(out), "--to", "llava_json", *options, "--json").output)
    assert (again["made"], again["exported"], again["left_out"]) == (0, 1, {"image_missing": 1})


def test_no_row_is_exit_code_3(tmp_path):
    talks = made(tmp_path, {**ROW, "image": "no.jpg"})
    done = call(talks, "--to", "webdataset", str(tmp_path / "out"), "--images", str(tmp_path / "photos"))
    assert done.exit_code == 3
    assert "no row of" in done.output


def test_options_that_make_no_sense(tmp_path):
    talks = made(tmp_path, ROW)
    wrong = call(talks, "--to", "parquet", str(tmp_path / "out"), "--shard-size", "many").exception
    assert isinstance(wrong, InputError)
    assert "shard_size: 'many' is not a size" in str(wrong)
    assert "is not one of" in call(talks, "--to", "csv", str(tmp_path / "out")).output
    assert "no dataset here" in str(call(str(tmp_path), "--to", "parquet", str(tmp_path / "out")).exception)


def test_the_command_names_every_format():
    assert set(exporting.FORMATS) == set(ExportConfig.model_fields["to"].annotation.__args__)
