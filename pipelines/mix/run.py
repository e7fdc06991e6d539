"""Running a mix: a fragment of each source becomes a fragment of the mix, so a change of one redoes one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pipelines.engine.preview import Preview
from pipelines.engine.runlog import read_records
from pipelines.engine.runners import Runner
from pipelines.engine.summary import RunSummary
from pipelines.engine.work import Work
from pipelines.mix.maker import CANNOT_ENCODE, CONVERSATION_COLUMNS, PICTURE_UNREADABLE, MixFragment, MixMaker
from pipelines.mix.recipe import MixRecipe, MixSource
from schemas.chat import ImageRule, encode, get_template, load_tokenizer
from schemas.dataset import Dataset, Fragment
from schemas.errors import InputError
from schemas.fingerprint import fingerprint
from schemas.lookup import PicturesByName
from schemas.manifest import FragmentEntry, StepEntry
from schemas.standing import Standing

VERSION = 4
UNFIT = {CANNOT_ENCODE: "cannot be encoded", PICTURE_UNREADABLE: "have a picture that cannot be read"}
"""Reasons that the run's log explains row by row, and what they say about rows."""

COUNTED = frozenset({"taken", "image_missing", *UNFIT, "nothing_to_learn", "too_long"})
"""What `--min-ok` counts: rows taken, and rows that the recipe asks for and that no training can use. The others were
left out by an earlier step, or by the recipe's own filters and weights."""

PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
"""Encoded before anything runs: a tokenizer without the template's control tokens is reported at once."""


def run_mix(recipe: MixRecipe, target: str | Path, runner: Runner) -> RunSummary:
    """Make, or bring up to date, the samples dataset `target`.

    Raises InputError for a missing dataset, column, kind of image rule, template or tokenizer: before anything runs.
    """
    work, opened = _planned(recipe, target)
    versions = {path: dataset.manifest.number for path, dataset in opened.items()}
    summary = work.run(runner, MixMaker(recipe, work.target, versions))
    return replace(summary, notes=(*_empty_sources(recipe, opened, summary), *_unfit_rows(work, summary)))


def preview_mix(recipe: MixRecipe, target: str | Path) -> Preview:
    """What `run_mix` would do; raises the same errors."""
    return _planned(recipe, target)[0].preview()


def _planned(recipe: MixRecipe, target: str | Path) -> tuple[Work, dict[str, Dataset]]:
    """The work, and the datasets that it reads, by path."""
    tokenizer, rule = load_tokenizer(recipe.tokenizer), ImageRule.from_dict(recipe.image) if recipe.image else None
    encode(PROBE, [], get_template(recipe.template), tokenizer, rule)
    opened = {path: Dataset.open(path) for source in recipe.sources.values() for path in _paths(source)}
    work = Work("mix", str(target), "samples", usable=frozenset({"taken"}), counted=lambda reason: reason in COUNTED)
    work.step_entry = StepEntry(version=VERSION, config=recipe.model_dump(mode="json"), name="mix")
    for name, source in recipe.sources.items():
        rows = opened[source.rows]
        images = opened[source.images] if source.images is not None else None
        _check_columns(name, source, rows, images)
        decided = _decided_by(recipe, name, tokenizer.hash, rule)
        standing, pictures = Standing.of(rows, source.row_use), _Pictures(source, images)
        decided |= {"standing": [standing.identity, pictures.standing.identity if pictures.standing else None]}
        for fragment in rows.fragments:
            columns = [*_columns(source), *standing.columns_in(fragment.owner)]
            plan = fingerprint("mix", VERSION, decided, fragment.inputs(columns), pictures.of(fragment))
            entry = FragmentEntry(id=f"{name}-{fragment.id}", rows=fragment.rows, files={})
            entry = work.present.get(entry.id, entry)
            work.add(entry, plan, {}, frozenset(), source=MixFragment(name, fragment.entry))
    work.parents, work.reads = [dataset.as_parent() for dataset in opened.values()], list(opened.values())
    work.info = {
        "tokenizer": {"hash": tokenizer.hash, "image_id": tokenizer.image_id},
        "template": recipe.template,
        "image": rule.to_dict() if rule else None,
        "max_tokens": recipe.max_tokens,
    }
    return work, opened


def _empty_sources(recipe: MixRecipe, opened: dict[str, Dataset], summary: RunSummary) -> Iterator[str]:
    """A note for each source of which the mix has no row, with the reasons."""
    made = {part.id: part.files["base"] for part in Dataset.open(summary.dataset, summary.manifest).manifest.fragments}
    for name, source in recipe.sources.items():
        counts: Counter[str] = Counter()
        for fragment in opened[source.rows].fragments:
            counts.update(made[f"{name}-{fragment.id}"].statuses)
        if not counts["taken"]:
            why = ", ".join(f"{number} {reason}" for reason, number in counts.most_common()) or "it has no rows"
            yield f"mix source {name!r} yields no rows: {why}."


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
        "source": [name, recipe.sources[name].model_dump(mode="json", exclude={"conversations", "images"})],
        **recipe.model_dump(mode="json", include={"template", "pictures", "max_tokens", "seed"}),
    }


class _Pictures:
    """Which column files of the images dataset a fragment of conversations depends on."""

    def __init__(self, source: MixSource, images: Dataset | None):
        self.source, self.images = source, images
        self.index = PicturesByName(images) if images is not None and source.conversations is not None else None
        self.standing = Standing.of(images, source.image_use) if images is not None else None

    def of(self, fragment: Fragment) -> Any:
        """Fingerprints of the files of every images fragment that holds one of its pictures."""
        if self.images is None:
            return None
        if self.index is None:
            return self._inputs(fragment)
        keys = pc.unique(pc.list_flatten(fragment.read(["image_keys"]).column(0))).drop_null()
        rows = self.index.find_all(keys)
        holding = {part.id: part for part in (self.images.locate(row)[0] for row in rows[rows >= 0].tolist())}
        return [int((rows < 0).sum()), *(self._inputs(holding[name]) for name in sorted(holding))]

    def _inputs(self, fragment: Fragment) -> dict[str, str]:
        asked = self.standing.columns_in(fragment.owner) if self.standing else []
        return fragment.inputs(["key", "image", *asked, *self.source.image_where])


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
