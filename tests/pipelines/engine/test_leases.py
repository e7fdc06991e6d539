"""A run holds what it makes and pins what it reads, until it ends, however it ends."""

import pyarrow as pa
import pytest

from pipelines.engine import job
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_derive, run_step
from schemas.errors import SchemaError
from schemas.lease import live
from schemas.records import BASE
from schemas.store import Store
from schemas.writing import write_dataset
from tests.pipelines.steps import Shout, ShoutConfig, Talk

LOCAL = Runner("local", 2)


@pytest.fixture
def photos(tmp_path):
    rows = pa.Table.from_pylist([{"key": f"k{number}"} for number in range(20)], BASE["images"])
    return write_dataset(tmp_path / "photos", "images", [rows]).path


@pytest.fixture
def seen(monkeypatch, photos):
    """The leases on photos and talks at the end of a run: (run, version, names of files that it makes)."""
    found, read_outcome = [], job.read_outcome

    def watched(*arguments):
        places = (photos, photos.replace("photos", "talks"))
        found.append([(one.run, one.manifest, list(one.makes)) for place in places for one in live(Store(place))])
        return read_outcome(*arguments)

    monkeypatch.setattr(job, "read_outcome", watched)
    return found


def test_a_run_holds_its_target_and_pins_its_source(photos, seen):
    step = run_step(Shout(ShoutConfig()), photos, LOCAL)
    derived = run_derive(Talk(Talk.Config()), photos, photos.replace("photos", "talks"), LOCAL)
    assert seen == [
        [(step.run, 1, ["shout"])],
        [(f"{derived.run}.reads", 2, []), (derived.run, 0, ["base"])],
    ]
    assert Store(photos).list("leases") == [] == Store(photos.replace("photos", "talks")).list("leases")


def test_a_run_that_fails_leaves_no_lease(photos, seen):
    with pytest.raises(SchemaError):
        run_step(Shout(ShoutConfig(lose_rows=True)), photos, LOCAL)
    assert len(seen) == 1 and Store(photos).list("leases") == []


def test_a_run_that_has_nothing_to_make_writes_nothing(photos, seen):
    run_step(Shout(ShoutConfig()), photos, LOCAL)
    before = sorted(Store(photos).walk(""))
    run_step(Shout(ShoutConfig()), photos, LOCAL)
    assert sorted(Store(photos).walk("")) == before
