"""`files` and `gc` as a user meets them."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from lavabeam.cli.main import app
from schemas import Dataset
from schemas.commit import Change, commit
from schemas.errors import InputError
from schemas.records import BASE
from schemas.writing import write_dataset


@pytest.fixture
def photos(tmp_path):
    """Two versions; the second has a list of one fragment, so that the other's file belongs to the first alone."""
    table = pa.Table.from_pylist([{"key": "a"}, {"key": "b"}], BASE["images"])
    dataset = write_dataset(tmp_path / "photos", "images", [table.slice(0, 1), table.slice(1)])
    commit(dataset.store, Change(1, "images/1.0", run="r\x1b[2J", fragments=list(dataset.manifest.fragments)[:1]))
    return dataset.path


def call(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_files_lists_the_current_files_of_a_version(photos):
    now, before = call("files", photos), call("files", photos, "--at", "1", "--step", "base", "--json")
    head, *lines = now.output.splitlines()
    assert head.split("\t") == ["path", "step", "fragment", "rows", "bytes"]
    assert len(lines) == 1 and Path(lines[0].split("\t")[0]).stat().st_size == int(lines[0].split("\t")[4])
    listed = json.loads(before.output)
    assert [one["rows"] for one in listed] == [1, 1] and all(Path(one["path"]).is_file() for one in listed)
    assert isinstance(call("files", photos, "--step", "bas").exception, InputError)


def test_what_others_wrote_reaches_the_terminal_without_its_escapes(photos):
    assert "\x1b" not in call("log", photos).output and "r\\x1b[2J" in call("log", photos).output


def test_gc_says_what_it_would_do_and_does_it(photos):
    versions = sorted(Path(photos).glob("manifest-*"))
    said = call("gc", photos, "--keep", "1", "--dry-run")
    assert "would be freed. Versions: 1." in said.output
    assert sorted(Path(photos).glob("manifest-*")) == versions
    done = json.loads(call("gc", photos, "--keep", "1", "--json").output)
    assert (done["manifests"], len(done["files"]), len(done["chunks"])) == ([1], 1, 2)
    assert f"{done['bytes']} bytes" in said.output
    assert sorted(Path(photos).glob("manifest-*")) == versions[1:]
    assert Dataset.open(photos).verify() == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--keep", "0"), "0 is not in the range"),
        (("--older-than", "7"), "such as 7d"),
        (("--keep", "1", "--older-than", "7d"), "not both"),
    ],
)
def test_gc_refuses_what_it_cannot_mean(photos, options, expected):
    done = call("gc", photos, *options)
    assert done.exit_code == 2 and expected in done.output


def test_gc_without_options_keeps_all_versions(photos):
    assert json.loads(call("gc", photos, "--json").output)["bytes"] == 0
    assert json.loads(call("gc", photos, "--older-than", "7d", "--json").output)["manifests"] == []
