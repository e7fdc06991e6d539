import threading
from dataclasses import replace

import pyarrow as pa
import pytest

from schemas import Dataset, manifest
from schemas.columnfile import column_path, write_column_file
from schemas.commit import Change, commit
from schemas.errors import ConflictError, InputError
from schemas.manifest import FileEntry
from schemas.records import BASE
from schemas.writing import write_dataset

VERSION = "images/1.0"


@pytest.fixture(params=["local", "memory"])
def dataset(request, tmp_path):
    table = pa.Table.from_pylist([{"key": f"k{number}"} for number in range(4)], BASE["images"])
    path = tmp_path / "d" if request.param == "local" else f"memory://commit/{tmp_path.name}"
    return write_dataset(path, "images", [table.slice(0, 2), table.slice(2)])


def column(dataset: Dataset, number: int, name: str, word: str, inputs: dict | None = None) -> dict:
    """A change's `files` with one new column file whose fingerprint is `word`."""
    fragment = dataset.fragments[number]
    batch = pa.record_batch({name: [word] * fragment.rows})
    path = column_path(fragment.id, name, word)
    entry = write_column_file(
        dataset.store, path, [batch], batch.schema, "images", fingerprint=word, inputs=inputs or {}
    )
    return {fragment.id: {name: entry}}


def change(dataset: Dataset, files: dict, **more) -> Change:
    return Change(base=dataset.manifest.number, schema_version=VERSION, files=files, **more)


def test_a_commit_is_seen_as_a_whole_and_history_stays(dataset):
    commit(dataset.store, change(dataset, {**column(dataset, 0, "a", "x"), **column(dataset, 1, "a", "x")}))
    now = Dataset.open(dataset.path)
    assert now.manifest.number == 2
    assert now[3]["a"] == "x"
    before = Dataset.open(dataset.path, at=1)
    assert "a" not in before.columns
    with pytest.raises(InputError, match=r"no manifest 7.*1 to 2"):
        Dataset.open(dataset.path, at=7)


def test_a_change_that_changes_nothing_writes_no_manifest(dataset):
    files = column(dataset, 0, "a", "x")
    first = commit(dataset.store, change(dataset, files))
    again = commit(dataset.store, change(Dataset.open(dataset.path), files))
    assert (first.number, again.number) == (2, 2)


def test_writers_of_different_columns_are_merged(dataset):
    first, second = column(dataset, 0, "a", "x"), column(dataset, 0, "b", "y")
    commit(dataset.store, change(dataset, first))
    merged = commit(dataset.store, change(dataset, second))
    assert merged.number == 3
    first_fragment = Dataset.open(dataset.path).fragments[0]
    assert first_fragment.read(["key", "a", "b"]).to_pylist()[0] == {"key": "k0", "a": "x", "b": "y"}


def test_writers_of_the_same_column_conflict(dataset):
    commit(dataset.store, change(dataset, column(dataset, 0, "a", "x"), run="first"))
    with pytest.raises(ConflictError, match=r"run first committed manifest 2 with another 'a'.*start it again"):
        commit(dataset.store, change(dataset, column(dataset, 0, "a", "other")))
    assert Dataset.open(dataset.path).manifest.number == 2


def test_writers_of_the_same_content_agree(dataset):
    files = column(dataset, 0, "a", "x")
    commit(dataset.store, change(dataset, files))
    assert commit(dataset.store, change(dataset, files)).number == 2


def test_an_input_replaced_meanwhile_is_a_conflict(dataset):
    commit(dataset.store, change(dataset, column(dataset, 0, "a", "x")))
    started = Dataset.open(dataset.path)
    commit(dataset.store, change(started, column(started, 0, "a", "newer")))
    with pytest.raises(ConflictError, match="another 'a', which 'b' was made from"):
        commit(dataset.store, change(started, column(started, 0, "b", "y", inputs={"a": "x"})))


def test_a_replaced_input_drops_what_was_made_from_it_and_its_return_is_possible(dataset):
    commit(dataset.store, change(dataset, column(dataset, 0, "a", "x")))
    second = Dataset.open(dataset.path)
    made = column(second, 0, "b", "y", inputs={"a": "x"})
    commit(dataset.store, change(second, {second.fragments[0].id: made[second.fragments[0].id]}))
    third = Dataset.open(dataset.path)
    commit(dataset.store, change(third, column(third, 0, "a", "newer")))
    files = Dataset.open(dataset.path).fragments[0].entry.files
    assert set(files) == {"base", "a"}
    assert dataset.store.exists(made[third.fragments[0].id]["b"].path)


def test_one_of_many_writers_gets_each_number(dataset):
    won: list[bool] = []
    barrier = threading.Barrier(8)

    def put(word: int) -> None:
        barrier.wait()
        won.append(dataset.store.put_if_absent("manifest-000009.json", str(word).encode() * 1000))

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]
    assert len(set(dataset.store.read("manifest-000009.json"))) == 1
    assert [name for name in dataset.store.list() if ".tmp-" in name] == []


def test_statuses_are_added_up_over_fragments(dataset):
    blank = FileEntry(path="p", fingerprint="f", version=VERSION, columns=[], rows=2, bytes=0, sha256="")
    entry = replace(blank, statuses={"ok": 1, "late": 1})
    entries = {fragment.id: {"a": entry} for fragment in dataset.fragments}
    assert commit(dataset.store, change(dataset, entries)).statuses() == {"a": {"ok": 2, "late": 2}}


def test_manifests_that_are_no_json_are_named(tmp_path):
    (tmp_path / manifest.file_name(1)).write_text("{")
    with pytest.raises(InputError, match=r"manifest-000001\.json: this is not JSON"):
        Dataset.open(tmp_path)
