"""Folder format 2: chunks that versions share, sums in the head, and the step from format 1."""

import hashlib
import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from schemas import Dataset, manifest
from schemas.commit import commit
from schemas.errors import InputError
from schemas.records import BASE
from schemas.store import Store
from schemas.writing import write_dataset
from tests.schemas.lists import change, entry, listed

GOLDEN = Path(__file__).parent.parent / "golden"


def chunks(store: Store) -> set[str]:
    return set(store.list("manifests"))


def test_a_new_column_writes_the_chunks_of_its_own_name_alone(store):
    before = chunks(store)
    commit(store, change(1, files={one.id: {"look": entry(one.id, "look", "w")} for one in listed(8)}))
    assert {name.split("-")[0] for name in chunks(store) - before} == {"look"}
    assert len(chunks(store) - before) == 3


def test_appending_fragments_writes_the_last_range_alone(store):
    before = chunks(store)
    commit(store, change(1, fragments=listed(9)))
    assert sorted(name.split("-")[0] for name in chunks(store) - before) == ["base", "fragments"]
    assert [one.id for one in manifest.read(store).fragments] == [one.id for one in listed(9)]


def test_a_file_of_one_fragment_writes_one_range(store):
    before = chunks(store)
    commit(store, change(1, files={"0004-aa": {"look": entry("0004-aa", "look", "w")}}))
    assert len(chunks(store) - before) == 1
    assert [list(one.files) for one in manifest.read(store).fragments][3:6] == [["base"], ["base", "look"], ["base"]]


def test_opening_reads_the_head_alone(store):
    for name in chunks(store):
        os.unlink(store.path(f"manifests/{name}"))
    dataset = Dataset.open(store.root)
    assert (dataset.rows, len(dataset.fragments), dataset.columns) == (80, 8, ["base_x"])


def test_entries_keep_every_field_and_are_pickled_as_plain_values(store):
    groups = {"b.com": {"ok": 1, "late": 2}, "other": {"ok": 3}}
    made = entry("0004-aa", "look", "w", {"base": "b0004-aa"}, statuses={"ok": 4, "late": 2}, groups=groups)
    made = replace(made, plan="p", columns=["x", "a\nb", 'c"d'])
    commit(store, change(1, files={"0004-aa": {"look": made}}))
    found = manifest.read(store).fragments[4]
    assert found.files["look"] == made
    assert list(found.files["look"].groups["b.com"]) == ["ok", "late"]
    copy = pickle.loads(pickle.dumps(found))
    assert copy == found and type(copy.files) is dict
    assert len(pickle.dumps(found)) < 2000


def test_the_list_is_a_sequence(store):
    fragments = manifest.read(store).fragments
    assert (len(fragments), fragments[-1].id, [one.id for one in fragments[2:4]]) == (
        8,
        "0007-aa",
        ["0002-aa", "0003-aa"],
    )
    with pytest.raises(IndexError, match="fragment 8 of 8"):
        fragments[8]
    assert "look" not in fragments[0].files
    with pytest.raises(KeyError):
        fragments[0].files["look"]


def test_sums_are_in_the_head(store):
    files = {
        one.id: {"look": entry(one.id, "look", "w", statuses={"ok": 8, "late": 2}, groups={"h": {"ok": 8}})}
        for one in listed(8)
    }
    commit(store, change(1, files=files))
    head = json.loads(store.read("manifest-000002.json"))
    assert head["totals"]["statuses"] == {"look": {"ok": 64, "late": 16}}
    assert head["totals"]["groups"] == {"look": {"h": {"ok": 64}}}
    assert (head["totals"]["rows"], head["totals"]["bytes"]) == (80, 80)
    assert head["totals"]["columns"] == ["base_x", "look_x"]
    assert len(json.dumps(head)) < 10_000


def test_groups_beyond_the_largest_are_other(store, monkeypatch):
    monkeypatch.setattr("schemas.manifest.GROUPS", 2)
    groups = {f"h{number}": {"ok": number} for number in range(1, 5)} | {"other": {"late": 1}}
    commit(store, change(1, files={"0004-aa": {"look": entry("0004-aa", "look", "w", groups=groups)}}))
    found = manifest.read(store).groups("look")
    assert found == {"h4": {"ok": 4}, "other": {"ok": 3, "late": 1}, "h3": {"ok": 3}}


def test_a_dataset_of_format_1_becomes_format_2_at_the_next_commit_and_keeps_its_history(tmp_path):
    shutil.copytree(GOLDEN / "images-1.0", tmp_path / "d")
    old = Dataset.open(tmp_path / "d")
    fragment = old.manifest.fragments[0]
    again = commit(old.store, change(1, files={fragment.id: dict(fragment.files)}))
    assert (again.number, again.format, chunks(old.store)) == (1, 1, set())
    made = commit(old.store, change(1, files={fragment.id: {"look": entry(fragment.id, "look", "w")}}))
    assert (made.number, made.format, made.info) == (2, 2, {"golden": "images-1.0"})
    assert made.fragments[0].files["base"] == fragment.files["base"]
    assert list(Dataset.open(tmp_path / "d", at=1).manifest.fragments) == [fragment]
    assert Dataset.open(tmp_path / "d", at=1).verify() == []


def test_the_golden_dataset_of_format_2_keeps_its_values():
    dataset = Dataset.open(GOLDEN / "format-2")
    look = dataset.manifest.fragments[1].files["look"]
    assert (look.fingerprint, look.plan) == ("11" * 32, "22" * 32)
    assert look.inputs == {"base": dataset.manifest.fragments[1].files["base"].fingerprint}
    assert (look.statuses, look.groups) == ({"late": 1}, {"example.com": {"late": 1}})
    assert dataset.manifest.statuses() == {"look": {"late": 1}}
    assert dataset.manifest.steps["look"].config == {"closely": True}
    assert dataset.manifest.parents[0].manifest == 4
    assert "look_status" not in dataset.columns
    assert [one.read(["key"]).column(0).to_pylist() for one in dataset.fragments] == [["a"], ["b"]]
    assert Dataset.open(GOLDEN / "format-2", at=1).manifest.message == "written whole"


def test_files_of_the_current_version_are_listed(tmp_path):
    table = pa.Table.from_pylist([{"key": "a"}, {"key": "b"}], BASE["images"])
    dataset = write_dataset(tmp_path / "d", "images", [table.slice(0, 1), table.slice(1)])
    rows = list(dataset.files("base"))
    assert [(step, rows) for _, step, _, rows, *_ in rows] == [("base", 1), ("base", 1)]
    assert all(Path(path).stat().st_size == size for path, *_, size, _ in rows)
    assert all(hashlib.sha256(Path(path).read_bytes()).hexdigest() == digest for path, *_, digest in rows)
    with pytest.raises(InputError, match=r"no column file of 'bas'.*'base'"):
        dataset.files("bas")
