"""Looking after datasets as a user meets it: files, verify, rollback, gc, and text that would steer a terminal."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from lavabeam.cli import output
from lavabeam.cli.main import app, main
from schemas import Dataset
from schemas.commit import Change, commit
from schemas.errors import CorruptError, InputError
from schemas.records import BASE
from schemas.store import Store
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
    assert head.split("\t") == ["path", "step", "fragment", "rows", "bytes", "sha256"]
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


def test_verify_prints_every_damage_with_counts_and_ends_with_2(photos):
    files = [Path(line.split("\t")[0]) for line in call("files", photos, "--at", "1").output.splitlines()[1:]]
    files[0].write_bytes(files[0].read_bytes()[:-8] + bytes(8))
    files[1].unlink()
    said = call("verify", photos, "--at", "1")
    assert said.exit_code == 2
    assert f"wrong bytes: {files[0]}: sha256" in said.output and f"missing: {files[1]}" in said.output
    assert "2 files, 2 rows, 2 problems (1 missing, 1 wrong bytes)" in said.output
    told = json.loads(call("verify", photos, "--at", "1", "--json").output)
    assert told["counts"] == {"missing": 1, "wrong bytes": 1}
    assert [one["path"] for one in told["damaged"]] == [str(file) for file in files] and len(told["problems"]) == 2


def test_checked_finds_what_reading_does_not(photos, tmp_path):
    (file,) = [Path(line.split("\t")[0]) for line in call("files", photos).output.splitlines()[1:]]
    content = bytearray(file.read_bytes())
    content[content.rindex(b"a")] = ord("c")
    file.write_bytes(content)
    out = str(tmp_path / "page.html")
    assert json.loads(call("show", photos, "--row", "0", "--json").output)["key"] == "c"
    for refused in (("show", photos, "--row", "0"), ("report", photos, "--out", out), ("dedupe", photos)):
        error = call(*refused, "--checked").exception
        assert isinstance(error, CorruptError) and str(file) in str(error)


def test_rollback_goes_back_and_says_what_it_would_do(photos):
    said = call("rollback", photos, "--to", "1", "--dry-run")
    assert "manifest 3 would be manifest 1: 2 rows (manifest 2: 1), base" in said.output
    assert Dataset.open(photos).manifest.number == 2
    assert json.loads(call("rollback", photos, "--to", "1", "--json").output)["number"] == 3
    assert Dataset.open(photos).rows == 2
    assert "Nothing to do" in call("rollback", photos, "--to", "1").output
    assert isinstance(call("rollback", photos, "--to", "9").exception, InputError)


STEERING = "\x1b]0;owned\x07 \x9b2J \u202e [red]\r"


def test_text_from_a_manifest_steers_no_terminal(photos, capsys, monkeypatch):
    commit(Store(photos), Change(2, "images/1.0", run="r", message=STEERING, info={STEERING: STEERING}))
    for told in (call("log", photos), call("log", photos, "--json"), call("show", photos, "--json")):
        assert told.exit_code == 0 and not set(told.output) & set("\x1b\x07\x9b\u202e\r")
    assert "[red]" in call("log", photos).output
    assert json.loads(call("log", photos, "--json").output)[0]["what"] == STEERING
    monkeypatch.setattr("sys.argv", ["lavabeam", "show", f"{photos}/{STEERING}"])
    with pytest.raises(SystemExit, match="2"):
        main()
    error = capsys.readouterr().err
    assert "no dataset here" in error and not set(error) & set("\x1b\x07\x9b\u202e\r")


def test_only_one_place_of_the_command_line_prints():
    folder = Path(output.__file__).parent
    prints = {file.name for file in folder.glob("*.py") if re.search(r"click\.s?echo|\bprint\(", file.read_text())}
    assert prints == {"output.py"}
