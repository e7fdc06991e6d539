"""`--retry`: the statuses it selects, and the recorded options with which rows are redone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipelines.engine.step import Config, DatasetStep, Derive, Step
from schemas.config import parse
from schemas.dataset import Dataset
from schemas.entries import StepEntry
from schemas.errors import InputError
from schemas.manifest import numbers
from schemas.store import Store

TRANSIENT = "transient"
"""The word for a step's own set of statuses that may pass."""


def known_words(kind: type[Step]) -> list[str]:
    """Every word that `--retry` takes for a step."""
    own = [status.value for status in kind.statuses]
    keys = [status.value for status in kind.keys.statuses] if issubclass(kind, DatasetStep) else []
    return list(dict.fromkeys([TRANSIENT, *own, *keys, *kind.former_statuses]))


def retried_statuses(step: Step | type[Step], retry: str) -> frozenset[str]:
    """The statuses that a run makes again; raises InputError for one that the step does not have."""
    kind = step if isinstance(step, type) else type(step)
    check_words(retry, known_words(kind), kind.name)
    asked: set[str] = set()
    for word in words_of(retry):
        asked |= step.transient if word == TRANSIENT else {kind.former_statuses.get(word, word)}
    asked |= step.unfinished
    return frozenset(asked | {old for old, new in kind.former_statuses.items() if new in asked})


def check_words(retry: str, known: Iterable[str], whose: str) -> None:
    """Raises InputError for a word of `retry` that is not in `known`."""
    listed = list(known)
    for word in words_of(retry):
        if word not in listed:
            raise InputError(f"--retry {word}: {whose} has no such status. Known: {', '.join(listed)}.")


def own_words(kind: type[Step], retry: str) -> str:
    """The part of `retry` that `kind` has statuses for."""
    known = known_words(kind)
    return ",".join(word for word in words_of(retry) if word in known)


def words_of(retry: str) -> list[str]:
    return [word for part in retry.split(",") if (word := part.strip())]


def recorded_options(kind: type[Step], given: dict[str, Any], made: str, where: str) -> dict[str, Any]:
    """`given` over the options with which the dataset `made` got the columns (or, for a `Derive`, the rows) of `kind`.

    Raises InputError naming every option of `given` that would give another output than the recorded one.
    """
    entry = _entry(kind, made)
    if entry is None:
        return given
    recorded = {name: value for name, value in entry.config.items() if name in kind.Config.model_fields}
    before = parse(recorded, kind.Config, f"{made}, recorded options of {kind.name}")
    after = parse({**recorded, **given}, kind.Config, where)
    differing = [line for name in given for line in _difference(name, before, after)]
    if differing:
        raise InputError(
            f"{where}: --retry makes rows again as they were made, and {made} records other options: "
            f"{'; '.join(differing)}. Leave them out, or run without --retry to make all rows with the new ones."
        )
    return {**recorded, **given}


def recorded_versions(step: Step, made: str) -> dict[str, int]:
    """Option that names a dataset -> its version of which the columns or rows of `step` in `made` were made.

    Without versions that are gone, and without options that name another dataset now.
    """
    entry = _entry(type(step), made)
    if entry is None:
        return {}
    # Releases before 0.2 kept the numbers among the options.
    recorded = {**entry.config, **entry.depends_on}
    paths = step.dataset_paths
    known = {**recorded, **_numbered(recorded)}
    versions = {name: recorded.get(f"{name}_manifest") for name, path in paths.items() if known.get(name) == path}
    return {name: number for name, number in versions.items() if number in numbers(Store(paths[name]))}


def _numbered(recorded: dict[str, Any]) -> dict[str, Any]:
    """`option.0`, `option.1` -> the values of options that hold several, as `Step.dataset_paths` names them."""
    several = {name: value for name, value in recorded.items() if isinstance(value, list)}
    return {f"{name}.{number}": one for name, value in several.items() for number, one in enumerate(value)}


def _entry(kind: type[Step], made: str) -> StepEntry | None:
    if not Dataset.exists(made):
        return None
    manifest = Dataset.open(made).manifest
    if not issubclass(kind, Derive):
        return manifest.steps.get(kind.name)
    entry = manifest.steps.get("base")
    # Releases before 0.2 did not record the name: rows with a parent are not imported ones.
    ours = entry is not None and (entry.name == kind.name or (not entry.name and manifest.parents))
    return entry if ours else None


def _difference(name: str, before: Config, after: Config) -> list[str]:
    """One entry when the option decides the output and differs."""
    old, new = before.identity(), after.identity()
    if name not in new or old.get(name) == new[name]:
        return []
    return [f"{name} is {old.get(name)!r}, but {new[name]!r} was given"]
