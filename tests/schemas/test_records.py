import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from schemas import Dataset, records
from schemas.commit import Change, commit
from schemas.errors import VersionError
from schemas.records import BASE, CURRENT, STORED_IMAGE, version_text
from schemas.writing import write_dataset

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.mark.parametrize("name", sorted(CURRENT))
def test_a_released_schema_is_frozen(name):
    schema = pa.schema([*BASE[name], *STORED_IMAGE]) if name == "images" else BASE[name]
    major, minor = CURRENT[name]
    frozen = (GOLDEN / f"{name}-{major}.{minor}.schema.txt").read_text()
    assert schema.to_string(show_schema_metadata=False) + "\n" == frozen


@pytest.mark.parametrize("folder", sorted(path.name for path in GOLDEN.iterdir() if path.is_dir()))
def test_every_golden_dataset_is_read_and_verifies(folder):
    dataset = Dataset.open(GOLDEN / folder)
    assert dataset.verify() == []
    assert dataset.rows == 2
    assert dataset.manifest.info == {"golden": folder}


def test_golden_rows_keep_their_values():
    images = Dataset.open(GOLDEN / "images-1.0")
    assert images[0]["boxes"] == [{"label": "pixel", "x0": 0.0, "y0": 0.0, "x1": 1.0, "y1": 1.0}]
    assert images[1]["image"] is None
    talks = Dataset.open(GOLDEN / "conversations-1.0")
    assert talks[0]["generator"]["cost"] == 0.0001
    assert talks[1]["status"] == "no_answer"
    samples = Dataset.open(GOLDEN / "samples-1.0")
    assert samples[0]["messages"][0]["content"][0] == {"type": "image", "text": None}
    assert samples.numpy("tokens").tolist() == [29, 9]


@pytest.mark.parametrize("written", ["1.0", "now"])
def test_samples_open_in_hugging_face_datasets_and_images_decode(tmp_path, written):
    import datasets

    dataset = Dataset.open(GOLDEN / "samples-1.0")
    if written == "now":
        table = Dataset.open(GOLDEN / "samples-1.1").fragments[0].read()
        dataset = write_dataset(tmp_path / "samples", "samples", [table.cast(BASE["samples"])])
    file = dataset.store.path(dataset.fragments[0].entry.files["base"].path)
    opened = datasets.Dataset.from_file(file)
    assert opened.cache_files[0]["filename"] == file  # memory-mapped where it lies, not copied
    image = opened[0]["images"][0]
    assert (image.size, image.getpixel((0, 0))) == ((1, 1), (255, 0, 0))
    assert opened[1]["images"] == []


def test_columns_of_a_later_minor_version_are_null_in_older_rows():
    old, new = Dataset.open(GOLDEN / "conversations-1.0"), Dataset.open(GOLDEN / "conversations-1.1")
    assert old.columns == new.columns
    assert [(row["key"], row["id"], row["extra"]) for row in old.take([0, 1])] == [
        ("a/detail", None, None),
        ("b/detail", None, None),
    ]
    assert (new[0]["id"], new[0]["extra"]) == ("5", '{"model":"","id":5}')
    assert old.fragments[0].read(["extra"]).to_pylist() == [{"extra": None}] * 2
    assert [batch.to_pylist() for batch in old.fragments[0].batches(["id", "status"])] == [
        [{"id": None, "status": "ok"}, {"id": None, "status": "no_answer"}]
    ]
    assert old.fragments[0].inputs(["id"]) == old.fragments[0].inputs(["key"])


def test_old_and_new_fragments_share_a_dataset(tmp_path):
    shutil.copytree(GOLDEN / "conversations-1.0", tmp_path / "talks")
    old, new = Dataset.open(tmp_path / "talks"), Dataset.open(GOLDEN / "conversations-1.1")
    added = new.manifest.fragments[0]
    shutil.copytree(GOLDEN / "conversations-1.1" / "fragments" / added.id, tmp_path / "talks" / "fragments" / added.id)
    change = Change(1, new.schema_version, fragments=[old.manifest.fragments[0], added])
    both = Dataset(old.store, commit(old.store, change))
    assert both.schema_version == "conversations/1.1"
    assert both.columns == new.columns
    assert [row["id"] for row in both.take(range(4), ["id"])] == [None, None, "5", None]
    assert both.verify() == []


@pytest.fixture
def next_major(monkeypatch):
    """A made-up images/2.0 in which `url` became `address`."""

    def rename(batch):
        return batch.rename_columns(["address" if name == "url" else name for name in batch.schema.names])

    def apply():
        monkeypatch.setitem(records.CURRENT, "images", (2, 0))
        monkeypatch.setitem(records.UPGRADES, ("images", 1), rename)

    return apply


def test_an_older_version_is_upgraded_as_it_is_read(tmp_path, next_major):
    write_dataset(tmp_path / "old", "images", [pa.Table.from_pylist([{"key": "a", "url": "u"}], BASE["images"])])
    next_major()
    dataset = Dataset.open(tmp_path / "old")
    assert dataset.schema_version == "images/1.0"
    assert dataset.fragments[0].read(["address"]).to_pylist() == [{"address": "u"}]
    assert [batch.to_pylist() for batch in dataset.fragments[0].batches(["key", "address"])] == [
        [{"key": "a", "address": "u"}]
    ]
    assert dataset.columns[:2] == ["key", "address"]
    assert dataset[0]["address"] == "u"
    assert dataset.verify() == []


def test_a_newer_major_is_refused_naming_both_versions(tmp_path):
    shutil.copytree(GOLDEN / "images-1.0", tmp_path / "new")
    manifest = tmp_path / "new" / "manifest-000001.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "schema_version": "images/9.0"}))
    with pytest.raises(VersionError, match=r"images/9\.0.*images/1\.0"):
        Dataset.open(tmp_path / "new")
    manifest.write_text(json.dumps({**content, "format": 9}))
    with pytest.raises(VersionError, match=r"format 9.*up to 2"):
        Dataset.open(tmp_path / "new")


def test_version_text_names_schema_and_version():
    assert version_text("samples") == "samples/1.1"
