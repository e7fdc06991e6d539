"""Running a step: plan what is missing, make it as a Beam job, commit it. A rerun makes only what is missing.

A killed run left finished column files that no manifest names: the next run finds them by their fingerprint in their
name and takes them over.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.engine.makers import DeriveMaker, Maker, StepMaker, Task, VerdictMaker, input_columns
from pipelines.engine.preview import Preview, stale_after
from pipelines.engine.processes import prestart
from pipelines.engine.progress import Progress
from pipelines.engine.recorded import own_words, retried_statuses
from pipelines.engine.runners import Runner
from pipelines.engine.step import Context, DatasetStep, Derive, Step
from pipelines.engine.summary import RunSummary, installed_versions, new_run
from pipelines.engine.workers import Hands, release_workers
from schemas.columnfile import column_path
from schemas.commit import Change, commit
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.fingerprint import fingerprint
from schemas.lease import hold, pin, sweep
from schemas.manifest import FragmentEntry, Parent, StepEntry
from schemas.records import version_text
from schemas.store import Store


def run_step(step: Step, dataset: str | Path, runner: Runner, retry: str = "") -> RunSummary:
    """Add `step`'s columns to the fragments of `dataset` that lack them.

    `retry` names statuses (separated by commas; `transient` is the step's own set) whose rows are made again; then
    fragments without such a row are left as they are, whatever they were made with.
    Raises InputError for an unknown status, SchemaError when a column that the step reads is missing.
    """
    if isinstance(step, DatasetStep):
        retried_statuses(step, retry)
        run_step(step.keys(step.config), dataset, runner, own_words(step.keys, retry))
        work = _verdict_work(step, dataset)
        return work.run(runner, VerdictMaker(step, work.target, work.schema_name), _verdict_job(work))
    work = _column_work(step, dataset, retry)
    return work.run(runner, StepMaker(step, work.target, work.schema_name))


def run_derive(step: Derive, source: str | Path, target: str | Path, runner: Runner, retry: str = "") -> RunSummary:
    """Make, or bring up to date, the dataset `target` that `step` derives from `source`."""
    work = _derive_work(step, source, target, retry)
    return work.run(runner, DeriveMaker(step, work.source.path, work.target))


def preview_step(step: Step, dataset: str | Path, retry: str = "") -> Preview:
    """What `run_step` would do; raises the same errors before anything is done."""
    if not isinstance(step, DatasetStep):
        return _column_work(step, dataset, retry).preview()
    retried_statuses(step, retry)
    keys = _column_work(step.keys(step.config), dataset, own_words(step.keys, retry))
    if not keys.tasks:
        return _verdict_work(step, dataset).preview()
    # New keys decide about all rows: every fragment gets a new verdict, whatever the keys will be.
    work = Work.open(step, dataset)
    for fragment in work.source.fragments:
        work.add(fragment.entry, step.name, "", {}, frozenset())
    return keys.preview().with_verdicts(work.preview())


def preview_derive(step: Derive, source: str | Path, target: str | Path, retry: str = "") -> Preview:
    """What `run_derive` would do; raises the same errors before anything is done."""
    return _derive_work(step, source, target, retry).preview()


def _column_work(step: Step, dataset: str | Path, retry: str) -> Work:
    work = Work.open(step, dataset, retrying=bool(retry))
    again = retried_statuses(step, retry)
    for fragment in work.source.fragments:
        inputs = fragment.inputs(input_columns(step, fragment.entry))
        work.add(fragment.entry, step.name, step.fingerprint(inputs), inputs, again)
    return work


def _derive_work(step: Derive, source: str | Path, target: str | Path, retry: str) -> Work:
    work = Work.open(step, source, target, retrying=bool(retry))
    again = retried_statuses(step, retry)
    for fragment in work.source.fragments:
        inputs = fragment.inputs(input_columns(step, fragment.entry))
        old = work.present.get(fragment.id) or FragmentEntry(id=fragment.id, rows=0, files={})
        work.add(old, "base", step.fingerprint(inputs), {}, again, source=fragment.entry)
    work.parents = [work.source.as_parent()]
    return work


def _verdict_work(step: DatasetStep, dataset: str | Path) -> Work:
    work = Work.open(step, dataset)
    inputs = [fragment.inputs(input_columns(step, fragment.entry)) for fragment in work.source.fragments]
    for fragment, own in zip(work.source.fragments, inputs, strict=True):
        work.add(fragment.entry, step.name, fingerprint(step.fingerprint(own), inputs), own, frozenset())
    return work


def _verdict_job(work: Work) -> Callable[..., None]:
    def build(pipeline: Any, maker: Any, context: Context, hands: Hands, change: Change) -> None:
        from pipelines.engine.job import verdict_job

        fragments = [fragment.entry for fragment in work.source.fragments]
        verdict_job(pipeline, fragments, work.tasks, maker, context, hands, change)

    return build


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
    retrying: bool = False
    """The run is for rows to make again: a fragment that has none stays as it is."""
    usable: str = "ok"
    """The status of usable rows."""
    counted: Callable[[str], bool] = bool
    """Whether rows of a status count as ones that the step was asked to work on."""
    makes_rows: bool = False
    """Base files are made: what is not listed goes away."""
    replaced: list[tuple[FragmentEntry, str]] = field(default_factory=list)
    """Files that are there, and that the run makes otherwise: (fragment, name)."""

    def __post_init__(self) -> None:
        self.store = Store(self.target)
        self.old = Dataset.open(self.target) if Dataset.exists(self.target) else None
        if self.old is not None and self.old.schema_name != self.schema_name:
            raise InputError(
                f"{self.target}: holds {self.old.schema_name!r} rows, {self.name!r} makes {self.schema_name!r}. "
                "Choose another folder."
            )
        self.present = {entry.id: entry for entry in self.old.manifest.fragments} if self.old else {}
        self.started, self.run_id = time.time(), new_run()

    @classmethod
    def open(cls, step: Step, source: str | Path, target: str | Path | None = None, retrying: bool = False) -> Work:
        dataset = Dataset.open(source)
        schema_name = step.makes if isinstance(step, Derive) else dataset.schema_name
        entry = StepEntry(version=step.version, config=step.config.model_dump(mode="json"), name=step.name)
        path, left_out = str(target or dataset.path), step.left_out
        return cls(
            step.name,
            path,
            schema_name,
            dataset,
            entry,
            retrying=retrying,
            counted=lambda status: status not in left_out,
        )

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
        self.makes_rows = name == "base"
        current = entry.files.get(name)
        previous, made_from = None, plan
        retry: tuple[str, ...] = ()
        if current is not None and (current.plan == plan or self.retrying):
            retry = tuple(sorted(again & current.statuses.keys()))
            if not retry:
                self.reused += 1
                # Alone, because it travels to the commit, which knows the other files.
                self.listed.append(replace(entry, files={"base": entry.files["base"]}))
                return
            if current.plan == plan:
                previous = current
                made_from = fingerprint("retry", retry, current.fingerprint, current.sha256)
            else:
                retry = ()  # made from other inputs: its other rows cannot be kept beside new ones
        if current is not None:
            self.replaced.append((entry, name))
        rows = None if name == "base" and not hasattr(source, "digest") else entry.rows
        self.listed.append(FragmentEntry(id=entry.id, rows=entry.rows, files={}))
        path = column_path(entry.id, name, made_from)
        self.tasks.append(Task(entry.id, path, made_from, plan, inputs, rows, source or entry, previous, retry))

    def preview(self) -> Preview:
        """What `run` would do."""
        kept = {entry.id for entry in self.listed} if self.makes_rows else self.present.keys()
        removed = [entry for name, entry in self.present.items() if name not in kept]
        retried = [task for task in self.tasks if task.previous is not None]
        return Preview(
            self.name,
            self.target,
            made=len(self.tasks) - len(retried),
            reused=self.reused,
            retried=len(retried),
            retried_rows=sum(task.previous.statuses[one] for task in retried if task.previous for one in task.retry),
            removed=len(removed),
            stale=stale_after(self.replaced, removed),
        )

    def run(self, runner: Runner, maker: Maker, build: Callable[..., None] | None = None) -> RunSummary:
        """Make the tasks' files as a Beam job, and commit. With nothing to make, only the commit is checked."""
        change = self._change(maker.name)
        if warning := self.preview().warning():
            print(warning, file=sys.stderr, flush=True)
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
            versions=installed_versions(),
            info=self.info,
        )

    def _summary(self, file_name: str, number: int) -> RunSummary:
        dataset = Dataset.open(self.target, at=number)
        statuses = dataset.manifest.statuses().get(file_name, {})
        asked = sum(count for status, count in statuses.items() if self.counted(status))
        return RunSummary(
            self.name,
            self.target,
            number,
            dataset.rows,
            statuses,
            len(self.tasks),
            self.reused,
            round(time.time() - self.started, 2),
            self.run_id,
            ok=statuses.get(self.usable, 0) if statuses else None,
            asked=asked if statuses else None,
        )
