"""Going back to an older version."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from schemas import Dataset, manifest
from schemas.commit import Change, commit
from schemas.errors import CorruptError, InputError, VersionError
from schemas.records import BASE
from schemas.rollback import roll_back
from schemas.store import Store
from schemas.writing import write_dataset


@pytest.fixture
def photos(tmp_path):
    """Version 1 has two fragments, version 2 the first of them."""
    table = pa.Table.from_pylist([{"key": "a"}, {"key": "b"}], BASE["images"])
    dataset = write_dataset(tmp_path / "photos", "images", [table.slice(0, 1), table.slice(1)], info={"a": 1})
    change = Change(1, "images/1.0", run="r", fragments=list(dataset.manifest.fragments)[:1], info={"a": 2})
    commit(dataset.store, change)
    return dataset.store


def test_the_content_of_an_old_version_becomes_the_newest_and_history_stays(photos):
    done = roll_back(photos, 1)
    back = Dataset.open(photos.root)
    assert (done.number, done.before, done.rows, done.rows_before) == (3, 2, 2, 1)
    assert (back.manifest.previous, back.manifest.message, back.manifest.info) == (2, "rollback to 1", {"a": 1})
    assert [row["key"] for row in back.take(range(2))] == ["a", "b"]
    assert manifest.numbers(photos) == [1, 2, 3] and back.verify() == []
    assert roll_back(photos, 2).number == 4 and Dataset.open(photos.root).rows == 1
    assert commit(photos, Change(4, "images/1.0", info={"a": 9})).number == 5


def test_dry_run_says_the_same_and_writes_nothing(photos):
    before = sorted(photos.walk(""))
    assert roll_back(photos, 1, dry_run=True).number == 3
    assert sorted(photos.walk("")) == before


def test_the_newest_version_and_one_like_it_are_left_as_they_are(photos):
    assert roll_back(photos, 2).number == 2
    roll_back(photos, 1)
    assert roll_back(photos, 1).number == 3 and manifest.numbers(photos) == [1, 2, 3]


def test_a_version_whose_files_are_gone_is_refused_and_they_are_named(photos):
    gone = Dataset.open(photos.root, 1).fragments[1].entry.files["base"].path
    Path(photos.path(gone)).unlink()
    with pytest.raises(CorruptError, match=f"manifest 1 names 1 files that are missing or truncated: {gone}.*gc"):
        roll_back(photos, 1)
    with pytest.raises(InputError, match="there is no manifest 7"):
        roll_back(photos, 7)
    assert manifest.numbers(photos) == [1, 2]


def test_a_file_in_place_of_the_folder_of_files_is_a_missing_file(photos):
    shutil.rmtree(photos.path("fragments"))
    Path(photos.path("fragments")).write_text("")
    with pytest.raises(CorruptError, match="names 2 files that are missing"):
        roll_back(photos, 1)


def test_features_that_this_code_does_not_know_are_not_taken_back(photos):
    head = Path(photos.path(manifest.file_name(1)))
    head.write_text(json.dumps({**json.loads(head.read_text()), "writer_flags": ["indexes"]}))
    with pytest.raises(VersionError, match="writer flags"):
        roll_back(photos, 1)


def test_a_format_1_version_comes_back_as_format_2(tmp_path):
    shutil.copytree(Path(__file__).parent.parent / "golden" / "images-1.0", tmp_path / "d")
    store = Store(tmp_path / "d")
    commit(store, Change(1, "images/1.0", info={"a": 1}))
    roll_back(store, 1)
    back = Dataset.open(tmp_path / "d")
    assert (back.manifest.number, back.manifest.format, back.verify()) == (3, 2, [])
    assert "a" not in back.manifest.info
