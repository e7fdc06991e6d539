"""The other datasets that a dataset-wide step compares with: their ranges and requirements."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from pipelines.engine.blocks import Place, Range, cut
from pipelines.engine.step import DatasetStep
from schemas.config import parse
from schemas.dataset import Dataset
from schemas.errors import InputError


def placed_ranges(datasets: Sequence[Dataset], workers: int = 1) -> tuple[list[Range], list[Place]]:
    """The ranges of all rows, numbered through in the order of `datasets`, and the place of each dataset."""
    ranges: list[Range] = []
    places: list[Place] = []
    start = 0
    for number, dataset in enumerate(datasets):
        where = dataset.path if number else ""
        for part in cut([fragment.entry for fragment in dataset.fragments], workers):
            ranges.append(replace(part, number=len(ranges), start=start + part.start, dataset=where))
        places.append(Place(dataset.path, dataset.manifest.number, start, dataset.rows))
        start += dataset.rows
    return ranges, places


def check_compared(step: DatasetStep, dataset: Dataset) -> None:
    """Raises InputError unless every other dataset has keys that were made as those of `dataset` will be."""
    names: dict[str, str] = {}
    for option, path in step.dataset_paths.items():
        name = os.path.basename(os.path.abspath(path))
        if name in names:
            raise InputError(
                f"{names[name]} and {path}: two datasets of one name: copies could not say of which they are. Rename "
                "a folder, or compare with one at a time."
            )
        names[name] = path
        flag = f"--{option.partition('.')[0].replace('_', '-')} {path}"
        if os.path.abspath(path) == os.path.abspath(dataset.path):
            raise InputError(f"{flag}: is the dataset itself. Its own rows are compared with each other anyway.")
        _check_keys(step, Dataset.open(path, at=step.dataset_versions[option]), flag)


def _check_keys(step: DatasetStep, other: Dataset, flag: str) -> None:
    if step.takes not in (None, other.schema_name):
        raise InputError(f"{flag}: is a {other.schema_name} dataset, expected {step.takes}. Check the path.")
    advice = f"Run `lavabeam {step.name} {other.path}` with the same options first: it makes the keys to compare with."
    if missing := [name for name in step.reads if other.rows and name not in other.columns]:
        raise InputError(f"{flag}: lacks the column {missing[0]!r}. {advice}")
    entry, keys = other.manifest.steps.get(step.keys.name), step.keys(step.config)
    if entry is None or not other.rows:
        return
    fields = {name: value for name, value in entry.config.items() if name in step.keys.Config.model_fields}
    theirs = step.keys(parse(fields, step.keys.Config, f"{other.path}, recorded options of {step.keys.name}"))
    if entry.version != keys.version or theirs.fingerprint({}) != keys.fingerprint({}):
        raise InputError(f"{flag}: its {step.keys.name} were made by another release or with other options. {advice}")
