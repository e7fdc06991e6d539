"""The Beam jobs, in Beam's portable core, so that every runner gives the same dataset.

Used: Create, Reshuffle, ParDo, GroupByKey, CoGroupByKey, ToList, and one leaf: the commit. Elements are tasks, never
images. A test walks each pipeline's proto and refuses anything else.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.engine.blocks import Range, Ranges, concatenate, cut, pack, with_row_offset
from pipelines.engine.makers import Maker, Task, VerdictMaker, fragment_rows
from pipelines.engine.progress import LIVE
from pipelines.engine.step import Context, DatasetStep
from schemas import errors
from schemas.columnfile import describe_column_file, write_column_file
from schemas.commit import Change, commit
from schemas.dataset import Fragment
from schemas.errors import LavaBeamError, SchemaError, StorageError
from schemas.manifest import FileEntry, FragmentEntry
from schemas.store import Store

OUTCOME = "outcome.json"


def fragment_job(pipeline: beam.Pipeline, tasks: list[Task], maker: Maker, context: Context, change: Change) -> None:
    """One column file per task, then the commit."""
    made = pipeline | "tasks" >> beam.Create(tasks) | beam.Reshuffle() | "make" >> beam.ParDo(Make(maker, context))
    _commit(made, maker, context, change)


def verdict_job(
    pipeline: beam.Pipeline,
    fragments: list[FragmentEntry],
    tasks: list[Task],
    maker: VerdictMaker,
    context: Context,
    change: Change,
) -> None:
    """Keys of every row of the dataset -> verdicts -> one column file per task, then the commit."""
    step, ranges = maker.step, cut(fragments, context.workers)
    keys = (
        pipeline
        | "ranges" >> beam.Create(ranges)
        | "spread" >> beam.Reshuffle()
        | "keys" >> beam.ParDo(ReadKeys(step, maker.target))
    )
    verdicts = step.verdicts(keys, Ranges.of(ranges))
    work = pipeline | "tasks" >> beam.Create(_tasks_of_ranges(tasks, ranges))
    made = (
        {"tasks": work, "verdicts": verdicts}
        | beam.CoGroupByKey()
        | "judge" >> beam.ParDo(MakeVerdicts(maker, context))
    )
    _commit(made, maker, context, change)


def _tasks_of_ranges(tasks: list[Task], ranges: list[Range]) -> list[tuple[int, list[tuple[int, Task]]]]:
    """(range number, its tasks, each with the number of its fragment's first row) for each range with a task."""
    by_fragment = {task.fragment: task for task in tasks}
    placed = [
        (part.number, [(start, by_fragment[entry.id]) for start, entry in part.placed() if entry.id in by_fragment])
        for part in ranges
    ]
    return [(number, work) for number, work in placed if work]


def read_outcome(store: Store, context: Context) -> int:
    """The manifest number that the job committed; raises the job's own error again, as it was."""
    outcome = json.loads(store.read(f"runs/{context.run}/{OUTCOME}"))
    if "error" in outcome:
        raise getattr(errors, outcome["error"])(outcome["message"])
    return outcome["manifest"]


def _commit(made: Any, maker: Maker, context: Context, change: Change) -> None:
    made | beam.combiners.ToList() | "commit" >> beam.ParDo(Commit(maker, context, change))


class Make(beam.DoFn):
    """Task -> (fragment id, FileEntry), or (fragment id, our error): a bad fragment does not stop the others."""

    def __init__(self, maker: Maker, context: Context):
        self.maker, self.context = maker, context

    def process(self, task: Task) -> Iterator[tuple[str, Any]]:
        try:
            yield task.fragment, worker_for(self.maker, self.context).make(task)
        except LavaBeamError as error:
            yield task.fragment, error


class ReadKeys(beam.DoFn):
    """Range -> a block of what is grouped, of its rows that take part."""

    def __init__(self, step: DatasetStep, target: str):
        self.step, self.target = step, target

    def process(self, part: Range) -> Iterator[bytes]:
        store, found = Store(self.target), []
        for start, entry in part.placed():
            for rows in fragment_rows(self.step, Fragment(store, entry)):
                found.append(with_row_offset(self.step.key(rows), start))
        if found:
            yield pack(pa.concat_batches(found))


class MakeVerdicts(beam.DoFn):
    """(range number, its tasks and the verdicts on its rows) -> (fragment id, FileEntry or our error) of each task."""

    def __init__(self, maker: VerdictMaker, context: Context):
        self.maker, self.context = maker, context

    def process(self, element: tuple[int, dict[str, Iterable]]) -> Iterator[tuple[str, Any]]:
        grouped = element[1]
        verdicts = concatenate(grouped["verdicts"], self.maker.step.verdict_schema).sort_by("row")
        rows = verdicts.column("row").to_numpy()
        for start, task in (entry for work in grouped["tasks"] for entry in work):
            first, last = np.searchsorted(rows, [start, start + task.source.rows])
            own = with_row_offset(verdicts.take(pa.array(np.arange(first, last))), -start)
            try:
                yield task.fragment, worker_for(self.maker, self.context).make(replace(task, verdicts=own))
            except LavaBeamError as error:
                yield task.fragment, error


class Commit(beam.DoFn):
    """The one leaf: all entries -> a manifest. What came of it lies in the run's outcome file."""

    def __init__(self, maker: Maker, context: Context, change: Change):
        self.name, self.target, self.context, self.change = maker.name, maker.target, context, change

    def process(self, made: list[tuple[str, Any]]) -> None:
        store = Store(self.target)
        try:
            outcome: dict[str, Any] = {"manifest": commit(store, self._change(dict(made))).number}
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
        files = {fragment: {name: entry} for fragment, entry in made.items()}
        return Change(**{**change.__dict__, "files": files})
    listed = [
        FragmentEntry(id=entry.id, rows=made[entry.id].rows, files={"base": made[entry.id]})
        if entry.id in made
        else entry
        for entry in change.fragments or []
    ]
    return Change(**{**change.__dict__, "fragments": listed})


def _make(maker: Maker, task: Task, context: Context) -> FileEntry:
    """Write the task's file, or take over a finished one that a killed run left; either way log it."""
    store, started = Store(maker.target), time.time()
    kept: dict[str, Any] = {"fingerprint": task.fingerprint, "plan": task.plan, "inputs": task.inputs}
    columns: dict[str, Any] = {"status_column": maker.status_column, "counted_by": maker.counted_by}
    entry = None
    if store.exists(task.path):
        entry = describe_column_file(store, task.path, rows=task.rows, **columns, **kept)
    reused = entry is not None
    if entry is None:
        counts, batches = maker.open(task)
        batches = _counted(batches, maker, context.run, task)
        kept |= {**columns, "counts": counts}
        entry = write_column_file(store, task.path, batches, maker.schema, maker.schema_name, **kept)
    else:
        LIVE.add(context.run, task.source_rows, entry.statuses)
    record = {"fragment": task.fragment, "file": task.path, "rows": entry.rows, "statuses": entry.statuses}
    record |= {
        "source_rows": task.source_rows,
        "reused": reused,
        "seconds": round(time.time() - started, 3),
        "host": socket.gethostname(),
    }
    record |= {"process": os.getpid(), "events": context.take_events()}
    with store.write(f"runs/{context.run}/{maker.name}-{task.fragment}.json") as file:
        file.write(json.dumps(record, default=str).encode())
    return entry


def _counted(batches: Iterator[pa.RecordBatch], maker: Maker, run: str, task: Task) -> Iterator[pa.RecordBatch]:
    """Pass batches on, show them as progress, and refuse a step that lost or invented rows."""
    rows, named = 0, maker.status_column
    for batch in batches:
        rows += batch.num_rows
        statuses = batch.column(named).to_pylist() if named in batch.schema.names else []
        LIVE.add(run, maker.source_rows(batch), {status: statuses.count(status) for status in set(statuses)})
        yield batch
    if task.rows is not None and rows != task.rows:
        raise SchemaError(f"{task.path}: the step returned {rows} rows for {task.rows}. Rows in must be rows out.")


class Worker:
    """What one process keeps for a run: the maker after `setup`, and its context."""

    def __init__(self, maker: Maker, context: Context):
        self.maker, self.context = maker, Context(context.run, context.dataset, context.workers)
        self.unwritable: StorageError | None = None
        maker.setup(self.context)

    def make(self, task: Task) -> FileEntry:
        """The task's file. Once a file could not be written the other tasks fail too, before they do their work."""
        if self.unwritable:
            raise self.unwritable
        try:
            return _make(self.maker, task, self.context)
        except StorageError as error:
            self.unwritable = error
            raise


_WORKERS: dict[tuple[str, str], Worker] = {}
_LOCK = threading.Lock()


def worker_for(maker: Maker, context: Context) -> Worker:
    """This process's worker for the run; set up once, however many threads and bundles ask for it."""
    key = (context.run, maker.name)
    with _LOCK:
        if key not in _WORKERS:
            _release(lambda other: other[0] != context.run and other[1] == maker.name)
            _WORKERS[key] = Worker(maker, context)
        return _WORKERS[key]


def release_workers(run: str) -> None:
    """Tear down what this process set up for `run`. Processes that a cluster keeps do so when they get other work."""
    with _LOCK:
        _release(lambda key: key[0] == run)


def _release(chosen: Any) -> None:
    for key in [key for key in _WORKERS if chosen(key)]:
        _WORKERS.pop(key).maker.teardown()
