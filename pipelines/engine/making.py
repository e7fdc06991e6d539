"""Makes one column file: a task in, its manifest entry and run log line out. Independent of Beam."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.engine.counting import Count, Done, counting
from pipelines.engine.makers import Maker, Task
from pipelines.engine.step import Context
from schemas.columnfile import describe_column_file, write_column_file
from schemas.errors import LavaBeamError, SchemaError
from schemas.manifest import FileEntry
from schemas.store import Store


@dataclass(frozen=True)
class Made:
    """The result of a task: an entry for the manifest and a record for the run log, or our error."""

    fragment: str
    entry: FileEntry | None = None
    record: dict[str, Any] | None = None
    error: LavaBeamError | None = None


def make(maker: Maker, task: Task, context: Context, count: Count) -> Made:
    """Make the task's file, or take over a finished one that a killed run left. Our errors are part of the result."""
    try:
        return _make(maker, task, context, count)
    except LavaBeamError as error:
        return Made(task.fragment, error=error)


def _make(maker: Maker, task: Task, context: Context, count: Count) -> Made:
    store, started = Store(maker.target, token=context.run), time.time()
    kept: dict[str, Any] = {"fingerprint": task.fingerprint, "plan": task.plan, "inputs": task.inputs}
    columns: dict[str, Any] = {"status_column": maker.status_column, "counted_by": maker.counted_by}
    entry = None
    if store.exists(task.path) and not task.anew:
        entry = describe_column_file(store, task.path, rows=task.rows, **columns, **kept)
    reused = entry is not None
    with counting(count), context.task() if not reused else _no_events() as events:
        if entry is None:
            counts, batches = maker.open(task)
            batches = _counted(batches, maker, task, count)
            kept |= {**columns, "counts": counts}
            entry = write_column_file(store, task.path, batches, maker.schema, maker.schema_name, **kept)
        else:
            count(Done(task.source_rows, dict(entry.statuses)))
    if task.previous is not None and entry.sha256 == task.previous.sha256:
        # The retry changed nothing: what was made from these rows stays.
        store.remove(task.path)
        entry = task.previous
    record = {
        "fragment": task.fragment,
        "file": entry.path,
        "rows": entry.rows,
        "statuses": dict(entry.statuses),
        "source_rows": task.source_rows,
        "reused": reused,
        "seconds": round(time.time() - started, 3),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "events": events,
    }
    return Made(task.fragment, entry, record)


def _no_events() -> AbstractContextManager[list[dict]]:
    return nullcontext([])


def _counted(batches: Iterator[pa.RecordBatch], maker: Maker, task: Task, count: Count) -> Iterator[pa.RecordBatch]:
    """Pass batches on, count them as progress, and refuse a step that lost or invented rows."""
    rows, named = 0, maker.status_column
    for batch in batches:
        rows += batch.num_rows
        statuses = batch.column(named).to_pylist() if named in batch.schema.names else []
        count(Done(maker.source_rows(batch), {status: statuses.count(status) for status in set(statuses)}))
        yield batch
    if task.rows is not None and rows != task.rows:
        raise SchemaError(f"{task.path}: the step returned {rows} rows for {task.rows}. Rows in must be rows out.")
