"""A dataset of many fragments through the Batch API, whose answers may take a day: one wait, not one per core."""

import pyarrow as pa

from pipelines.engine.runners import Runner
from pipelines.engine.step import Needs
from pipelines.engine.work import run_derive
from pipelines.engine.workers import Hands
from pipelines.generate import Generate, GenerateConfig
from schemas import Dataset
from schemas.records import IMAGES
from schemas.writing import write_dataset
from tests.pipelines.llm.test_batch import PRICE, BatchServer

FRAGMENTS = 12


def test_all_fragments_travel_in_one_batch_however_few_cores_there_are(tmp_path):
    rows = [{"key": f"row-{number}", "captions": [f"Picture {number} is red."]} for number in range(FRAGMENTS)]
    tables = [pa.Table.from_pylist([row], IMAGES) for row in rows]
    images = write_dataset(tmp_path / "images", "images", tables, {})
    with BatchServer() as server:
        config = GenerateConfig(
            model="m",
            provider="test",
            base_url=server.base_url,
            cache=str(tmp_path / "cache"),
            kinds=["describe"],
            mode="batch",
            batch_poll_s=0.1,
            price=PRICE,
        )
        run_derive(Generate(config), images.path, tmp_path / "talks", Runner("local"))
        assert len(server.batches) == 1
    assert Dataset.open(tmp_path / "talks").manifest.statuses()["base"] == {"ok": FRAGMENTS}


def test_a_number_of_workers_that_was_given_stays():
    waiting = Needs(threads=True, waits=True)
    assert Runner("local").hands(waiting, 12, True) == Hands("threads", 12)
    assert Runner("local").hands(waiting, 100_000, True).count < 100
    assert Runner("local", 3).hands(waiting, 12, True) == Hands("threads", 3)
    assert Runner("dask").hands(waiting, 12, True) == Hands("inline", 1)
