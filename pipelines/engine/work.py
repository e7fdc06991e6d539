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
from typing import Any

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
from pipelines.engine.processes import prestart
from pipelines.engine.progress import Progress
from pipelines.engine.runners import Runner
from pipelines.engine.step import Context, DatasetStep, Derive, Step
from pipelines.engine.workers import Hands, release_workers
from schemas.columnfile import column_path
from schemas.commit import Change, commit
from schemas.config import StrictModel
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.fingerprint import fingerprint
from schemas.lease import hold, pin, sweep
from schemas.manifest import FragmentEntry, Parent, StepEntry
from schemas.records import version_text
from schemas.store import Store


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
        work.add(fragment.entry, step.name, step.plan(inputs), inputs, again)
    return work.run(runner, StepMaker(step, work.target, work.schema_name))


def run_derive(step: Derive, source: str | Path, target: str | Path, runner: Runner, retry: str = "") -> RunSummary:
    """Make, or bring up to date, the dataset `target` that `step` derives from `source`."""
    work = Work.open(step, source, target)
    again = retried_statuses(step, retry)
    for fragment in work.source.fragments:
        inputs = fragment.inputs(input_columns(step, fragment.entry))
        plan = step.plan(inputs)
        old = work.present.get(fragment.id) or FragmentEntry(id=fragment.id, rows=0, files={})
        work.add(old, "base", plan, {}, again, source=fragment.entry)
    work.parents = [work.source.as_parent()]
    return work.run(runner, DeriveMaker(step, work.source.path, work.target))


def run_import(importer: Any, target: str | Path, runner: Runner) -> RunSummary:
    """Bring the rows of a source into `target`; rows appended to the source since the last import come alone."""
    work = Work("import", str(target), importer.makes)
    slices = importer.slices([entry.rows for entry in work.present.values()])
    identity = _identity(importer.config)
    for number, slice_ in enumerate(slices):
        plan = fingerprint("import", importer.name, importer.version, identity, slice_.digest)
        empty = FragmentEntry(id=f"{number:04d}-{plan[:8]}", rows=slice_.rows, files={})
        work.add(work.present.get(empty.id, empty), "base", plan, {}, frozenset(), source=slice_)
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
        work.add(fragment.entry, step.name, fingerprint(step.plan(own), inputs), own, frozenset())

    def build(pipeline: Any, maker: Any, context: Context, hands: Hands, change: Change) -> None:
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
    source: Any = None
    step_entry: StepEntry | None = None
    parents: list[Parent] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    tasks: list[Task] = field(default_factory=list)
    listed: list[FragmentEntry] = field(default_factory=list)
    reused: int = 0
    reads: list[Dataset] = field(default_factory=list)
    """Datasets besides `source` that the run reads: what they hold now stays until it ends."""

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
        entry = StepEntry(version=step.version, config=step.config.model_dump(mode="json"), statuses=step.status_rule)
        return cls(step.name, str(target or dataset.path), schema_name, dataset, entry)

    def add(
        self,
        entry: FragmentEntry,
        name: str,
        plan: str,
        inputs: dict[str, str],
        again: frozenset[str],
        source: Any = None,
    ) -> None:
        """Plan one column file of one fragment: keep it, try its failed rows again, or make it."""
        current = entry.files.get(name)
        previous, made_from = None, plan
        retry: tuple[str, ...] = ()
        if current is not None and current.plan == plan:
            retry = tuple(sorted(again & current.statuses.keys()))
            if not retry:
                self.reused += 1
                # Alone, because it travels to the commit, which knows the other files.
                self.listed.append(replace(entry, files={"base": entry.files["base"]}))
                return
            previous = current
            made_from = fingerprint("retry", retry, current.fingerprint, current.sha256)
        rows = None if name == "base" and not hasattr(source, "digest") else entry.rows
        self.listed.append(FragmentEntry(id=entry.id, rows=entry.rows, files={}))
        path = column_path(entry.id, name, made_from)
        self.tasks.append(Task(entry.id, path, made_from, plan, inputs, rows, source or entry, previous, retry))

    def run(self, runner: Runner, maker: Maker, build: Callable[..., None] | None = None) -> RunSummary:
        """Make the tasks' files as a Beam job, and commit. With nothing to make, only the commit is checked."""
        change = self._change(maker.name)
        manifest = self._run_job(runner, maker, change, build) if self.tasks else commit(self.store, change).number
        return self._summary(maker.name, manifest)

    def _run_job(self, runner: Runner, maker: Maker, change: Change, build: Callable[..., None] | None) -> int:
        hands = runner.hands(maker.needs, len(self.tasks), self.store.shared)
        processes = hands.count if hands.kind == "processes" else 1
        context = Context(run=self.run_id, dataset=self.target, workers=processes if runner.live else runner.count)
        rows = sum(task.source_rows for task in self.tasks)
        with ExitStack() as leases:
            # Also finds out, before any work is done, whether something can be written there at all.
            leases.enter_context(hold(self.store, run=self.run_id, manifest=change.base, makes=maker.name))
            for read in {
                one.path: one for one in (self.source, *self.reads) if one and one.path != self.target
            }.values():
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
            finally:
                release_workers(self.run_id)
            return read_outcome(self.store, context)

    def _change(self, file_name: str) -> Change:
        makes_rows = file_name == "base"
        return Change(
            base=self.old.manifest.number if self.old else 0,
            schema_version=version_text(self.schema_name),
            run=self.run_id,
            message=self.name,
            fragments=self.listed if makes_rows else None,
            steps={"base" if makes_rows else file_name: self.step_entry} if self.step_entry else {},
            parents=self.parents,
            versions=_versions(),
            info=self.info,
        )

    def _summary(self, file_name: str, number: int) -> RunSummary:
        dataset = Dataset.open(self.target, at=number)
        statuses = dataset.manifest.statuses().get(file_name, {})
        seconds = round(time.time() - self.started, 2)
        return RunSummary(
            self.name, self.target, number, dataset.rows, statuses, len(self.tasks), self.reused, seconds, self.run_id
        )


def _identity(config: StrictModel) -> dict[str, Any]:
    return config.identity() if hasattr(config, "identity") else config.model_dump(mode="json")


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
