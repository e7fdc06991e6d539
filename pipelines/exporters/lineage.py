"""The lineage of a dataset: itself and its parents, as far as they can be opened.

No paths, no configurations: a card is published, and they hold names of hosts and folders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.exporters.tally import NOT_STATED
from schemas.dataset import Dataset
from schemas.entries import Parent
from schemas.errors import LavaBeamError
from schemas.store import server_of


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
        digest = dataset.as_parent().sha256
        found.setdefault(digest, _opened(dataset, digest))
    for dataset in datasets:
        _add_parents(dataset, found)
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


def _add_parents(dataset: Dataset, found: dict[str, Ancestor]) -> None:
    for parent in dataset.manifest.parents:
        opened = _parent(dataset, parent)
        if opened is None:
            found.setdefault(parent.sha256, Ancestor(Path(parent.path).name, parent.manifest, parent.sha256))
        elif parent.sha256 not in found:
            found[parent.sha256] = _opened(opened, parent.sha256)
            _add_parents(opened, found)


def _parent(dataset: Dataset, parent: Parent) -> Dataset | None:
    """A parent where it was, or beside `dataset`; None where it is not, or another dataset has its place.

    A manifest may come from elsewhere: it sends nobody to another server than the dataset's own.
    """
    folder, slash, _ = dataset.path.rpartition("/")
    paths = [f"{folder}{slash}{Path(parent.path).name}"]
    if server_of(parent.path) in ("", server_of(dataset.path)):
        paths.insert(0, parent.path)
    for path in paths:
        try:
            opened = Dataset.open(path, parent.manifest)
            if opened.as_parent().sha256 == parent.sha256:
                return opened
        except LavaBeamError:
            continue
    return None


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
