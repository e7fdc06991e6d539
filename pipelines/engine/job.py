"""The Beam jobs, restricted to Beam's portable core so that every runner gives the same dataset.

Used: Create, Reshuffle, ParDo, GroupByKey, CoGroupByKey, ToList, and one leaf: the commit. Elements are blocks of
tasks, never images. A test walks each pipeline's proto and refuses anything else.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.engine.blocks import Range, Ranges, concatenate, pack, with_row_offset
from pipelines.engine.compared import placed_ranges
from pipelines.engine.makers import Maker, Task, VerdictMaker, fragment_rows
from pipelines.engine.step import Context, DatasetStep
from pipelines.engine.workers import Hands, workforce
from schemas import errors
from schemas.commit import Change, commit
from schemas.dataset import Dataset, Fragment
from schemas.errors import LavaBeamError
from schemas.manifest import FileEntry
from schemas.store import Store

OUTCOME = "outcome.json"
_RESULTS_TOGETHER = 256
"""Results that travel as one element: few large elements cost a runner less than many small ones."""


def fragment_job(
    pipeline: beam.Pipeline, blocks: list[list[Task]], maker: Maker, context: Context, hands: Hands, change: Change
) -> None:
    """One column file per task, then the commit. A block is what one worker of the runner gets at a time."""
    made = (
        pipeline
        | "tasks" >> beam.Create([pickle.dumps(block) for block in blocks])
        | beam.Reshuffle()
        | "make" >> beam.ParDo(Make(maker, context, hands)).with_resource_hints(**hands.resources)
    )
    _commit(made, maker, context, change)


def verdict_job(
    pipeline: beam.Pipeline,
    datasets: Sequence[Dataset],
    tasks: list[Task],
    maker: VerdictMaker,
    context: Context,
    hands: Hands,
    change: Change,
) -> None:
    """Keys of every row -> verdicts -> one column file per task, then the commit.

    `datasets`: the one that is worked on, then those that its rows are compared with.
    """
    step, (ranges, places) = maker.step, placed_ranges(datasets, context.workers)
    keys = (
        pipeline
        | "ranges" >> beam.Create(ranges)
        | "spread" >> beam.Reshuffle()
        | "keys" >> beam.ParDo(ReadKeys(step, maker.target))
    )
    verdicts = step.verdicts(keys, Ranges.of(ranges, places))
    work = pipeline | "tasks" >> beam.Create(_tasks_of_ranges(tasks, ranges))
    made = (
        {"tasks": work, "verdicts": verdicts}
        | beam.CoGroupByKey()
        | "judge" >> beam.ParDo(MakeVerdicts(maker, context, hands)).with_resource_hints(**hands.resources)
    )
    _commit(made, maker, context, change)


def _tasks_of_ranges(tasks: list[Task], ranges: list[Range]) -> list[tuple[int, list[tuple[int, Task]]]]:
    """(range number, its tasks, each with the number of its fragment's first row) for each range with a task."""
    by_fragment = {task.fragment: task for task in tasks}
    placed = [
        (part.number, [(start, by_fragment[entry.id]) for start, entry in part.placed() if entry.id in by_fragment])
        for part in ranges
        if not part.dataset
    ]
    return [(number, work) for number, work in placed if work]


def read_outcome(store: Store, context: Context) -> int:
    """The manifest number that the job committed; raises the job's own error again, as it was."""
    outcome = json.loads(store.read(f"runs/{context.run}/{OUTCOME}"))
    if "error" in outcome:
        raise getattr(errors, outcome["error"])(outcome["message"])
    return outcome["manifest"]


def _commit(made: beam.PCollection[bytes], maker: Maker, context: Context, change: Change) -> None:
    made | beam.combiners.ToList() | "commit" >> beam.ParDo(Commit(maker, context, change))


class Make(beam.DoFn):
    """A pickled block of tasks -> pickled lists of (fragment id, FileEntry or our error).

    A bad fragment does not stop the others.
    """

    def __init__(self, maker: Maker, context: Context, hands: Hands):
        self.maker, self.context, self.hands = maker, context, hands

    def process(self, block: bytes) -> Iterator[bytes]:
        results = _results(self.maker, self.context, self.hands, pickle.loads(block))
        while part := list(islice(results, _RESULTS_TOGETHER)):
            yield pickle.dumps(part)


class ReadKeys(beam.DoFn):
    """Range -> a block of what is grouped, of its rows that take part."""

    def __init__(self, step: DatasetStep, target: str):
        self.step, self.target = step, target

    def process(self, part: Range) -> Iterator[bytes]:
        store, found = Store(part.dataset or self.target), []
        for start, entry in part.placed():
            for rows in fragment_rows(self.step, Fragment(store, entry), judged=not part.dataset):
                found.append(with_row_offset(self.step.key(rows), start))
        if found:
            yield pack(pa.concat_batches(found))


class MakeVerdicts(beam.DoFn):
    """(range number, its tasks and the verdicts on its rows) -> pickled lists as `Make` gives them."""

    def __init__(self, maker: VerdictMaker, context: Context, hands: Hands):
        self.maker, self.context, self.hands = maker, context, hands

    def process(self, element: tuple[int, dict[str, Iterable]]) -> Iterator[bytes]:
        results = _results(self.maker, self.context, self.hands, list(self._tasks(element[1])))
        while part := list(islice(results, _RESULTS_TOGETHER)):
            yield pickle.dumps(part)

    def _tasks(self, grouped: dict[str, Iterable]) -> Iterator[Task]:
        """The tasks of the range, each with the verdicts on its own rows."""
        verdicts = concatenate(grouped["verdicts"], self.maker.step.verdict_schema).sort_by("row")
        rows = verdicts.column("row").to_numpy()
        for start, task in (entry for work in grouped["tasks"] for entry in work):
            first, last = np.searchsorted(rows, [start, start + task.source.rows])
            own = with_row_offset(verdicts.take(pa.array(np.arange(first, last))), -start)
            yield replace(task, verdicts=own)


class Commit(beam.DoFn):
    """The one leaf: all results -> a manifest. Its number, or the error, goes into the run's outcome file."""

    def __init__(self, maker: Maker, context: Context, change: Change):
        self.output, self.target, self.context, self.change = maker.output, maker.target, context, change

    def process(self, parts: list[bytes]) -> None:
        made = {fragment: result for part in parts for fragment, result in pickle.loads(part)}
        store = Store(self.target, token=self.context.run)
        try:
            outcome: dict[str, Any] = {"manifest": commit(store, self._change(made)).number}
        except LavaBeamError as error:
            outcome = {"error": type(error).__name__, "message": str(error)}
        with store.write(f"runs/{self.context.run}/{OUTCOME}") as file:
            file.write(json.dumps(outcome).encode())

    def _change(self, made: dict[str, FileEntry | LavaBeamError]) -> Change:
        failed = {fragment: entry for fragment, entry in made.items() if isinstance(entry, LavaBeamError)}
        if failed:
            first = failed[min(failed)]
            more = f" ({len(failed)} fragments failed; nothing was committed.)" if len(failed) > 1 else ""
            raise type(first)(f"{first}{more}")
        entries = {key: entry for key, entry in sorted(made.items()) if isinstance(entry, FileEntry)}
        return self.output.complete(self.change, entries)


def _results(
    maker: Maker, context: Context, hands: Hands, tasks: list[Task]
) -> Iterator[tuple[str, FileEntry | LavaBeamError]]:
    """(fragment id, its entry or our error) of each task, as they are finished."""
    try:
        force = workforce(maker, context, hands)
    except LavaBeamError as error:
        yield from ((task.fragment, error) for task in tasks)
        return
    for made in force.make(tasks):
        result = made.entry or made.error
        assert result is not None
        yield made.fragment, result
