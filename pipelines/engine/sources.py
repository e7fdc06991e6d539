"""Sources of imported rows: what a manifest records, and whether two imports are of the same source."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from pipelines.engine.source import Source, SourceSlice
from schemas.dataset import Dataset
from schemas.entries import FragmentEntry, SourceEntry, StatusRule
from schemas.errors import InputError
from schemas.fingerprint import fingerprint
from schemas.standing import joined, rule_before

_LATER = re.compile(r"s(\d+)-\d{4,}-[0-9a-f]{8}")
"""Fragments of the second source and later ones: s2-0000-1a2b3c4d. Those of the first have no prefix."""


def source_of(fragment: str) -> int:
    """The number of the source that a fragment's rows came from, counted from 0."""
    later = _LATER.fullmatch(fragment)
    return int(later[1]) - 1 if later else 0


def plan_of(importer: Source, slice_: SourceSlice, number: int) -> str:
    """What decides the rows of a slice of source `number`; its number does not enter for the first source."""
    placed = (number,) if number else ()
    return fingerprint("import", importer.name, importer.version, importer.config.identity(), slice_.digest, *placed)


def described(importer: Source) -> SourceEntry:
    """What the manifest keeps of the source of an importer."""
    config = importer.config.model_dump(mode="json")
    return SourceEntry(importer=importer.name, version=importer.version, config=config, statuses=importer.status_rule)


def named(source: SourceEntry) -> str:
    """The source as a message names it: `url_list a.csv`."""
    path = source.config.get("path")
    paths = ", ".join(path) if isinstance(path, list) else path or ""
    split = source.config.get("split") or ""
    return " ".join(part for part in (source.importer or "an import of", paths, split) if part)


def rule_of(sources: Sequence[SourceEntry], schema: str, target: str) -> StatusRule:
    """What the sources of `target` say of statuses together; raises InputError where two contradict each other."""
    try:
        return joined([(named(source), source.statuses or rule_before(schema)) for source in sources])
    except InputError as error:
        raise InputError(f"{target}: {error}") from None


def known_sources(dataset: Dataset | None) -> list[SourceEntry]:
    """The sources of a dataset, in the order of their rows; empty for one that does not exist.

    Raises InputError for a dataset whose rows a step made.
    """
    if dataset is None:
        return []
    entry = dataset.manifest.steps.get("base")
    made = entry.name if entry and entry.name not in ("", "import") else ""
    if made or (dataset.manifest.parents and not (entry and entry.sources)):
        raise InputError(
            f"{dataset.path}: its rows were made by {made or 'a step'} from "
            f"{', '.join(parent.path for parent in dataset.manifest.parents) or 'another dataset'}, not imported. "
            "Import into another folder."
        )
    if entry is None:
        return [SourceEntry(importer="", version=0, config={"path": "unknown origin"})]
    return entry.sources or [SourceEntry(importer="", version=entry.version, config=entry.config)]


def find_source(importer: Source, sources: Sequence[SourceEntry], present: Sequence[FragmentEntry]) -> int | None:
    """Which of `sources` the importer reads: the one that is where it says, or of which it has the first rows.

    The second finds a source that was moved, as long as its first fragment is unchanged.
    """
    candidates = [number for number, one in enumerate(sources) if one.importer in ("", importer.name)]
    config = importer.config.model_dump(mode="json")
    for number in candidates:
        if all(_same(config.get(name), sources[number].config.get(name)) for name in importer.located_by):
            return number
    for number in candidates:
        own = [entry for entry in present if source_of(entry.id) == number]
        slices = importer.slices([entry.rows for entry in own])
        if own and slices and own[0].files["base"].plan == plan_of(importer, slices[0], number):
            return number
    return None


def _same(value: object, other: object) -> bool:
    return value == other or (_listed(value) == _listed(other) != [])


def _listed(path: object) -> list[str]:
    """One path or several, each from the root on where it is a local one."""
    paths = [path] if isinstance(path, str) else path if isinstance(path, list) else []
    return [one if "://" in one else os.path.abspath(one) for one in paths]
