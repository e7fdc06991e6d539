import errno
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.engine.runners import Runner
from pipelines.engine.work import run_derive, run_step
from schemas import Dataset
from schemas.errors import InputError, SchemaError, StorageError
from schemas.records import BASE
from schemas.writing import write_dataset
from tests.pipelines.steps import Echo, Shout, ShoutConfig, Talk, Twin

LOCAL = Runner("local", 1)
TWO = Runner("local", 2)
"""Each start of a worker process imports for a second: for the tests where tasks, and what is made, travel."""
ROOT = Path(__file__).parents[3]


def keys(start: int, rows: int) -> pa.Table:
    return pa.Table.from_pylist([{"key": f"k{number}"} for number in range(start, start + rows)], BASE["images"])


@pytest.fixture
def photos(tmp_path):
    write_dataset(tmp_path / "photos", "images", [keys(0, 100), keys(100, 100), keys(200, 7)])
    return str(tmp_path / "photos")


def shout(**config) -> Shout:
    return Shout(ShoutConfig(**config))


def files(path: str) -> dict[str, str]:
    """Column file -> sha256: what two equal datasets have in common."""
    return {
        file.path: file.sha256 for fragment in Dataset.open(path).fragments for file in fragment.entry.files.values()
    }


def all_steps(photos: str, runner: Runner) -> None:
    talks = photos.replace("photos", "talks")
    run_step(shout(), photos, runner)
    run_step(Twin(Twin.Config()), photos, runner)
    run_derive(Talk(Talk.Config()), photos, talks, runner)


def test_a_step_adds_columns_and_a_second_run_makes_nothing(photos):
    first = run_step(shout(), photos, TWO)
    assert (first.made, first.reused, first.rows) == (3, 0, 207)
    assert first.statuses == {"ok": 104, "odd": 103}
    assert Dataset.open(photos)[205]["loud"] == "K205!"
    again = run_step(shout(threads=9), photos, TWO)
    assert (again.made, again.reused, again.manifest) == (0, 3, first.manifest)


def test_another_parameter_makes_other_files_and_drops_what_read_the_old_ones(photos):
    run_step(shout(), photos, LOCAL)
    run_step(Echo(Echo.Config()), photos, LOCAL)
    assert Dataset.open(photos)[0]["echo"] == "K0!K0!"
    assert run_step(shout(word="?"), photos, LOCAL).made == 3
    assert "echo" not in Dataset.open(photos).columns
    assert run_step(Echo(Echo.Config()), photos, LOCAL).made == 3
    assert Dataset.open(photos)[0]["echo"] == "K0?K0?"


def test_rows_are_retried_alone_and_what_read_them_is_made_again(photos):
    run_step(shout(), photos, TWO)
    before = Dataset.open(photos).fragments[0].read(["loud", "shout_status"]).to_pylist()
    retried = run_step(shout(healed=True), photos, TWO, retry="transient")
    assert retried.statuses == {"ok": 207}
    after = Dataset.open(photos).fragments[0].read(["loud", "shout_status"]).to_pylist()
    assert [row["loud"] for row in after] == [row["loud"] for row in before]
    assert run_step(shout(), photos, TWO, retry="transient").made == 0
    assert run_step(shout(), photos, TWO).made == 0


def test_an_unknown_status_to_retry_is_refused(photos):
    with pytest.raises(InputError, match=r"--retry lost: shout has no such status. Known: transient, ok, odd, late"):
        run_step(shout(), photos, LOCAL, retry="lost")


def test_a_step_that_loses_rows_commits_nothing(photos):
    with pytest.raises(SchemaError, match=r"returned 98 rows for 100"):
        run_step(shout(lose_rows=True), photos, TWO)
    assert Dataset.open(photos).manifest.number == 1
    assert list(Path(photos).rglob("*.tmp-*")) == []


def test_a_full_disk_ends_the_run_at_once_in_our_words(photos, monkeypatch):
    asked = []

    def full(self, batch):
        asked.append(batch.num_rows)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Shout, "process", full)
    with pytest.raises(
        StorageError, match=r"photos: No space left on device. Free some space, then run .* again"
    ) as caught:
        run_step(shout(), photos, Runner("local", 1))
    assert len(asked) == 1, "the other fragments are not worked on"
    assert "3 fragments" in str(caught.value)
    assert not [path for path in Path(photos).rglob("*") if ".tmp-" in path.name]
    monkeypatch.undo()
    assert run_step(shout(), photos, LOCAL).made == 3


def test_a_column_that_no_step_made_yet_is_named(photos):
    with pytest.raises(SchemaError, match=r"no column 'loud'.*Run the step that adds it first"):
        run_step(Echo(Echo.Config()), photos, LOCAL)


def test_derived_rows_keep_every_source_row_and_follow_its_fragments(photos):
    run_step(shout(), photos, TWO)
    talks = photos.replace("photos", "talks")
    made = run_derive(Talk(Talk.Config()), photos, talks, TWO)
    assert made.statuses == {"ok": 208, "odd": 103}
    dataset = Dataset.open(talks)
    assert [fragment.id for fragment in dataset.fragments] == [part.id for part in Dataset.open(photos).fragments]
    assert {row["key"].split("/")[0] for row in dataset.take(range(dataset.rows), ["key"])} == {
        f"k{number}" for number in range(207)
    }
    assert dataset.manifest.parents[0].path == photos
    run_step(shout(healed=True), photos, TWO, retry="odd")
    assert run_derive(Talk(Talk.Config()), photos, talks, TWO).statuses == {"ok": 414}


def test_a_retry_that_changes_no_row_keeps_what_was_made_from_it(photos):
    run_step(shout(), photos, LOCAL)
    run_step(Echo(Echo.Config()), photos, LOCAL)
    before = files(photos)
    again = run_step(shout(), photos, LOCAL, retry="odd")
    assert (again.made, again.statuses) == (3, {"ok": 104, "odd": 103})
    assert files(photos) == before
    assert len(list(Path(photos).rglob("shout.*.arrow"))) == 3


def test_rows_of_another_origin_are_not_replaced(photos):
    run_step(shout(), photos, LOCAL)
    talks, imported = photos.replace("photos", "talks"), photos.replace("photos", "imported")
    run_derive(Talk(Talk.Config()), photos, talks, LOCAL)
    row = {"key": ["x"], "image_keys": [[]], "messages": [[]], "status": ["ok"]}
    write_dataset(imported, "conversations", [pa.Table.from_pydict(row)], {})
    with pytest.raises(InputError, match=f"{imported}: its rows were imported, and talk of {photos} would replace"):
        run_derive(Talk(Talk.Config()), photos, imported, LOCAL)
    others = photos.replace("photos", "others")
    write_dataset(others, "images", [pa.table({"key": ["k900"]})], {})
    run_step(shout(), others, LOCAL)
    with pytest.raises(InputError, match=f"{talks}: its rows were made by talk from {photos}, and talk of {others}"):
        run_derive(Talk(Talk.Config()), others, talks, LOCAL)
    assert Dataset.open(talks).rows == 311


def test_a_step_over_all_rows_joins_fragments(photos):
    run_step(Twin(Twin.Config()), photos, TWO)
    dataset = Dataset.open(photos)
    assert Counter(row["cluster"] for row in dataset.take(range(207), ["cluster"])).most_common(1) == [("k0", 21)]
    assert dataset[203]["cluster"] == "k103"  # smallest as text among k3, k13, k103, ...
    assert run_step(Twin(Twin.Config()), photos, TWO).made == 0


def test_a_dataset_on_an_object_store_gets_the_same_files(photos):
    far = "memory://run/photos"
    write_dataset(far, "images", [keys(0, 100), keys(100, 100), keys(200, 7)])
    all_steps(photos, TWO)
    all_steps(far, TWO)
    assert files(photos) == files(far)


def test_a_killed_run_is_continued_from_the_files_it_finished(photos):
    code = (
        "from tests.pipelines.steps import *; from pipelines.engine.runners import Runner\n"
        "from pipelines.engine.work import run_step\n"
        f"run_step(Shout(ShoutConfig(die_after=4)), {photos!r}, Runner('local', 1))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=False)
    assert killed.returncode == -9
    finished = list(Path(photos).rglob("shout.*.arrow"))
    assert 0 < len(finished) < 3
    stamps = {path: path.stat().st_mtime_ns for path in finished}
    done = run_step(shout(), photos, LOCAL)
    assert done.made == 3
    assert {path: path.stat().st_mtime_ns for path in finished} == stamps
    assert list(Path(photos).rglob("*.tmp-*")) == []
    assert Dataset.open(photos).verify() == []


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-8])])
def test_a_file_that_was_lost_or_cut_is_made_again_and_nothing_else(photos, damage):
    run_step(shout(), photos, LOCAL)
    before = files(photos)
    damage(sorted(Path(photos).rglob("shout.*.arrow"))[1])
    assert len(Dataset.open(photos).verify()) == 1
    done = run_step(shout(), photos, LOCAL)
    assert (done.made, done.reused) == (1, 2)
    assert files(photos) == before
    assert Dataset.open(photos).verify() == []
