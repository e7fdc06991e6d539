"""Garbage collection removes what no kept version names, nothing that a living run needs, and may be killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from schemas import Dataset, manifest
from schemas.columnfile import column_path, write_column_file
from schemas.commit import Change, commit
from schemas.errors import ConflictError, CorruptError, InputError
from schemas.garbage import collect
from schemas.lease import GC, hold
from schemas.records import BASE
from schemas.store import Store
from schemas.writing import write_dataset

ROOT = Path(__file__).parent.parent.parent


def add(store: Store, name: str, word: str) -> None:
    """A run that makes the column file `name` of every fragment, with a log."""
    opened, files = Dataset.open(store.root), {}
    for fragment in opened.fragments:
        files[fragment.id] = {name: column_file(store, fragment.id, fragment.rows, name, word)}
    with store.write(f"runs/{name}-{word}/log.json") as file:
        file.write(b"{}")
    number = opened.manifest.number
    commit(store, Change(number, "images/1.0", run=f"{name}-{word}", message=name, files=files))


def column_file(store: Store, fragment: str, rows: int, name: str, word: str):
    batch = pa.record_batch({name: [word] * rows})
    return write_column_file(
        store, column_path(fragment, name, word), [batch], batch.schema, "images", fingerprint=word
    )


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    """Five versions: 1 base, 2 a=x, 3 a=y, 4 b=z, 5 a=w."""
    table = pa.Table.from_pylist([{"key": f"k{number}"} for number in range(6)], BASE["images"])
    path = tmp_path / "d" if request.param == "local" else f"memory://garbage/{tmp_path.name}"
    store = write_dataset(path, "images", [table.slice(start, 2) for start in (0, 2, 4)]).store
    for name, word in (("a", "x"), ("a", "y"), ("b", "z"), ("a", "w")):
        add(store, name, word)
    return store


def sound(store: Store) -> list[int]:
    """The numbers of the versions that there are; every one is read and verified."""
    known = manifest.numbers(store)
    assert [problem for number in known for problem in Dataset.open(store.root, number).verify()] == []
    return known


def columns(store: Store) -> set[str]:
    return {name.rsplit("/", 1)[1] for name, _ in store.walk("fragments")}


def test_by_default_versions_stay_and_unnamed_files_go(store):
    stray = column_file(store, Dataset.open(store.root).fragments[0].id, 2, "a", "killed")
    found = collect(store)
    assert (found.manifests, list(found.files), found.bytes) == ([], [stray.path], stray.bytes)
    assert not store.exists(stray.path)
    assert sound(store) == [1, 2, 3, 4, 5]
    assert collect(store).bytes == 0


def test_keep_removes_older_versions_and_what_they_alone_name(store):
    before = dict(store.walk(""))
    found = collect(store, keep=2)
    assert found.manifests == [1, 2, 3]
    assert sound(store) == [4, 5]
    assert {name.split(".")[1] for name in columns(store) if name.startswith(("a.", "b."))} == {"y", "z", "w"}
    assert sorted(store.list("runs")) == ["a-w", "b-z"] if store.local else True
    assert sorted(found.logs) == ["runs/a-x/log.json", "runs/a-y/log.json"]
    after = dict(store.walk(""))
    gone = {name: size for name, size in before.items() if name not in after}
    listed = {**found.files, **found.chunks, **found.logs}
    assert {name: size for name, size in gone.items() if not name.startswith("manifest-")} == listed
    assert after.items() <= before.items()


def test_a_dry_run_says_the_same_and_does_nothing(store):
    before = dict(store.walk(""))
    said = collect(store, keep=1, dry_run=True)
    assert dict(store.walk("")) == before
    assert collect(store, keep=1) == said
    assert sound(store) == [5]


def test_versions_go_by_age_and_the_newest_stays(store, monkeypatch):
    assert collect(store, older_than=3600).manifests == []
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 7200)
    assert collect(store, older_than=3600).manifests == [1, 2, 3, 4]
    assert sound(store) == [5]


def test_what_a_living_run_reads_and_makes_stays(store):
    fragment = Dataset.open(store.root).fragments[0].id
    made = [column_file(store, fragment, 2, name, "ready").path for name in ("a", "b")]
    with hold(store, run="r1", manifest=2, makes="a"):
        found = collect(store, keep=1)
        assert found.manifests == [1, 3, 4]
        assert "run r1" in found.notes[0] and "reads manifest 2 and makes a" in found.notes[0]
        assert [store.exists(path) for path in made] == [True, False]
        # The run may be about to write a head that names chunks which it found, or wrote, a moment ago.
        assert found.chunks == {}
        assert sound(store) == [2, 5]
    assert made[0] in collect(store, keep=1).files
    assert sound(store) == [5]


def test_one_collection_at_a_time(store):
    with hold(store, run="gc-1", kind=GC), pytest.raises(ConflictError, match="another `lavabeam gc`"):
        collect(store)
    collect(store)


def test_a_kept_version_that_cannot_be_read_stops_it_and_a_removed_one_does_not(store):
    with store.write("manifest-000002.json") as file:
        file.write(b"{")
    before = dict(store.walk(""))
    with pytest.raises(InputError, match=r"000002\.json: this is not JSON"):
        collect(store)
    assert dict(store.walk("")) == before
    collect(store, keep=2)
    assert sound(store) == [4, 5]
    chunk = next(name for name, _ in store.walk("manifests") if "/b-" in name)
    store.remove(chunk)
    with pytest.raises((CorruptError, FileNotFoundError)):
        collect(store, keep=1)
    assert manifest.numbers(store) == [4, 5]


def test_a_folder_without_a_dataset_is_refused(tmp_path):
    (tmp_path / "photo.arrow").write_bytes(b"mine")
    with pytest.raises(InputError, match="no dataset here"):
        collect(Store(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["photo.arrow"]


def test_files_that_are_not_ours_stay(store):
    for name in ("fragments/0/notes.txt", "report.html", "manifests/readme.md", "fragments/photo.arrow"):
        with store.write(name) as file:
            file.write(b"mine")
    collect(store, keep=1)
    assert store.exists("fragments/0/notes.txt") and store.exists("report.html")
    assert store.exists("manifests/readme.md") and store.exists("fragments/photo.arrow")


KILLED = """
import os, sys
from schemas.garbage import collect
from schemas.store import Store
left, remove = int(sys.argv[2]), Store.remove
def counted(self, name):
    global left
    if left == 0:
        os.kill(os.getpid(), 9)
    left -= 1
    remove(self, name)
Store.remove = counted
collect(Store(sys.argv[1]), keep=1)
"""


def test_a_collection_killed_at_any_moment_loses_nothing_and_the_next_one_ends_it(tmp_path):
    table = pa.Table.from_pylist([{"key": "k"}], BASE["images"])
    store = write_dataset(tmp_path / "d", "images", [table]).store
    pick = random.Random(1)
    for round_, moment in enumerate([0, 3, *pick.sample(range(4, 12), 2)]):
        for word in "xyz":
            add(store, "a", f"{word}{round_}")
        newest = manifest.numbers(store)[-1]
        command = [sys.executable, "-c", KILLED, store.root, str(moment)]
        assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
        left = sound(store)
        assert left == list(range(left[0], newest + 1))
    collect(store, keep=1)
    assert sound(store) == [newest]
    assert columns(store) == {Path(path).name for path, *_ in Dataset.open(store.root).files()}
    assert store.list("leases") == [] and os.listdir(store.path("runs")) == [f"a-z{round_}"]


def test_nothing_goes_while_a_version_that_stays_has_a_damaged_list_of_fragments(tmp_path):
    table = pa.Table.from_pylist([{"key": f"k{number}"} for number in range(6)], BASE["images"])
    store = write_dataset(tmp_path / "d", "images", [table]).store
    add(store, "a", "x")
    ids = manifest.read(store).ranges[0].path
    Path(store.path(ids)).write_bytes(b"garbage")
    with pytest.raises(CorruptError, match=ids):
        collect(store, keep=1)
    assert manifest.numbers(store) == [1, 2]
