"""The Beam jobs, in Beam's portable core, so that every runner gives the same dataset.

Used: Create, Reshuffle, ParDo, GroupByKey, CoGroupByKey, ToList, and one leaf: the commit. Elements are blocks of
tasks, never images. A test walks each pipeline's proto and refuses anything else.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import apache_beam as beam

from pipelines.engine.makers import Maker, Task, VerdictMaker
from pipelines.engine.step import Context, DatasetStep
from pipelines.engine.workers import Hands, workforce
from schemas import errors
from schemas.commit import Change, commit
from schemas.dataset import Fragment
from schemas.errors import LavaBeamError
from schemas.manifest import FileEntry, FragmentEntry
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
        | "make" >> beam.ParDo(Make(maker, context, hands))
    )
    _commit(made, maker, context, change)


def verdict_job(
    pipeline: beam.Pipeline,
    fragments: list[FragmentEntry],
    tasks: list[Task],
    maker: VerdictMaker,
    context: Context,
    hands: Hands,
    change: Change,
) -> None:
    """Keys of every row of the dataset -> verdicts -> one column file per task, then the commit."""
    step = maker.step
    keys = (
        pipeline
        | "fragments" >> beam.Create(fragments)
        | "spread" >> beam.Reshuffle()
        | "keys" >> beam.ParDo(ReadKeys(step, maker.target))
    )
    verdicts = step.verdicts(keys) | "by fragment" >> beam.MapTuple(lambda place, made: (place[0], (place[1], made)))
    work = pipeline | "tasks" >> beam.Create([(task.fragment, task) for task in tasks])
    made = (
        {"task": work, "verdicts": verdicts}
        | beam.CoGroupByKey()
        | "judge" >> beam.ParDo(MakeVerdicts(maker, context, hands))
    )
    _commit(made, maker, context, change)


def read_outcome(store: Store, context: Context) -> int:
    """The manifest number that the job committed; raises the job's own error again, as it was."""
    outcome = json.loads(store.read(f"runs/{context.run}/{OUTCOME}"))
    if "error" in outcome:
        raise getattr(errors, outcome["error"])(outcome["message"])
    return outcome["manifest"]


def _commit(made: Any, maker: Maker, context: Context, change: Change) -> None:
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
    """FragmentEntry -> ((fragment id, row), key) of each row that takes part."""

    def __init__(self, step: DatasetStep, target: str):
        self.step, self.target = step, target

    def process(self, fragment: FragmentEntry) -> Iterator[tuple[tuple[str, int], Any]]:
        row = 0
        for batch in Fragment(Store(self.target), fragment).batches(self.step.reads, 1024):
            for key in self.step.key(batch):
                if key is not None:
                    yield (fragment.id, row), key
                row += 1


class MakeVerdicts(beam.DoFn):
    """(fragment id, its task and the verdicts on its rows) -> a pickled list as `Make` gives them."""

    def __init__(self, maker: VerdictMaker, context: Context, hands: Hands):
        self.maker, self.context, self.hands = maker, context, hands

    def process(self, element: tuple[str, dict[str, Iterable]]) -> Iterator[bytes]:
        _, grouped = element
        tasks = [replace(task, verdicts=dict(grouped["verdicts"])) for task in grouped["task"]]
        yield pickle.dumps(list(_results(self.maker, self.context, self.hands, tasks)))


class Commit(beam.DoFn):
    """The one leaf: all results -> a manifest. Its number, or the error, goes into the run's outcome file."""

    def __init__(self, maker: Maker, context: Context, change: Change):
        self.name, self.target, self.context, self.change = maker.name, maker.target, context, change

    def process(self, parts: list[bytes]) -> None:
        made = {fragment: result for part in parts for fragment, result in pickle.loads(part)}
        store = Store(self.target)
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
            more = f" ({len(failed)} fragments have such a problem; nothing was committed.)" if len(failed) > 1 else ""
            raise type(first)(f"{first}{more}")
        return with_files(self.change, self.name, {key: made[key] for key in sorted(made)})  # type: ignore[misc]


def with_files(change: Change, name: str, made: dict[str, FileEntry]) -> Change:
    """`change` with the files that were made: base files of its listed fragments, or a step's column files."""
    if name != "base":
        return replace(change, files={fragment: {name: entry} for fragment, entry in made.items()})
    listed = [
        FragmentEntry(id=entry.id, rows=made[entry.id].rows, files={"base": made[entry.id]})
        if entry.id in made
        else entry
        for entry in change.fragments or []
    ]
    return replace(change, fragments=listed)


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
