"""Where a dataset comes from: itself and its parents, as far as they can be opened.

No paths, no configurations: a card is published, and they hold names of hosts and folders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.exporters.tally import NOT_STATED
from schemas.dataset import Dataset
from schemas.errors import LavaBeamError


@dataclass(frozen=True)
class Ancestor:
    """One version of a dataset. `steps`: what made its columns; empty where it could not be opened."""

    name: str
    manifest: int
    sha256: str
    schema: str = ""
    rows: int | None = None
    created: str = ""
    steps: tuple[str, ...] = ()
    dataset: Dataset | None = None


def lineage(*datasets: Dataset) -> list[Ancestor]:
    """The datasets, then their parents, each version once."""
    found: dict[str, Ancestor] = {}
    for dataset in datasets:
        parent = dataset.as_parent()
        found.setdefault(parent.sha256, _opened(dataset, parent.sha256))
    for dataset in datasets:
        for one in _parents(dataset):
            found.setdefault(one.sha256, one)
    return list(found.values())


def stated_licences(ancestors: list[Ancestor]) -> Counter[tuple[str, str]]:
    """(source, licence) -> rows of the images datasets among them."""
    counts: Counter[tuple[str, str]] = Counter()
    for one in ancestors:
        if one.dataset is None or not {"source", "license"} <= set(one.dataset.columns):
            continue  # of the three schemas only images have both
        for batch in one.dataset.batches(["source", "license"], 4096):
            pairs = zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)
            counts.update((source or NOT_STATED, licence or NOT_STATED) for source, licence in pairs)
    return counts


def _parents(dataset: Dataset) -> Iterator[Ancestor]:
    for parent in dataset.manifest.parents:
        try:
            opened = Dataset.open(parent.path, parent.manifest)
            if opened.as_parent().sha256 != parent.sha256:
                raise LavaBeamError("another dataset has its place now")
        except LavaBeamError:
            yield Ancestor(Path(parent.path).name, parent.manifest, parent.sha256)
            continue
        yield _opened(opened, parent.sha256)
        yield from _parents(opened)


def _opened(dataset: Dataset, sha256: str) -> Ancestor:
    manifest = dataset.manifest
    return Ancestor(
        Path(dataset.path).name,
        manifest.number,
        sha256,
        dataset.schema_version,
        dataset.rows,
        manifest.created,
        tuple(_steps(dataset)),
        dataset,
    )


def _steps(dataset: Dataset) -> Iterator[str]:
    for name, step in dataset.manifest.steps.items():
        if name == "base" and step.sources:
            yield from (f"import {one.importer} {one.version}" for one in step.sources)
        else:
            yield f"{step.name or name} {step.version}"
