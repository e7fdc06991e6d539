"""`lavabeam show`: rows by a step's status whatever its column is called, and safe names for pictures."""

import json

import pyarrow as pa
import pytest
from click.testing import CliRunner

from lavabeam.cli.main import app
from lavabeam.cli.rows import file_name
from schemas import Dataset
from schemas.commit import Change, commit
from schemas.entries import StatusRule
from schemas.errors import InputError
from schemas.manifest import StepEntry
from schemas.records import BASE, IMAGE
from schemas.store import Store
from schemas.writing import write_dataset

KEYS = [
    "a",
    "x" * 400,
    "../../etc/passwd",
    "..",
    "",
    "schön/ü b.jpg",
    "a\x00b",
    "CON:*?",
    "x" * 400 + "y",
    "/abs/1.png",
]


def show(*arguments):
    return CliRunner().invoke(app, ["show", *map(str, arguments)])


def lines(*arguments):
    return [json.loads(line) for line in show(*arguments, "--json").stdout.splitlines()]


@pytest.fixture
def photos(tmp_path):
    schema = pa.schema([*BASE["images"], ("image", IMAGE), ("caption", pa.string()), ("caption_status", pa.string())])
    schema = schema.append(pa.field("download_status", pa.string()))
    rows = [
        {"key": key, "image": {"bytes": b"x"}, "caption_status": "ok", "download_status": "ok", "caption": "words"}
        for key in KEYS
    ]
    rows[1] |= {"caption_status": "refused", "download_status": "timeout"}
    folder = tmp_path / "photos"
    return write_dataset(
        folder, "images", [pa.Table.from_pylist(rows[:2], schema), pa.Table.from_pylist(rows[2:], schema)]
    )


def with_rule(dataset, rule):
    step = StepEntry(version=1, config={}, statuses=rule)
    store = Store(dataset.path)
    commit(store, Change(1, dataset.schema_version, steps={"base": step}, info={"changed": True}))
    return Dataset.open(dataset.path)


def test_rows_are_found_by_the_steps_status_not_by_a_column_of_its_name(photos):
    made = with_rule(photos, StatusRule(step="describe", column="caption_status", unusable=["refused"]))
    assert [row["row"] for row in lines(made.path, "--status", "describe=refused")] == [1]
    assert [row["row"] for row in lines(made.path, "--status", "base=ok", "--limit", "2")] == [0, 2]
    assert [row["row"] for row in lines(made.path, "--status", "download=timeout")] == [1]


def test_an_unknown_step_or_status_names_the_known_ones(photos):
    made = with_rule(photos, StatusRule(step="describe", column="caption_status"))
    for wanted in ("captoin=ok", "describe", "="):
        error = show(made.path, "--status", wanted).exception
        assert isinstance(error, InputError)
        assert "expected step=status" in str(error) and "describe" in str(error) and "download" in str(error)
    error = show(made.path, "--status", "describe=lost").exception
    assert "no row of" in str(error)


def test_generated_rows_are_found_by_the_name_of_their_step(tmp_path, photos):
    rows = [{"key": "a", "status": "ok"}, {"key": "b", "status": "truncated"}]
    talks = write_dataset(tmp_path / "talks", "conversations", [pa.Table.from_pylist(rows, BASE["conversations"])])
    commit(Store(talks.path), Change(1, "conversations/1.0", parents=[photos.as_parent()], info={"changed": 1}))
    (found,) = lines(talks.path, "--status", "generate=truncated")
    assert (found["row"], found["left_out"]) == (1, "generate=truncated")


def test_rows_and_datasets_say_what_is_left_out(photos):
    made = with_rule(photos, StatusRule(step="describe", column="caption_status", by_choice={"refused": "shy"}))
    assert lines(made.path, "--row", "1")[0]["left_out"] == "download=timeout"
    assert lines(made.path, "--row", "0")[0]["left_out"] is None


def test_pictures_are_written_inside_the_folder_under_names_of_their_own(photos, tmp_path):
    folder = tmp_path / "out"
    for row in range(len(KEYS)):
        assert show(photos.path, "--row", row, "--images", folder).exit_code == 0
    written = list(tmp_path.rglob("*-0"))
    assert len(written) == len(KEYS)
    assert {path.parent for path in written} == {folder}
    assert (folder / "a-0").read_bytes() == b"x"


def test_names_are_short_and_differ():
    names = [file_name(key) for key in KEYS]
    assert len(set(names)) == len(KEYS)
    assert all(len(name.encode()) < 150 and "/" not in name and "\x00" not in name for name in names)
    assert not any(name.startswith(".") for name in names)
