"""Runs a mix: a fragment of each source becomes a fragment of the mix, so changing one redoes one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pipelines.engine.preview import Preview
from pipelines.engine.runlog import read_records
from pipelines.engine.runners import Runner
from pipelines.engine.summary import RunSummary
from pipelines.engine.tasks import Work
from pipelines.mix.choose import Choice, Survey, chosen
from pipelines.mix.judge import CONVERSATION_COLUMNS, Judge
from pipelines.mix.lengths import CANNOT_ENCODE, NOTHING_TO_LEARN, TOO_LONG
from pipelines.mix.lock import Lock, read_lock, write_lock
from pipelines.mix.maker import AS_TEXT, CUT, PICTURE_UNREADABLE, SPLIT, TAKEN, MixFragment, MixMaker, judges_of
from pipelines.mix.recipe import MixRecipe, MixSource
from schemas.chat import ImageRule, encode, get_template, load_tokenizer
from schemas.dataset import Dataset, Fragment
from schemas.errors import InputError
from schemas.fingerprint import fingerprint
from schemas.manifest import FileEntry, FragmentEntry, StepEntry

VERSION = 5
_COUNTED_TOGETHER = 64
"""Fragments without a row for the mix that share a file, by their place: those that are added change few others."""
UNFIT = {CANNOT_ENCODE: "cannot be encoded", PICTURE_UNREADABLE: "have a picture that cannot be read"}
"""Reasons that the run's log explains row by row, and what they say about rows."""

TAKEN_AS = frozenset({TAKEN, AS_TEXT, CUT, SPLIT})

LOST = (CANNOT_ENCODE, PICTURE_UNREADABLE, NOTHING_TO_LEARN, TOO_LONG)
"""Why rows that were chosen are not in the mix: it is seen when their pictures and text are read."""

COUNTED = frozenset({*TAKEN_AS, *LOST, "image_missing"})
"""What `--min-ok` counts: rows taken, and rows that the recipe asks for and that no training can use. The others were
left out by an earlier step, or by the recipe's own filters and weights."""

PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
"""Encoded before anything runs: a tokenizer without the template's control tokens is reported at once."""


@dataclass
class Planned:
    """A mix before it is made: the datasets that it reads, by path, and what was chosen of each source."""

    recipe: MixRecipe
    opened: dict[str, Dataset]
    judges: dict[str, Judge]
    surveys: dict[str, Survey]


def run_mix(recipe: MixRecipe, target: str | Path, runner: Runner, lock: Lock | None = None) -> RunSummary:
    """Make, or bring up to date, the samples dataset `target`, and its validation part where the recipe has one.

    lock: read the datasets as they were when it was written, and choose the same rows. Raises InputError for a missing
    dataset, column, kind of image rule, template or tokenizer, before anything runs; and, with a lock, where the mix
    that was made differs from it.
    """
    planned = plan_mix(recipe, lock)
    summary = _run_part(planned, str(target), runner, False)
    if recipe.validation:
        beside = _run_part(planned, validation_of(target), runner, True)
        note = f"validation: {beside.rows} rows with held-out pictures are in {beside.dataset}."
        summary = replace(summary, notes=(*summary.notes, note, *beside.notes))
    if lock is not None:
        lock.check(read_lock(target), str(target))
    return summary


def preview_mix(recipe: MixRecipe, target: str | Path) -> Preview:
    """What `run_mix` would do with `target` and its validation part; raises the same errors."""
    planned = plan_mix(recipe)
    preview = mix_work(planned, str(target)).preview()
    if not recipe.validation:
        return preview
    return replace(preview, parts=(mix_work(planned, validation_of(target), True).preview(),))


def validation_of(target: str | Path) -> str:
    """Where the validation part of a mix lies."""
    return f"{str(target).rstrip('/')}-validation"


def plan_mix(recipe: MixRecipe, lock: Lock | None = None, every: bool = False) -> Planned:
    """Open and check what a mix reads, and choose its rows; raises the errors of `run_mix`.

    every: look at the rows of sources too that need no choice.
    """
    tokenizer, rule = load_tokenizer(recipe.tokenizer), ImageRule.from_dict(recipe.image) if recipe.image else None
    encode(PROBE, [], get_template(recipe.template), tokenizer, rule)
    versions = lock.versions(recipe) if lock is not None else {}
    paths = [path for source in recipe.sources.values() for path in _paths(source)]
    opened = {path: Dataset.open(path, versions.get(path)) for path in paths}
    for name, source in recipe.sources.items():
        images = opened[source.images] if source.images is not None else None
        _check_columns(name, source, opened[source.dataset], images)
    judges = judges_of(recipe, opened)
    return Planned(recipe, opened, judges, chosen(recipe, judges, every))


def _run_part(planned: Planned, target: str, runner: Runner, validation: bool) -> RunSummary:
    work = mix_work(planned, target, validation)
    versions = {path: dataset.manifest.number for path, dataset in planned.opened.items()}
    summary = work.run(runner, MixMaker(planned.recipe, work.target, versions, validation))
    write_lock(target, planned.recipe, planned.opened)
    notes = (
        *_empty_sources(planned.recipe, planned.opened, summary),
        *(() if validation else _short_sources(planned, summary)),
        *_unfit_rows(work, summary),
    )
    return replace(summary, notes=notes)


def mix_work(planned: Planned, target: str, validation: bool = False) -> Work:
    """What has to be made of `target`: the part that is trained on, or the validation part."""
    recipe, opened = planned.recipe, planned.opened
    tokenizer, rule = load_tokenizer(recipe.tokenizer), ImageRule.from_dict(recipe.image) if recipe.image else None
    work = Work("mix", target, "samples", usable=TAKEN_AS, counted=lambda reason: reason in COUNTED)
    work.step_entry = StepEntry(version=VERSION, config=recipe.model_dump(mode="json"), name="mix")
    for name, judge in planned.judges.items():
        decided = _decided_by(recipe, name, tokenizer.hash, rule)
        pictures = _Pictures(judge)
        decided |= {"standing": [judge.standing.identity, pictures.standing.identity if pictures.standing else None]}
        decided |= {"validation part": True} if validation else {}
        for id, members in _fragments(name, judge, planned.surveys.get(name)):
            plan = fingerprint("mix", VERSION, decided, *(_inputs(judge, pictures, *one) for one in members))
            first, *rest = (MixFragment(name, fragment.entry, choice) for fragment, choice in members)
            part = replace(first, rest=tuple(rest))
            entry = work.present.get(id, FragmentEntry(id=id, rows=part.rows, files={}))
            work.add(entry, plan, {}, {}, source=part)
    work.parents, work.reads = [dataset.as_parent() for dataset in opened.values()], list(opened.values())
    work.info = {
        "tokenizer": {"hash": tokenizer.hash, "image_id": tokenizer.image_id},
        "template": recipe.template,
        "image": rule.to_dict() if rule else None,
        "max_tokens": recipe.max_tokens,
    }
    return work


_Member = tuple[Fragment, Choice | None]


def _fragments(name: str, judge: Judge, survey: Survey | None) -> Iterator[tuple[str, list[_Member]]]:
    """The fragments of a mix that a source becomes, by id: one for each of its own.

    Those of which no row is taken are one per 64 fragments of the source: where six sources share a dataset, most
    fragments are so. Only a survey knows them before they are made.
    """
    start, empty = 0, dict[int, list[_Member]]()
    for number, fragment in enumerate(judge.dataset.fragments):
        choice = survey.fragment(start, fragment.rows) if survey is not None else None
        if survey is None or survey.any_of(start, fragment.rows):
            yield f"{name}-{fragment.id}", [(fragment, choice)]
        else:
            empty.setdefault(number // _COUNTED_TOGETHER, []).append((fragment, choice))
        start += fragment.rows
    for members in empty.values():
        yield f"{name}-{members[0][0].id}", members


def _inputs(judge: Judge, pictures: _Pictures, fragment: Fragment, choice: Choice | None) -> str:
    """A fingerprint of all that decides what becomes of a fragment's rows, but for the recipe."""
    columns = [*_columns(judge.source), *judge.standing.columns_in(fragment.owner)]
    known = [choice.identity, _joined_inputs(judge, choice, columns)] if choice is not None else []
    return fingerprint(fragment.inputs(columns), pictures.of(fragment), *known)


def _joined_inputs(judge: Judge, choice: Choice, columns: list[str]) -> list[Any]:
    """The files of other fragments whose rows a fragment takes over."""
    rows = [row for others in choice.joined.values() for row in others]
    parts = {part.id: part for part in (judge.dataset.locate(row)[0] for row in rows)}
    return [parts[name].inputs([one for one in columns if one in parts[name].owner]) for name in sorted(parts)]


def _short_sources(planned: Planned, summary: RunSummary) -> Iterator[str]:
    """A note for each source with an exact number of rows of which some could not be trained on."""
    made = _made(summary)
    for name, found in planned.surveys.items():
        if not planned.recipe.sources[name].counts:
            continue
        counts = _counts(planned.opened, planned.recipe, name, made)
        lost = {reason: counts[reason] for reason in LOST if counts[reason]}
        if lost:
            why = ", ".join(f"{number} {reason}" for reason, number in lost.items())
            yield f"mix source {name!r}: {len(found.open)} rows were selected, but not all are usable: {why}."


def _empty_sources(recipe: MixRecipe, opened: dict[str, Dataset], summary: RunSummary) -> Iterator[str]:
    """A note for each source of which the mix has no row, with the reasons."""
    made = _made(summary)
    for name in recipe.sources:
        counts = _counts(opened, recipe, name, made)
        if not any(counts[status] for status in TAKEN_AS):
            why = ", ".join(f"{number} {reason}" for reason, number in counts.most_common()) or "it has no rows"
            yield f"mix source {name!r} yields no rows: {why}."


def _made(summary: RunSummary) -> dict[str, FileEntry]:
    fragments = Dataset.open(summary.dataset, summary.manifest).manifest.fragments
    return {part.id: part.files["base"] for part in fragments}


def _counts(opened: dict[str, Dataset], recipe: MixRecipe, name: str, made: Mapping[str, FileEntry]) -> Counter[str]:
    """Why rows of one source were taken or left out."""
    counts: Counter[str] = Counter()
    for fragment in opened[recipe.sources[name].dataset].fragments:
        if (file := made.get(f"{name}-{fragment.id}")) is not None:
            counts.update(file.statuses)
    return counts


def _unfit_rows(work: Work, summary: RunSummary) -> Iterator[str]:
    """A note for each reason in UNFIT that left rows out, with the first of them if this run met it."""
    found = {reason: number for reason in UNFIT if (number := summary.statuses.get(reason, 0))}
    if not found:
        return
    events = [event for record in read_records(work.store, summary.run) for event in record["events"]]
    for reason, number in found.items():
        first = next((f" The first: row {one['row']!r}: {one[reason]}" for one in events if reason in one), "")
        yield f"{number} rows {UNFIT[reason]} and were left out; the logs in {work.target}/runs name them.{first}"


def _paths(source: MixSource) -> list[str]:
    return [path for path in (source.conversations, source.images) if path is not None]


def _columns(source: MixSource) -> list[str]:
    if source.conversations is None:
        return ["key", source.captions or ""]
    return [*CONVERSATION_COLUMNS, *sorted(source.where.keys() - set(CONVERSATION_COLUMNS))]


def _decided_by(recipe: MixRecipe, name: str, tokenizer: str, rule: ImageRule | None) -> dict[str, Any]:
    """Everything in the recipe that decides the rows of one source; not the paths of datasets and tokenizers."""
    return {
        "tokenizer": tokenizer,
        "image": rule.to_dict() if rule else None,
        "source": [name, recipe.sources[name].identity()],
        **recipe.identity(),
    }


class _Pictures:
    """Which column files of the images dataset a fragment of conversations depends on."""

    def __init__(self, judge: Judge):
        self.judge = judge
        self.standing = judge.images.standing if judge.images is not None else None

    def of(self, fragment: Fragment) -> Any:
        """Fingerprints of the files of every images fragment that holds one of its pictures."""
        images = self.judge.images
        if images is None:
            return None
        if self.judge.source.conversations is None:
            return self._inputs(fragment)
        keys = pc.unique(pc.list_flatten(fragment.read(["image_keys"]).column(0))).drop_null()
        rows = images.rows.find_all(keys)
        found = rows[rows >= 0]
        holding = {part.id: part for part in (images.dataset.locate(row)[0] for row in found.tolist())}
        return [int((rows < 0).sum()), *(self._inputs(holding[name]) for name in sorted(holding))]

    def _inputs(self, fragment: Fragment) -> dict[str, str]:
        asked = self.standing.columns_in(fragment.owner) if self.standing else []
        return fragment.inputs(["key", "image", *asked, *self.judge.source.image_where])


def _check_columns(name: str, source: MixSource, rows: Dataset, images: Dataset | None) -> None:
    if source.conversations is not None and rows.schema_name != "conversations":
        raise InputError(f"mix source {name!r}: {rows.path} holds {rows.schema_name}, not conversations.")
    wanted = {rows.path: _columns(source)}
    if images is not None:
        wanted.setdefault(images.path, [])
        wanted[images.path] += ["key", "image", *source.image_where]
    for dataset in [one for one in (rows, images) if one is not None]:
        missing = [column for column in wanted[dataset.path] if column not in dataset.columns]
        if missing:
            raise InputError(
                f"mix source {name!r}: {dataset.path} has no column {missing[0]!r} in all its fragments. "
                f"Columns: {', '.join(dataset.columns)}. Run the step that adds it first."
            )
