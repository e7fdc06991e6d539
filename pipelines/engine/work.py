"""Running a step: add its columns, or make the dataset that it derives. A rerun makes only what is missing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines.engine.choosing import left_to_do, unmade_rows
from pipelines.engine.compared import check_compared
from pipelines.engine.makers import DeriveMaker, StepMaker, VerdictMaker, input_columns
from pipelines.engine.owned import check_columns
from pipelines.engine.preview import Preview
from pipelines.engine.recorded import own_words, retried_statuses
from pipelines.engine.runners import Runner
from pipelines.engine.step import Context, DatasetStep, Derive, Step
from pipelines.engine.summary import RunSummary
from pipelines.engine.tasks import Work, check_schema
from pipelines.engine.workers import Hands
from schemas.commit import Change
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.fingerprint import fingerprint
from schemas.manifest import FragmentEntry

if TYPE_CHECKING:
    import apache_beam as beam


def run_step(step: Step, dataset: str | Path, runner: Runner, retry: str = "") -> RunSummary:
    """Add `step`'s columns to the fragments of `dataset` that lack them.

    `retry` names statuses (separated by commas; `transient` is the step's own set) whose rows are made again; then
    fragments without such a row are left as they are, whatever they were made with.
    Raises InputError for an unknown status, SchemaError when a column that the step reads is missing.
    """
    if isinstance(step, DatasetStep):
        _check_verdicts(step, dataset, retry)
        with runner.session() as session:
            run_step(step.keys(step.config), dataset, session, own_words(step.keys, retry))
            work = _verdict_work(step, dataset)
            return work.run(session, VerdictMaker(step, work.target, work.schema_name), _verdict_job(work))
    work = _column_work(step, dataset, retry)
    return _looked_at(step, work.run(runner, StepMaker(step, work.target, work.schema_name)))


def run_derive(step: Derive, source: str | Path, target: str | Path, runner: Runner, retry: str = "") -> RunSummary:
    """Make, or bring up to date, the dataset `target` that `step` derives from `source`."""
    work = _derive_work(step, source, target, retry)
    return _looked_at(step, work.run(runner, DeriveMaker(step, work.source.path, work.target)))


def preview_step(step: Step, dataset: str | Path, retry: str = "") -> Preview:
    """What `run_step` would do; raises the same errors before anything is done."""
    if not isinstance(step, DatasetStep):
        return _column_work(step, dataset, retry).preview()
    _check_verdicts(step, dataset, retry)
    keys = _column_work(step.keys(step.config), dataset, own_words(step.keys, retry))
    if not keys.tasks:
        return _verdict_work(step, dataset).preview()
    # New keys decide about all rows: every fragment gets a new verdict, whatever the keys will be.
    work = Work.open(step, dataset)
    for fragment in work.source.fragments:
        work.add(fragment.entry, "of new keys", {}, {}, rows=fragment.rows)
    return keys.preview().with_verdicts(work.preview())


def preview_derive(step: Derive, source: str | Path, target: str | Path, retry: str = "") -> Preview:
    """What `run_derive` would do; raises the same errors before anything is done."""
    return _derive_work(step, source, target, retry).preview()


def batches_to_retry(
    step: Step, dataset: str | Path, target: str | Path | None, retry: str
) -> Iterator[tuple[pa.RecordBatch, pa.Table | None, tuple[str, ...]]]:
    """For estimates, the batches that a run with `retry` would give to `step`.

    With each one, for a `Derive` (which has a `target`): what was made of its fragment before, where that is not made
    anew, and the statuses that are retried.
    """
    if isinstance(step, Derive):
        work = _derive_work(step, dataset, target or "", retry)
        derived = DeriveMaker(step, work.source.path, work.target)
        for task in work.tasks:
            previous = derived.previous(task)
            yield from ((batch, previous, task.retry) for batch in derived.given(task))
        return
    work = _column_work(step, dataset, retry)
    maker = StepMaker(step, work.target, work.schema_name)
    for task in work.tasks:
        yield from ((batch, None, task.retry) for batch in maker.given(task))


def _looked_at(step: Step, summary: RunSummary) -> RunSummary:
    return replace(summary, doubt=step.doubt(Dataset.open(summary.dataset, at=summary.manifest)))


def _check_verdicts(step: DatasetStep, dataset: str | Path, retry: str) -> None:
    """Raises what would stop the run, before the keys are made."""
    opened = Dataset.open(dataset)
    check_schema(step, opened)
    check_columns(step, opened)
    check_columns(step.keys(step.config), opened)
    step.check(opened)
    check_compared(step, opened)
    retried_statuses(step, retry)


def _column_work(step: Step, dataset: str | Path, retry: str) -> Work:
    work = Work.open(step, dataset, retrying=bool(retry))
    again = retried_statuses(step, retry)
    for fragment in step.fragments(work.source):
        inputs = fragment.inputs(input_columns(step, fragment.entry))
        due = left_to_do(step, work.store, fragment.entry.files.get(work.output.file), again, fragment)
        unmade = partial(unmade_rows, step, work.store, rows=fragment)
        work.add(fragment.entry, step.plan(inputs), inputs, due, rows=fragment.rows, unmade=unmade)
    return work


def _derive_work(step: Derive, source: str | Path, target: str | Path, retry: str) -> Work:
    work = Work.open(step, source, target, retrying=bool(retry))
    _check_origin(step, work)
    again = retried_statuses(step, retry)
    for fragment in work.source.fragments:
        inputs = fragment.inputs(input_columns(step, fragment.entry))
        old = work.present.get(fragment.id) or FragmentEntry(id=fragment.id, rows=0, files={})
        due = left_to_do(step, work.store, old.files.get(work.output.file), again, fragment)
        unmade = partial(unmade_rows, step, work.store, rows=fragment)
        work.add(old, step.plan(inputs), {}, due, source=fragment.entry, unmade=unmade)
    work.parents = [work.source.as_parent()]
    return work


def _check_origin(step: Derive, work: Work) -> None:
    """Raises InputError where the target has rows that `step` did not make from this source: it would replace them."""
    if work.old is None or not work.present:
        return
    manifest = work.old.manifest
    base, parents = manifest.steps.get("base"), [parent.path for parent in manifest.parents]
    # Releases before 0.2 did not record the name: rows with a parent are not imported ones.
    made_by = (base.name if base else "") or (step.name if parents else "import")
    fragments = {fragment.id for fragment in work.source.fragments}
    same = any(_same_folder(path, work.source.path) for path in parents) or not fragments.isdisjoint(work.present)
    if made_by == step.name and same:
        return
    origin = f"made by {made_by} from {', '.join(parents)}" if parents else "imported"
    raise InputError(
        f"{work.target}: its rows were {origin}, and {step.name} of {work.source.path} would replace them all. "
        "Give another folder, or delete this one."
    )


def _same_folder(path: str, other: str) -> bool:
    return path == other or os.path.abspath(path) == os.path.abspath(other)


def _verdict_work(step: DatasetStep, dataset: str | Path) -> Work:
    work = Work.open(step, dataset)
    inputs = [fragment.inputs(input_columns(step, fragment.entry)) for fragment in work.source.fragments]
    for fragment, own in zip(work.source.fragments, inputs, strict=True):
        work.add(fragment.entry, fingerprint(step.plan(own), inputs), own, {}, rows=fragment.rows)
    return work


def _verdict_job(work: Work) -> Callable[..., None]:
    def build(pipeline: beam.Pipeline, maker: VerdictMaker, context: Context, hands: Hands, change: Change) -> None:
        from pipelines.engine.job import verdict_job

        verdict_job(pipeline, work.reads, work.tasks, maker, context, hands, change)

    return build
