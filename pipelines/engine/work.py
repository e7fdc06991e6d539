"""Running a step: plan what is missing, make it as a Beam job, commit it. A rerun makes only what is missing.

A killed run left finished column files that no manifest names: the next run finds them by their fingerprint in their
name and takes them over.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.engine.makers import (
    DeriveMaker,
    ImportMaker,
    Maker,
    StepMaker,
    Task,
    VerdictMaker,
    bind,
    input_columns,
)
from pipelines.engine.output import Columns, Output, Rows
from pipelines.engine.processes import prestart
from pipelines.engine.progress import Progress
from pipelines.engine.runners import Runner
from pipelines.engine.source import HasRows, Source
from pipelines.engine.step import Context, DatasetStep, Derive, Step
from pipelines.engine.workers import Hands, release_workers
from schemas.columnfile import column_path
from schemas.commit import Change, commit
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.fingerprint import fingerprint
from schemas.lease import hold, pin, sweep
from schemas.manifest import FileEntry, FragmentEntry, Parent, StepEntry
from schemas.records import version_text
from schemas.store import Store

if TYPE_CHECKING:
    import apache_beam as beam


@dataclass(frozen=True)
class RunSummary:
    """What a run did. `made` and `reused` count fragments; `statuses` count rows of the whole dataset."""

    step: str
    dataset: str
    manifest: int
    rows: int
    statuses: dict[str, int]
    made: int
    reused: int
    seconds: float
    run: str = ""
    notes: tuple[str, ...] = ()
    """What a user should look at: nothing went wrong, but perhaps not as it was meant."""


def run_step(step: Step, dataset: str | Path, runner: Runner, retry: str = "") -> RunSummary:
    """Add `step`'s columns to the fragments of `dataset` that lack them.

    `retry` names statuses (separated by commas; `transient` is the step's own set) whose rows are made again.
    Raises InputError for an unknown status, SchemaError when a column that the step reads is missing.
    """
    if isinstance(step, DatasetStep):
        run_step(step.keys(step.config), dataset, runner)
        return _run_verdicts(step, dataset, runner)
    work = Work.open(step, dataset)
    again = retried_statuses(step, retry)
    for fragment in work.source.fragments:
        inputs = fragment.inputs(input_columns(step, fragment.entry))
        work.add(fragment.entry, step.plan(inputs), inputs, again, rows=fragment.rows)
    return work.run(runner, StepMaker(step, work.target, work.schema_name))


def run_derive(step: Derive, source: str | Path, target: str | Path, runner: Runner, retry: str = "") -> RunSummary:
    """Make, or bring up to date, the dataset `target` that `step` derives from `source`."""
    work = Work.open(step, source, target)
    again = retried_statuses(step, retry)
    for fragment in work.source.fragments:
        inputs = fragment.inputs(input_columns(step, fragment.entry))
        plan = step.plan(inputs)
        old = work.present.get(fragment.id) or FragmentEntry(id=fragment.id, rows=0, files={})
        work.add(old, plan, {}, again, source=fragment.entry)
    work.parents = [work.source.as_parent()]
    return work.run(runner, DeriveMaker(step, work.source.path, work.target))


def run_import(importer: Source, target: str | Path, runner: Runner) -> RunSummary:
    """Bring the rows of a source into `target`; rows appended to the source since the last import come alone."""
    work = Work("import", str(target), importer.makes)
    slices = importer.slices([entry.rows for entry in work.present.values()])
    identity = importer.config.identity()
    for number, slice_ in enumerate(slices):
        plan = fingerprint("import", importer.name, importer.version, identity, slice_.digest)
        empty = FragmentEntry(id=f"{number:04d}-{plan[:8]}", rows=slice_.rows, files={})
        work.add(work.present.get(empty.id, empty), plan, {}, frozenset(), source=slice_, rows=slice_.rows)
    if not slices:
        raise InputError(f"import {importer.name!r}: the source has no rows. Nothing was written.")
    work.step_entry = StepEntry(
        version=importer.version, config=importer.config.model_dump(mode="json"), statuses=importer.status_rule
    )
    return work.run(runner, ImportMaker(importer, work.target, importer.rows(slices[0]).schema))


def retried_statuses(step: Step, retry: str) -> frozenset[str]:
    """The statuses that a run makes again; raises InputError for one that the step does not have."""
    asked: set[str] = set()
    for word in filter(None, (part.strip() for part in retry.split(","))):
        if word == "transient":
            asked |= step.transient
        elif word in {status.value for status in step.statuses}:
            asked.add(word)
        else:
            known = ", ".join(["transient", *(status.value for status in step.statuses)])
            raise InputError(f"--retry {word}: {step.name} has no such status. Known: {known}.")
    return frozenset(asked | step.unfinished)


def _run_verdicts(step: DatasetStep, dataset: str | Path, runner: Runner) -> RunSummary:
    work = Work.open(step, dataset)
    inputs = [fragment.inputs(input_columns(step, fragment.entry)) for fragment in work.source.fragments]
    for fragment, own in zip(work.source.fragments, inputs, strict=True):
        work.add(fragment.entry, fingerprint(step.plan(own), inputs), own, frozenset(), rows=fragment.rows)

    def build(pipeline: beam.Pipeline, maker: VerdictMaker, context: Context, hands: Hands, change: Change) -> None:
        from pipelines.engine.job import verdict_job

        fragments = [fragment.entry for fragment in work.source.fragments]
        verdict_job(pipeline, fragments, work.tasks, maker, context, hands, change)

    return work.run(runner, VerdictMaker(step, work.target, work.schema_name), build)


@dataclass
class Work:
    """The plan of one run: what is there already, and the tasks for what is not."""

    name: str
    target: str
    schema_name: str
    output: Output = field(default_factory=Rows)
    step_entry: StepEntry | None = None
    parents: list[Parent] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    tasks: list[Task[Any]] = field(default_factory=list)
    listed: list[FragmentEntry] = field(default_factory=list)
    reused: int = 0
    reads: list[Dataset] = field(default_factory=list)
    """Datasets that the run reads, `source` first: what they hold now stays until it ends."""

    def __post_init__(self) -> None:
        self.store = Store(self.target)
        self.old = Dataset.open(self.target) if Dataset.exists(self.target) else None
        if self.old is not None and self.old.schema_name != self.schema_name:
            raise InputError(
                f"{self.target}: holds {self.old.schema_name!r} rows, {self.name!r} makes {self.schema_name!r}. "
                "Choose another folder."
            )
        self.present = {entry.id: entry for entry in self.old.manifest.fragments} if self.old else {}
        self.started, self.run_id = time.time(), _new_run()

    @classmethod
    def open(cls, step: Step, source: str | Path, target: str | Path | None = None) -> Work:
        dataset = Dataset.open(source)
        schema_name = step.makes if isinstance(step, Derive) else dataset.schema_name
        bind(step, dataset)
        config = step.config.model_dump(mode="json")
        entry = StepEntry(version=step.version, config=config, depends_on=step.dependencies, statuses=step.status_rule)
        others = [Dataset.open(getattr(step.config, name), at=at) for name, at in step.dataset_versions.items()]
        output = Rows() if isinstance(step, Derive) else Columns(step.name)
        return cls(step.name, str(target or dataset.path), schema_name, output, entry, reads=[dataset, *others])

    @property
    def source(self) -> Dataset:
        """The dataset whose fragments are worked on. An import has none."""
        return self.reads[0]

    def add(
        self,
        entry: FragmentEntry,
        plan: str,
        inputs: dict[str, str],
        again: frozenset[str],
        source: HasRows | None = None,
        rows: int | None = None,
    ) -> None:
        """Plan one column file of one fragment: keep it, try its failed rows again, or make it.

        `source` is what it is made of, by default the fragment itself; `rows` is how many it must have, if known.
        """
        current = entry.files.get(self.output.file)
        previous, made_from = None, plan
        retry: tuple[str, ...] = ()
        damaged = current is not None and current.plan == plan and not self._is_whole(current)
        if current is not None and current.plan == plan and not damaged:
            retry = tuple(sorted(again & current.statuses.keys()))
            if not retry:
                self.reused += 1
                # Alone, because it travels to the commit, which knows the other files.
                self.listed.append(replace(entry, files={"base": entry.files["base"]}))
                return
            previous = current
            made_from = fingerprint("retry", retry, current.fingerprint, current.sha256)
        self.listed.append(FragmentEntry(id=entry.id, rows=entry.rows, files={}))
        path = column_path(entry.id, self.output.file, made_from)
        task = Task(entry.id, path, made_from, plan, source or entry, inputs, rows, previous, retry, anew=damaged)
        self.tasks.append(task)

    def _is_whole(self, file: FileEntry) -> bool:
        """Whether the file has its length. Elsewhere than on a local disk it would be a request for each."""
        if not self.store.local:
            return True
        try:
            return self.store.size(file.path) == file.bytes
        except OSError:
            return False

    def run(self, runner: Runner, maker: Maker, build: Callable[..., None] | None = None) -> RunSummary:
        """Make the tasks' files as a Beam job, and commit. With nothing to make, only the commit is checked."""
        change = self._change()
        manifest = self._run_job(runner, maker, change, build) if self.tasks else commit(self.store, change).number
        return self._summary(manifest)

    def _run_job(self, runner: Runner, maker: Maker, change: Change, build: Callable[..., None] | None) -> int:
        hands = runner.hands(maker.needs, len(self.tasks), self.store.shared)
        processes = hands.count if hands.kind == "processes" else 1
        context = Context(run=self.run_id, dataset=self.target, workers=processes if runner.live else runner.count)
        rows = sum(task.source_rows for task in self.tasks)
        with ExitStack() as leases:
            # Also finds out, before any work is done, whether something can be written there at all.
            leases.enter_context(hold(self.store, run=self.run_id, manifest=change.base, makes=maker.name))
            for read in {one.path: one for one in self.reads if one.path != self.target}.values():
                leases.enter_context(pin(read.store, run=self.run_id, manifest=read.manifest.number))
            sweep(self.store)
            with self.store.write(f"runs/{self.run_id}/plan.json") as file:
                file.write(json.dumps({"step": self.name, "fragments": len(self.tasks), "rows": rows}).encode())
            try:
                if hands.kind == "processes":
                    prestart(processes)
                # Here, because importing Beam takes a second, which worker processes and other commands do not need.
                from pipelines.engine.job import fragment_job, read_outcome

                with Progress(self.name, rows, self.store, self.run_id, runner.live), runner.pipeline() as pipeline:
                    if build is None:
                        fragment_job(pipeline, runner.blocks(self.tasks), maker, context, hands, change)
                    else:
                        build(pipeline, maker, context, hands, change)
            except Exception as error:
                if _is_interruption(error):
                    raise KeyboardInterrupt from None
                raise
            finally:
                release_workers(self.run_id)
            return read_outcome(self.store, context)

    def _change(self) -> Change:
        return Change(
            base=self.old.manifest.number if self.old else 0,
            schema_version=version_text(self.schema_name),
            run=self.run_id,
            message=self.name,
            fragments=self.output.listed(self.listed),
            steps={self.output.file: self.step_entry} if self.step_entry else {},
            parents=self.parents,
            versions=_versions(),
            info=self.info,
        )

    def _summary(self, number: int) -> RunSummary:
        dataset = Dataset.open(self.target, at=number)
        statuses = dataset.manifest.statuses().get(self.output.file, {})
        seconds = round(time.time() - self.started, 2)
        return RunSummary(
            self.name, self.target, number, dataset.rows, statuses, len(self.tasks), self.reused, seconds, self.run_id
        )


def _is_interruption(error: BaseException | None) -> bool:
    """Whether Beam made this of a Ctrl-C: it raises a RuntimeError with the words of any exception in a step."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt) or str(error).startswith("KeyboardInterrupt"):
            return True
        error = error.__cause__ or error.__context__
    return False


def _new_run() -> str:
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


def _versions() -> dict[str, str]:
    names = ("lavabeam", "apache-beam", "pyarrow", "pillow", "openai")
    known = {}
    for name in names:
        try:
            known[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return known
