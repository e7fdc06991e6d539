"""The lock file of a mix: the dataset versions it was made from, and the selected rows.

It is stored with the mix as `mix.lock.yaml`, is written after each commit, and can be given to a later run, which then
reads the same versions and must choose the same rows.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from pipelines.mix.recipe import MixRecipe
from schemas.config import StrictModel, parse, read_yaml
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.store import Store

NAME = "mix.lock.yaml"


class LockedDataset(StrictModel):
    """One version of a dataset."""

    path: str
    manifest: int
    sha256: str
    """Of the manifest's head, which covers all files."""


class LockedSource(StrictModel):
    """What a source of the mix resolved to."""

    dataset: LockedDataset
    images: LockedDataset | None = None
    rows: int
    tokens: int
    keys: str
    """sha256 of the keys of its rows in the mix, each followed by a line feed, in their order."""
    settings: dict[str, Any]
    """The source's keys in the recipe."""


class Lock(StrictModel):
    """What a mix resolved to."""

    manifest: int
    """Of the mix."""
    seed: int
    tokenizer: str
    """The hash of its contents, as the mix's manifest has it."""
    sources: dict[str, LockedSource]

    def versions(self, recipe: MixRecipe) -> dict[str, int]:
        """Path -> manifest number of every dataset of `recipe`; raises InputError for one that the lock lacks."""
        known = {}
        for name, one in self.sources.items():
            source = recipe.sources.get(name)
            if source is not None:
                known[source.dataset] = one.dataset.manifest
                if source.images is not None and one.images is not None:
                    known[source.images] = one.images.manifest
        for name, source in recipe.sources.items():
            missing = next((path for path in (source.dataset, source.images) if path and path not in known), None)
            if missing is not None:
                raise InputError(f"the lock has no version of {missing}, which source {name!r} reads. Leave it out.")
        return known

    def check(self, made: Lock, target: str) -> None:
        """Raise InputError where `made` holds other rows than this lock."""
        for name in dict.fromkeys([*self.sources, *made.sources]):
            mine, other = self.sources.get(name), made.sources.get(name)
            if mine is None or other is None or (mine.rows, mine.keys) != (other.rows, other.keys):
                found = "nothing" if other is None else f"{other.rows} rows (keys {other.keys[:12]})"
                expected = "nothing" if mine is None else f"{mine.rows} rows (keys {mine.keys[:12]})"
                raise InputError(
                    f"{target}: source {name!r} gave {found}, and the lock says {expected}. The recipe, or its "
                    "tokenizer, differs from the one the lock was written for."
                )


def read_lock(path: str | Path) -> Lock:
    """The lock at `path`: a file, or the folder of a mix. Raises InputError when there is none."""
    if Dataset.exists(path):
        store = Store(path)
        if not store.exists(NAME):
            raise InputError(f"{path}: the mix has no {NAME}; run `lavabeam mix` once more to write it.")
        return parse(yaml.safe_load(store.read(NAME)), Lock, f"{path}/{NAME}")
    return parse(read_yaml(path), Lock, str(path))


def write_lock(target: str, recipe: MixRecipe, opened: dict[str, Dataset]) -> None:
    """Write the lock of the newest version of a mix, unless it is there."""
    mix = Dataset.open(target)
    if mix.store.exists(NAME) and _manifest_of(mix.store) == mix.manifest.number:
        return
    lock = Lock(
        manifest=mix.manifest.number,
        seed=recipe.seed,
        tokenizer=mix.manifest.info["tokenizer"]["hash"],
        sources={name: _locked(name, recipe, opened, mix) for name in recipe.sources},
    )
    with mix.store.write(NAME) as file:
        file.write(yaml.safe_dump(lock.model_dump(mode="json"), sort_keys=False, allow_unicode=True).encode())


def _manifest_of(store: Store) -> Any:
    values = yaml.safe_load(store.read(NAME))
    return values.get("manifest") if isinstance(values, dict) else None


def _locked(name: str, recipe: MixRecipe, opened: dict[str, Dataset], mix: Dataset) -> LockedSource:
    source, digest, rows, tokens = recipe.sources[name], hashlib.sha256(), 0, 0
    ids = {f"{name}-{fragment.id}" for fragment in opened[source.dataset].fragments}
    for fragment in mix.fragments:
        if fragment.id in ids:
            table = fragment.read(["key", "tokens"])
            digest.update("".join(f"{key}\n" for key in table.column("key").to_pylist()).encode())
            rows, tokens = rows + table.num_rows, tokens + int(table.column("tokens").to_numpy().sum())
    return LockedSource(
        dataset=_version(opened[source.dataset]),
        images=_version(opened[source.images]) if source.images is not None else None,
        rows=rows,
        tokens=tokens,
        keys=digest.hexdigest(),
        settings=source.model_dump(mode="json", exclude_defaults=True),
    )


def _version(dataset: Dataset) -> LockedDataset:
    parent = dataset.as_parent()
    return LockedDataset(path=parent.path, manifest=parent.manifest, sha256=parent.sha256)
