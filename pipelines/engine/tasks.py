"""The tasks of one run: what is there already, what has to be made as a Beam job, and its commit.

A killed run left finished column files that no manifest names: the next run finds them by their fingerprint in their
name and takes them over.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.engine.choosing import NOT_CHOSEN, Choice
from pipelines.engine.elsewhere import is_interruption
from pipelines.engine.makers import Maker, Task, bind
from pipelines.engine.output import Columns, Output, Rows
from pipelines.engine.owned import check_columns
from pipelines.engine.preview import Preview, stale_after
from pipelines.engine.progress import Progress
from pipelines.engine.recorded import recorded_versions
from pipelines.engine.runners import Runner
from pipelines.engine.source import HasRows
from pipelines.engine.step import Context, Derive, Step
from pipelines.engine.summary import RunSummary, installed_versions, new_run
from pipelines.engine.workers import release_workers
from schemas.columnfile import column_path
from schemas.commit import Change, commit
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.fingerprint import fingerprint
from schemas.lease import hold, pin, sweep
from schemas.manifest import FileEntry, FragmentEntry, Parent, StepEntry
from schemas.records import version_text
from schemas.standing import OK
from schemas.store import Store


@dataclass
class Work:
    """The work of one run: what is there already, and the tasks for what is not."""

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
    retrying: bool = False
    """The run is for rows to make again: a fragment that has none stays as it is."""
    usable: frozenset[str] = frozenset({OK})
    """The statuses of usable rows."""
    counted: Callable[[str], bool] = bool
    """Whether rows of a status count as ones that the step was asked to work on."""
    choice: Choice | None = None
    """The rows that are worked on, where they are not all."""
    due: Counter[str] = field(default_factory=Counter)
    """Status -> rows that have it now, and are made while the others of their file are kept."""
    unchosen: int = 0
    """Finished rows of files that are made otherwise, and that the run does not choose."""
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
        self.present = {entry.id: entry for entry in self.old.manifest.fragments} if self.old is not None else {}
        self.started, self.run_id = time.time(), new_run()

    @classmethod
    def open(cls, step: Step, source: str | Path, target: str | Path | None = None, retrying: bool = False) -> Work:
        dataset = Dataset.open(source)
        check_schema(step, dataset)
        schema_name = step.makes if isinstance(step, Derive) else dataset.schema_name
        if not isinstance(step, Derive):
            check_columns(step, dataset)
        bind(step, dataset)
        path = str(target or dataset.path)
        if retrying:
            step.dataset_versions = {**step.dataset_versions, **recorded_versions(step, path)}
        config, passed_over = step.config.model_dump(mode="json"), step.passed_over
        entry = StepEntry(
            version=step.version,
            config=config,
            name=step.name,
            depends_on=step.dependencies,
            statuses=step.status_rule,
        )
        others = [Dataset.open(step.dataset_paths[name], at=at) for name, at in step.dataset_versions.items()]
        return cls(
            step.name,
            path,
            schema_name,
            Rows() if isinstance(step, Derive) else Columns(step.name),
            entry,
            reads=[dataset, *others],
            retrying=retrying,
            counted=lambda status: status not in passed_over,
            choice=step.choice,
        )

    @property
    def source(self) -> Dataset:
        """The dataset whose fragments are worked on. An import has none."""
        return self.reads[0]

    @property
    def places(self) -> list[str]:
        """The datasets that workers open."""
        return list(dict.fromkeys([self.target, *(read.path for read in self.reads)]))

    def add(
        self,
        entry: FragmentEntry,
        plan: str,
        inputs: dict[str, str],
        due: Mapping[str, int],
        source: HasRows | None = None,
        rows: int | None = None,
        unmade: Callable[[FileEntry], int] | None = None,
    ) -> None:
        """Plan one column file of one fragment: keep it, try its failed rows again, or make it.

        `due` says how many of its rows have a status that is tried again. `source` is what it is made of, by default
        the fragment itself; `rows` is how many it must have, if known. `unmade` counts the rows of its present file
        that a new one would not have.
        """
        current = entry.files.get(self.output.file)
        # A file of some rows must not pass for that of all when a killed run left it.
        chosen = [self.choice.below] if self.choice else []
        previous, made_from = None, fingerprint("chosen", plan, chosen) if chosen else plan
        retry: tuple[str, ...] = ()
        damaged = current is not None and current.plan == plan and not self._is_whole(current)
        if current is not None and not damaged and (current.plan == plan or self.retrying):
            retry = tuple(sorted(due))
            if not retry:
                return self.keep(entry)
            if current.plan == plan:
                previous = current
                self.due.update(due)
                made_from = fingerprint("retry", retry, current.fingerprint, current.sha256, *chosen)
            else:
                retry = ()  # made from other inputs: its other rows cannot be kept beside new ones
        if current is not None and current.fingerprint != made_from:
            self.replaced.append((entry, self.output.file))
            if unmade is not None and previous is None and not damaged:
                self.unchosen += unmade(current)
        self.listed.append(FragmentEntry(id=entry.id, rows=entry.rows, files={}))
        path = column_path(entry.id, self.output.file, made_from)
        task = Task(entry.id, path, made_from, plan, source or entry, inputs, rows, previous, retry, anew=damaged)
        self.tasks.append(task)

    def keep(self, entry: FragmentEntry) -> None:
        """Leave one fragment as it is."""
        self.reused += 1
        # Alone, because it travels to the commit, which knows the other files.
        self.listed.append(replace(entry, files={"base": entry.files["base"]}))

    def _is_whole(self, file: FileEntry) -> bool:
        """Whether the file has its length. Elsewhere than on a local disk it would be a request for each."""
        if not self.store.local:
            return True
        try:
            return self.store.size(file.path) == file.bytes
        except OSError:
            return False

    def preview(self) -> Preview:
        """What `run` would do."""
        kept = {entry.id for entry in self.listed} if isinstance(self.output, Rows) else self.present.keys()
        removed = [entry for name, entry in self.present.items() if name not in kept]
        retried = [task for task in self.tasks if task.previous is not None]
        return Preview(
            self.name,
            self.target,
            made=len(self.tasks) - len(retried),
            reused=self.reused,
            retried=len(retried),
            retried_rows=self.due.total() - self.due[NOT_CHOSEN],
            newly_chosen=self.due[NOT_CHOSEN],
            removed=len(removed),
            unchosen=self.unchosen,
            stale=stale_after(self.replaced, removed),
        )

    def run(self, runner: Runner, maker: Maker, build: Callable[..., None] | None = None) -> RunSummary:
        """Make the tasks' files as a Beam job, and commit. With nothing to make, only the commit is checked."""
        change = self._change()
        if warning := self.preview().warning():
            print(warning, file=sys.stderr, flush=True)
        manifest = self._run_job(runner, maker, change, build) if self.tasks else commit(self.store, change).number
        return self._summary(manifest)

    def _run_job(self, runner: Runner, maker: Maker, change: Change, build: Callable[..., None] | None) -> int:
        runner.admit(self.name, maker.needs, self.places)
        with runner.session() as session:
            return self._run_here(session.fitted(self.name, maker.needs, self.store.shared), maker, change, build)

    def _run_here(self, runner: Runner, maker: Maker, change: Change, build: Callable[..., None] | None) -> int:
        hands = runner.hands(maker.needs, len(self.tasks), self.store.shared)
        context = Context(run=self.run_id, dataset=self.target, workers=runner.processes(maker.needs, hands))
        rows = sum(task.source_rows for task in self.tasks)
        with ExitStack() as leases:
            self.store.check_exclusive()
            # Also finds out, before any work is done, whether something can be written there at all.
            leases.enter_context(hold(self.store, run=self.run_id, manifest=change.base, makes=maker.name))
            for read in {one.path: one for one in self.reads if one.path != self.target}.values():
                leases.enter_context(pin(read.store, run=self.run_id, manifest=read.manifest.number))
            sweep(self.store)
            with self.store.write(f"runs/{self.run_id}/plan.json") as file:
                file.write(json.dumps({"step": self.name, "fragments": len(self.tasks), "rows": rows}).encode())
            try:
                runner.prestart(hands)
                # Here, because importing Beam takes a second, which worker processes and other commands do not need.
                from pipelines.engine.job import fragment_job, read_outcome

                with (
                    Progress(self.name, rows, self.store, self.run_id, runner.live),
                    runner.pipeline(self.name, self.run_id, maker.needs) as pipeline,
                ):
                    if build is None:
                        fragment_job(pipeline, runner.blocks(self.tasks), maker, context, hands, change)
                    else:
                        build(pipeline, maker, context, hands, change)
            except Exception as error:
                if is_interruption(error):
                    raise KeyboardInterrupt from None
                raise
            finally:
                release_workers(self.run_id)
            return read_outcome(self.store, context)

    def _change(self) -> Change:
        return Change(
            base=self.old.manifest.number if self.old is not None else 0,
            schema_version=version_text(self.schema_name),
            run=self.run_id,
            message=self.name,
            fragments=self.output.listed(self.listed),
            steps={self.output.file: self.step_entry} if self.step_entry else {},
            parents=self.parents,
            versions=installed_versions(),
            info=self.info,
        )

    def _summary(self, number: int) -> RunSummary:
        dataset = Dataset.open(self.target, at=number)
        statuses = dataset.manifest.statuses().get(self.output.file, {})
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
            ok=sum(statuses.get(status, 0) for status in self.usable) if statuses else None,
            asked=asked if statuses else None,
        )


def check_schema(step: Step, dataset: Dataset) -> None:
    """Raise InputError for a dataset of another kind than the step takes."""
    if step.takes not in (None, dataset.schema_name):
        raise InputError(
            f"{step.name}: {dataset.path} is a {dataset.schema_name} dataset, expected {step.takes}. Check the path."
        )
