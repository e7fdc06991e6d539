"""The step interface. A step is a small class of pure functions; `pipelines/engine/work.py` runs it as a Beam job.

Three kinds:
- `Step` adds a column file to every fragment of a dataset.
- `Derive` derives rows into another dataset whose fragments correspond one to one.
- `DatasetStep` considers all rows together: first keys per fragment, then verdicts over all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import pyarrow as pa

from pipelines.engine.blocks import Ranges
from schemas.config import StrictModel
from schemas.dataset import Dataset, Fragment
from schemas.entries import StatusRule
from schemas.fingerprint import fingerprint
from schemas.standing import Standing, Use

if TYPE_CHECKING:
    import apache_beam as beam

    from pipelines.engine.choosing import Choice


class Runtime:
    """Marks a config field that cannot change the output (concurrency, timeouts, the location of a cache).

    `thread_count: Annotated[int, Runtime()] = 64` is not part of the fingerprint: changing it recomputes nothing.
    """


class Later:
    """Marks a config field added after the step's first release: its default does not change fingerprints."""


class Config(StrictModel):
    """Base of every step's configuration: frozen, unknown keys refused."""

    def identity(self) -> dict[str, Any]:
        """The fields that decide the output, as JSON values."""
        later = {
            name
            for name, info in type(self).model_fields.items()
            if any(isinstance(mark, Later) for mark in info.metadata) and getattr(self, name) == info.get_default()
        }
        return self.model_dump(mode="json", exclude=later | runtime_fields(type(self)))


def runtime_fields(config: type[StrictModel]) -> set[str]:
    """The names of the fields that are marked `Runtime()`."""
    fields = config.model_fields.items()
    return {name for name, info in fields if any(isinstance(mark, Runtime) for mark in info.metadata)}


_EVENTS: ContextVar[list[dict] | None] = ContextVar("events of the current task", default=None)


@dataclass
class Context:
    """What a worker gives a step in `setup`."""

    run: str
    dataset: str
    workers: int = 1
    """Maximum number of worker processes, among which a rate limit is divided."""

    def log(self, event: dict[str, Any]) -> None:
        """Write what must not be in a column (times, hosts, attempts, cache hits) to the run log of the current task.

        The task is found from the thread that works on it and from coroutines that this thread submits; elsewhere an
        event belongs to no task and is dropped.
        """
        events = _EVENTS.get()
        if events is not None:
            events.append(event)

    @contextmanager
    def task(self) -> Iterator[list[dict]]:
        """Collects the events of the task that this thread works on until the block ends."""
        events: list[dict] = []
        token = _EVENTS.set(events)
        try:
            yield events
        finally:
            _EVENTS.reset(token)


@dataclass(frozen=True)
class Needs:
    """A step's requirements on the workers that run it. By default each core has its own worker process."""

    threads: bool = False
    """One process handles several fragments, one thread each, because the step waits for servers or holds a model
    that uses all cores or a GPU."""
    waits: bool = False
    """A fragment mostly waits, for hours: many are in progress at a time, whatever the number of cores."""
    most_workers: int | None = None
    """Maximum number of worker processes (a host's limit is divided among them)."""
    memory_gb: float | None = None
    """GiB of memory per worker process."""
    accelerator: str = ""
    """The GPU that a worker must have, in Beam's syntax (`type:nvidia-l4;count:1;install-nvidia-driver`), or `optional`
    for a step that uses one if available."""
    disk_gb: int | None = None
    """Maximum GB that all processes of a machine write to its disk."""
    model_files: tuple[str, ...] = ()
    """Local files and folders that every worker reads (weights, a tokenizer). Other machines need them in their
    image, at the same path."""
    divides_rates: bool = False
    """Whether its concurrency and rate limits are divided among all worker processes."""
    one_machine: str = ""
    """Why it must not run on several machines, and what to do instead, as a sentence; empty if it may."""


C = TypeVar("C", bound=Config)


class Step(Generic[C]):
    """Adds columns to every row and never drops one: a row that fails gets a status and a detail instead.

    One instance serves a worker process. If it `needs` threads, several may call `process` at once.
    """

    name: ClassVar[str]
    """A verb; also the name of the column file, and the prefix of `<name>_status` and `<name>_detail`."""
    version: ClassVar[int]
    """Incremented when the same input can give a different output."""
    Config: type[C]
    statuses: ClassVar[type[StrEnum]]
    """Every status a row can end with; has a member `ok`."""
    transient: ClassVar[frozenset[str]] = frozenset()
    """Statuses that `--retry transient` retries."""
    unfinished: ClassVar[frozenset[str]] = frozenset()
    """Statuses that any later run retries automatically (a spend cap was reached, ...)."""
    passed_over: ClassVar[frozenset[str]] = frozenset()
    """Statuses of rows that this step did not process, because an earlier step or its own options excluded them:
    `--min-ok` does not count them. `leaves_out` declares whether other steps can use such rows."""
    former_statuses: ClassVar[Mapping[str, str]] = {}
    """Statuses written by earlier releases -> their current names: `--retry` treats both alike."""
    leaves_out: ClassVar[frozenset[str]] = frozenset()
    """Statuses of unusable rows; `standing.NOT_OK` for all but `ok`. The manifest stores them, and
    `schemas/standing.py` evaluates them for readers."""
    by_choice: ClassVar[Mapping[str, str]] = {}
    """Status -> reason: rows excluded unless their reader includes that reason (a mix with `duplicates: keep`)."""
    counted_by: ClassVar[str | None] = None
    """A column by whose values the manifest also counts statuses: which hosts fail, not only how many rows."""
    takes: ClassVar[str | None] = None
    """The schema of its input dataset; None for any that has its columns."""
    datasets: ClassVar[tuple[str, ...]] = ()
    """Config fields that name another dataset, or several: a recipe looks for them in its folder of datasets, and a run
    reads the version of `dataset_versions`, which is kept until the run has ended. For a `DatasetStep`, their rows take
    part in the comparison but get no verdict."""
    reads_before: ClassVar[tuple[str, ...]] = ()
    """Its own previous columns, which a batch of rows to redo also has."""
    batch_rows: ClassVar[int] = 64

    standing: Standing | None = None
    """The rules of the dataset that is read, for a step with a `use`; the engine sets it before it plans."""
    choice: Choice | None = None
    """Which rows are processed, for a step whose Config is a `ChosenRows`; the engine sets it before it plans. Rows of
    a `Derive` that are not chosen have `not_chosen` in the column `left_out`; other steps never see them."""

    def __init__(self, config: C):
        self.config = config

    # A plain class attribute is enough for these three where they do not depend on the configuration.
    @property
    def reads(self) -> tuple[str, ...]:
        """Columns that every batch has. Their column files enter the fingerprint."""
        return ()

    @property
    def optional(self) -> tuple[str, ...]:
        """Columns that a batch has when its fragment has them."""
        return ()

    @property
    def adds(self) -> tuple[pa.Field, ...]:
        """The columns of the column file, before the status and its detail."""
        return ()

    def depends_on(self) -> dict[str, Any]:
        """What determines the output besides the configuration (hashes of prompt files or weights), as JSON values.

        It is part of the fingerprint and replaces an option of the same name there. Called once, in the process that
        starts the run.
        """
        return {}

    @cached_property
    def dataset_paths(self) -> dict[str, str]:
        """Option -> path of each dataset in `datasets`; `option.0`, `option.1` if an option takes several."""
        found: dict[str, str] = {}
        for name in self.datasets:
            value = getattr(self.config, name)
            if isinstance(value, str):
                found[name] = value
            else:
                found |= {f"{name}.{number}": path for number, path in enumerate(value or ())}
        return found

    @cached_property
    def dataset_versions(self) -> dict[str, int]:
        """The newest manifest number of each of `dataset_paths` when the run was planned; workers get the same numbers.

        Raises InputError for one that does not exist.
        """
        return {name: Dataset.open(path).manifest.number for name, path in self.dataset_paths.items()}

    def fragments(self, dataset: Dataset) -> Sequence[Fragment]:
        """The fragments to which this step adds its columns: all, unless some do not need it."""
        return dataset.fragments

    @property
    def use(self) -> Use | None:
        """How this step uses standing. With a `Use`, batches have the column `left_out` (`standing.reasons_in`)."""
        return None

    @property
    def asks_by(self) -> tuple[str, ...]:
        """The columns that `would_ask` looks at."""
        return ()

    def would_ask(self, rows: pa.Table) -> pa.Array | pa.ChunkedArray | None:
        """Which rows a limit counts, shape (rows,), bool: not those that the configuration excludes. None for all."""
        return None

    @property
    def status_rule(self) -> StatusRule | None:
        """The step's statuses as stored in the manifest."""
        if self.status_column is None:
            return None
        return StatusRule(
            step=self.name,
            column=self.status_column,
            unusable=sorted(map(str, self.leaves_out)),
            by_choice={str(status): reason for status, reason in self.by_choice.items()},
        )

    def setup(self, context: Context) -> None:
        """Called once per worker process: load models, open clients."""

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """As many rows as `batch`, with the columns of `output_schema`."""
        raise TypeError(f"step {self.name!r} defines neither process nor process_fragment")

    def process_fragment(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """All batches of one fragment, in order. Override to work across batches (requests in flight)."""
        return map(self.process, batches)

    def teardown(self) -> None:
        """Called once per worker process, at its end."""

    def doubt(self, dataset: Dataset) -> str:
        """Doubts about the finished result as a whole, as a sentence; empty for nothing. The command that ran
        the step then ends with a separate exit code."""
        return ""

    @property
    def needs(self) -> Needs:
        return Needs()

    @property
    def output_schema(self) -> pa.Schema:
        status = pa.field(f"{self.name}_status", pa.string(), nullable=False)
        return pa.schema([*self.adds, status, pa.field(f"{self.name}_detail", pa.string())])

    @property
    def status_column(self) -> str | None:
        return f"{self.name}_status"

    def rows_to_batch(self, rows: list[dict[str, Any]]) -> pa.RecordBatch:
        """Dictionaries as a batch of `output_schema`; `status` and `detail` may be given without the prefix."""
        prefixed = [{self._prefixed(key): value for key, value in row.items()} for row in rows]
        return pa.RecordBatch.from_pylist(prefixed, schema=self.output_schema)

    def fingerprint(self, inputs: dict[str, str]) -> str:
        """Hash of what determines the output: step, version, parameters, dependencies, and the files it reads."""
        return fingerprint(self.name, self.version, {**self._identity, **self.dependencies}, inputs)

    @cached_property
    def dependencies(self) -> dict[str, Any]:
        """What the fingerprint covers besides the configuration: `depends_on`, and `<name>_manifest` of each
        dataset."""
        versions = {f"{name}_manifest": number for name, number in self.dataset_versions.items()}
        return {**versions, **self.depends_on()}

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return self.config.identity()

    def plan(self, inputs: dict[str, str]) -> str:
        """The fingerprint, including the standing rules that decide which rows this step skips."""
        made, rules = self.fingerprint(inputs), self.standing.identity if self.standing else []
        return fingerprint(made, rules) if rules else made

    def _prefixed(self, key: str) -> str:
        return f"{self.name}_{key}" if key in ("status", "detail") else key


class Derive(Step[C]):
    """Derives rows of another schema, in another dataset with the same fragments.

    `process` may return any number of rows, but a source row never vanishes: if nothing was made of it, it becomes a
    row with a status. Fragments correspond one to one, so changing one source fragment redoes one fragment.
    """

    makes: ClassVar[str] = "conversations"
    schema: ClassVar[pa.Schema]
    chosen_by: ClassVar[tuple[str, ...]] = ("key",)
    """The columns that `keys_of` reads, for a step that can be limited."""

    def keys_of(self, made: pa.Table) -> pa.Array | pa.ChunkedArray:
        """The key of the source row that each row was `made` of."""
        return made.column("key")

    def process_again(
        self, batches: Iterator[pa.RecordBatch], previous: pa.Table, retry: tuple[str, ...]
    ) -> Iterator[pa.RecordBatch]:
        """`process_fragment` of a fragment of which `previous` was made, because some of it has a status in `retry`.

        By default everything is redone, which is right if good results come back unchanged, from a cache.
        """
        return self.process_fragment(batches)

    def source_rows(self, batch: pa.RecordBatch) -> int:
        """The number of source rows of a batch, for the progress of a run."""
        return batch.num_rows

    @property
    def output_schema(self) -> pa.Schema:
        return self.schema

    @property
    def status_column(self) -> str | None:
        return "status" if "status" in self.schema.names else None

    def _prefixed(self, key: str) -> str:
        return key


class DatasetStep(Step[C]):
    """Decides over all rows together, through Beam's GroupByKey: only keys and hashes are shuffled, never images.

    `keys` makes a column file per fragment, and only for new ones. The verdicts' fingerprint covers the keys of all
    fragments, so new rows give every fragment a new verdict file, and no new keys for the old ones.

    Rows are shuffled in blocks (pipelines/engine/blocks.py). A row's position is its number in the dataset, an int64.
    """

    keys: ClassVar[type[Step]]
    """A step with the same Config whose columns this one `reads`."""
    verdict_schema: ClassVar[pa.Schema]
    """The columns of a verdict; the first is `row`, int64."""

    def check(self, dataset: Dataset) -> None:
        """Raises InputError or SchemaError, before any work, where `dataset` is not one that this step can compare."""

    def key(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The columns to group, one row for each participating one of `rows`; the first column is `row`, int64.

        `rows` are the columns of `reads` of one fragment, and `row` counts from its first one.
        """
        raise TypeError(f"step {self.name!r} does not define key")

    def verdicts(self, keys: beam.PCollection[bytes], ranges: Ranges) -> beam.PCollection[tuple[int, bytes]]:
        """PCollection[block of what `key` returns] -> PCollection[(range number, block of `verdict_schema`)].

        `row` counts from the first row of the dataset here. Rows need not have a verdict, and no row has two. Rows of
        other datasets (`ranges.places[1:]`) have none. `rereading.reread` reads more columns of some rows.
        """
        raise TypeError(f"step {self.name!r} does not define verdicts")

    def judge(self, rows: pa.RecordBatch, verdicts: pa.RecordBatch) -> pa.RecordBatch:
        """The column file's rows for one fragment (the columns of `reads`), given the verdicts on some of its rows.

        `row` counts from the fragment's first row and ascends; `blocks.aligned` gives a verdict, or nulls, per row.
        """
        raise TypeError(f"step {self.name!r} does not define judge")
