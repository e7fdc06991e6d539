"""No mode that we offer may lose, double or damage an element, however many there are."""

import json

import apache_beam as beam
import pytest

from pipelines.engine.runners import Runner
from pipelines.engine.step import Needs
from pipelines.engine.workers import Hands
from schemas.errors import InputError

ELEMENTS, SOURCES, KEYS, LAST_KEYS = 1_000_000, 50, 9_973, 101


def _numbers(source: int):
    part = ELEMENTS // SOURCES
    return ((number % KEYS, number) for number in range(source * part, (source + 1) * part))


def _regrouped(_key, numbers):
    return ((number % LAST_KEYS, number) for number in numbers)


def test_small_elements_survive_two_groupings(tmp_path):
    """Stages that last over a second are what Beam's multi_threading mode damages; each of these takes some."""
    out = tmp_path / "sums.json"
    with Runner("local", 2).pipeline() as pipeline:
        sums = (
            pipeline
            | beam.Create(range(SOURCES))
            | beam.Reshuffle()
            | "numbers" >> beam.FlatMap(_numbers)
            | "group" >> beam.GroupByKey()
            | "regroup" >> beam.FlatMapTuple(_regrouped)
            | "group again" >> beam.GroupByKey()
            | "add up" >> beam.MapTuple(lambda key, numbers: (key, sum(numbers)))
        )
        sums | beam.combiners.ToList() | "write" >> beam.Map(lambda found: out.write_text(json.dumps(sorted(found))))
    assert json.loads(out.read_text()) == [[key, sum(range(key, ELEMENTS, LAST_KEYS))] for key in range(LAST_KEYS)]


@pytest.mark.parametrize("name", ["local", "FnApiRunner"])
@pytest.mark.parametrize(
    "arguments",
    [["--direct_running_mode=multi_threading"], ["--direct_running_mode", "in_memory"], ["--direct_num_workers=4"]],
)
def test_beams_own_parallel_modes_are_refused(name, arguments):
    with (
        pytest.raises(InputError, match=r"--direct_.*--workers N gives N worker processes"),
        Runner(name, 2, arguments).pipeline(),
    ):
        pass


def test_hands_follow_the_step_the_tasks_and_the_dataset():
    rows, llm, shop = Needs(), Needs(threads=True), Needs(most_workers=3)
    assert Runner("local", 4).hands(rows, 100, True) == Hands("processes", 4)
    assert Runner("local", 4).hands(rows, 2, True) == Hands("processes", 2)
    assert Runner("local", 4).hands(rows, 1, True) == Hands("inline", 1)
    assert Runner("local", 1).hands(rows, 100, True) == Hands("inline", 1)
    assert Runner("local", 4).hands(rows, 100, False) == Hands("threads", 4)
    assert Runner("local", 4).hands(llm, 100, True) == Hands("threads", 4)
    assert Runner("local", 4).hands(shop, 100, True) == Hands("processes", 3)
    assert Runner("dask", 4).hands(rows, 100, True) == Hands("inline", 1)


@pytest.mark.parametrize(
    ("runner", "blocks"), [(Runner("local", 2), 1), (Runner("dask", 2), 8), (Runner("flink"), 100)]
)
def test_blocks_hold_every_task_once(runner, blocks):
    shared_out = runner.blocks(list(range(100)))
    assert len(shared_out) == blocks
    assert sorted(task for block in shared_out for task in block) == list(range(100))
    assert max(map(len, shared_out)) - min(map(len, shared_out)) <= 1
    assert runner.blocks([]) == []
