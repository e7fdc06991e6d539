"""Makers: how each kind of step produces the batches of one column file. They run in workers, independent of Beam."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.engine.blocks import canonical
from pipelines.engine.choosing import NOT_CHOSEN, choice_of, made_now, with_choice
from pipelines.engine.output import Columns, Output, Rows
from pipelines.engine.source import HasRows, Source, SourceSlice
from pipelines.engine.step import Context, DatasetStep, Derive, Needs, Step
from schemas.columnfile import read_column_file
from schemas.dataset import Dataset, Fragment
from schemas.errors import SchemaError
from schemas.manifest import FileEntry, FragmentEntry
from schemas.standing import LEFT_OUT, Standing
from schemas.store import Store

Read = TypeVar("Read", bound=HasRows)


@dataclass(frozen=True)
class Task(Generic[Read]):
    """One column file to make: the element of every pipeline. Small, picklable, without any image."""

    fragment: str
    path: str
    fingerprint: str
    plan: str
    source: Read
    """What the maker reads: a FragmentEntry, or a slice of an importer's source."""
    inputs: dict[str, str] = field(default_factory=dict)
    rows: int | None = None
    """How many rows the file must have; None when the maker decides."""
    previous: FileEntry | None = None
    """The file whose rows with a status in `retry` are made again; its other rows are kept as they are."""
    retry: tuple[str, ...] = ()
    anew: bool = False
    """The file that the manifest names is gone or cut: it is made again, whatever is at its path."""
    verdicts: pa.RecordBatch | None = None
    """What a dataset-wide step found out about rows of this fragment."""

    @property
    def source_rows(self) -> int:
        """How many rows are worked on: what progress counts, whatever is made of them."""
        return self.rows if self.rows is not None else self.source.rows


class Maker(Generic[Read]):
    """`batches(task)` for one kind of work; `target` is the dataset that the files go to."""

    output: Output
    target: str
    schema_name: str
    schema: pa.Schema
    status_column: str | None
    counted_by: str | None = None
    needs = Needs()

    @property
    def name(self) -> str:
        """The name of the column files."""
        return self.output.file

    def setup(self, context: Context) -> None:
        """Once per worker process."""

    def batches(self, task: Task[Read]) -> Iterator[pa.RecordBatch]:
        raise TypeError(f"{type(self).__name__} does not define batches")

    def open(self, task: Task[Read]) -> tuple[dict[str, int] | None, Iterator[pa.RecordBatch]]:
        """The batches, and counts to keep beside them where no status column says what happened to the input."""
        return None, self.batches(task)

    def source_rows(self, batch: pa.RecordBatch) -> int:
        """How many of the task's `source_rows` a batch that was made comes from."""
        return batch.num_rows

    def teardown(self) -> None:
        """Once per worker process, at its end."""


class StepMaker(Maker[FragmentEntry]):
    """A `Step`: the batches of a fragment in, as many rows out."""

    def __init__(self, step: Step, target: str, schema_name: str):
        self.step, self.target, self.schema_name = step, target, schema_name
        self.needs = step.needs
        self.counted_by = step.counted_by
        self.output, self.schema, self.status_column = Columns(step.name), step.output_schema, step.status_column

    def setup(self, context: Context) -> None:
        self.step.setup(context)

    def teardown(self) -> None:
        self.step.teardown()

    def batches(self, task: Task[FragmentEntry]) -> Iterator[pa.RecordBatch]:
        made = self.step.process_fragment(self.given(task))
        return made if task.previous is None and self.step.choice is None else self._filled(made, task)

    def given(self, task: Task[FragmentEntry]) -> Iterator[pa.RecordBatch]:
        """What the step gets for a task: the rows of the fragment, without those that are finished or not chosen."""
        table = _input_table(self.step, Fragment(Store(self.target), task.source))
        if task.previous is not None or self.step.choice is not None:
            before, made = self._before(task)
            for name in self.step.reads_before if task.previous is not None else ():
                table = table.append_column(name, before.column(name))
            table = table.filter(made)
        return _batches(table, self.step.batch_rows)

    def _before(self, task: Task[FragmentEntry]) -> tuple[pa.Table, pa.ChunkedArray | pa.Array]:
        """What the file has before the step works, and which of its rows are made now, shape (rows,), bool."""
        assert self.status_column is not None
        if task.previous is not None:
            before = read_column_file(Store(self.target), task.previous)
            made = pc.is_in(before.column(self.status_column), value_set=pa.array(task.retry))
        else:
            before = self._unmade(task.source.rows)
            made = pa.chunked_array([pa.repeat(pa.scalar(True), before.num_rows)])
        if self.step.choice is None:
            return before, made
        return before, pc.and_(made, made_now(self.step, Fragment(Store(self.target), task.source)))

    def _unmade(self, rows: int) -> pa.Table:
        """`rows` rows that nothing was done about."""
        status = pa.repeat(pa.scalar(NOT_CHOSEN), rows)
        columns = [status if field.name == self.status_column else pa.nulls(rows, field.type) for field in self.schema]
        return pa.Table.from_arrays(columns, schema=self.schema)

    def _filled(self, made: Iterator[pa.RecordBatch], task: Task[FragmentEntry]) -> Iterator[pa.RecordBatch]:
        """What the file had before, with the rows that were `made` in their places, batch by batch."""
        (previous, again), fresh = self._before(task), _Rows(made, self.schema)
        for start in range(0, previous.num_rows, self.step.batch_rows):
            old = previous.slice(start, self.step.batch_rows).select(self.schema.names)
            redo = again.slice(start, self.step.batch_rows).to_numpy()
            new = fresh.take(int(redo.sum()))
            order = [0] * len(redo)
            for index, row in enumerate(redo.nonzero()[0]):
                order[row] = index + old.num_rows
            order = [order[row] if redo[row] else row for row in range(len(redo))]
            yield from pa.concat_tables([old, new]).take(order).combine_chunks().to_batches()


class DeriveMaker(Maker[FragmentEntry]):
    """A `Derive`: the batches of a fragment in, any number of rows of another schema out."""

    def __init__(self, step: Derive, source: str, target: str):
        self.step, self.source, self.target, self.schema_name = step, source, target, step.makes
        self.needs = step.needs
        self.output, self.schema, self.status_column = Rows(), step.output_schema, step.status_column

    def setup(self, context: Context) -> None:
        self.step.setup(context)

    def teardown(self) -> None:
        self.step.teardown()

    def source_rows(self, batch: pa.RecordBatch) -> int:
        return self.step.source_rows(batch)

    def batches(self, task: Task[FragmentEntry]) -> Iterator[pa.RecordBatch]:
        given, previous = self.given(task), self.previous(task)
        if previous is None:
            return self.step.process_fragment(given)
        return self.step.process_again(given, previous, task.retry)

    def given(self, task: Task[FragmentEntry]) -> Iterator[pa.RecordBatch]:
        """What the step gets for a task: the rows of the source's fragment."""
        return _batches(_input_table(self.step, Fragment(Store(self.source), task.source)), self.step.batch_rows)

    def previous(self, task: Task[FragmentEntry]) -> pa.Table | None:
        """What an earlier run made of the fragment, when some of it is retried."""
        return read_column_file(Store(self.target), task.previous) if task.previous is not None else None


class ImportMaker(Maker[SourceSlice]):
    """An importer: a slice of its source in, the rows of the base file out."""

    def __init__(self, importer: Source, target: str, schema: pa.Schema):
        self.importer, self.target, self.schema_name = importer, target, importer.makes
        self.output, self.schema, self.status_column = Rows(), schema, importer.status_column

    def batches(self, task: Task[SourceSlice]) -> Iterator[pa.RecordBatch]:
        table = self.importer.rows(task.source)
        if table.num_rows != task.source.rows:
            raise SchemaError(
                f"import {self.importer.name!r}: {table.num_rows} rows for {task.source.rows} source rows."
            )
        return _batches(table, 64)


class VerdictMaker(Maker[FragmentEntry]):
    """A `DatasetStep`'s second half: the batches of a fragment and the verdicts on its rows in."""

    def __init__(self, step: DatasetStep, target: str, schema_name: str):
        self.step, self.target, self.schema_name = step, target, schema_name
        self.needs = step.needs
        self.output, self.schema, self.status_column = Columns(step.name), step.output_schema, step.status_column

    def batches(self, task: Task[FragmentEntry]) -> Iterator[pa.RecordBatch]:
        assert task.verdicts is not None
        for rows in fragment_rows(self.step, Fragment(Store(self.target), task.source)):
            judged = self.step.judge(rows, task.verdicts)
            for start in range(0, judged.num_rows, self.step.batch_rows):
                yield canonical(judged.slice(start, self.step.batch_rows))


def fragment_rows(step: DatasetStep, fragment: Fragment, judged: bool = True) -> list[pa.RecordBatch]:
    """The columns of all rows of a fragment that `step` reads as one batch; none when the fragment is empty.

    `judged` is False for a fragment of a dataset that is only compared with: its rows' standing is not asked.
    """
    table = _input_table(step, fragment) if judged else fragment.read(list(step.reads))
    return table.combine_chunks().to_batches()


def input_columns(step: Step, fragment: FragmentEntry) -> list[str]:
    """The columns of `fragment` that `step` reads."""
    present = {column for file in fragment.files.values() for column in file.columns}
    asked = step.standing.columns_in(present) if step.standing else []
    return list(dict.fromkeys([*step.reads, *(column for column in step.optional if column in present), *asked]))


def bind(step: Step, dataset: Dataset) -> None:
    """Give `step` the rules of the dataset that it reads, when it has a `use` for them, and the choice of its rows."""
    if step.use is not None:
        step.standing = Standing.of(dataset, step.use, before=None if isinstance(step, Derive) else step.name)
    step.choice = choice_of(step, dataset)


def input_batches(step: Step, dataset: Dataset) -> Iterator[pa.RecordBatch]:
    """The batches that `step` would get of all of `dataset`: for estimates."""
    bind(step, dataset)
    for fragment in dataset.fragments:
        table = _input_table(step, fragment)
        if step.choice is not None and not isinstance(step, Derive):
            table = table.filter(step.choice.of(table.column("key")))
        yield from _batches(table, step.batch_rows)


def _input_table(step: Step, fragment: Fragment) -> pa.Table:
    table = fragment.read(input_columns(step, fragment.entry))
    if step.standing:
        table = table.append_column(LEFT_OUT, step.standing.reasons(table))
    return with_choice(step, table) if isinstance(step, Derive) else table


def _batches(table: pa.Table, rows: int) -> Iterator[pa.RecordBatch]:
    """`table` in batches of exactly `rows` rows, the last one shorter; images are copied one batch at a time."""
    for start in range(0, table.num_rows, rows):
        yield from table.slice(start, rows).combine_chunks().to_batches()


class _Rows:
    """Batches of any size, taken out again by number of rows."""

    def __init__(self, batches: Iterator[pa.RecordBatch], schema: pa.Schema):
        self.batches, self.left = batches, schema.empty_table()

    def take(self, rows: int) -> pa.Table:
        while self.left.num_rows < rows:
            self.left = pa.concat_tables([self.left, pa.Table.from_batches([next(self.batches)])])
        taken, self.left = self.left.slice(0, rows), self.left.slice(rows)
        return taken
