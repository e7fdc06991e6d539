"""Committing a change: one new manifest, put if absent. Readers see all of a run or nothing of it.

Two writers: the second one merges when it touched other column files than the first, and fails otherwise.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from schemas import manifest as manifests
from schemas.errors import ConflictError
from schemas.manifest import FileEntry, FragmentEntry, Manifest, Parent, StepEntry
from schemas.store import Store


@dataclass
class Change:
    """What one run wants to add to a dataset that stood at manifest `base` (0: there was none)."""

    base: int
    schema_version: str
    run: str = ""
    message: str = ""
    fragments: list[FragmentEntry] | None = None
    """The complete new list of fragments, with their base files; None leaves the list as it is."""
    files: dict[str, dict[str, FileEntry]] = field(default_factory=dict)
    """Fragment id -> file name -> entry."""
    steps: dict[str, StepEntry] = field(default_factory=dict)
    parents: list[Parent] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)


def commit(store: Store, change: Change) -> Manifest:
    """Write the next manifest and return it; returns the newest one unchanged when the change changes nothing.

    Raises ConflictError when somebody else committed the same column files, or other inputs of ours, since `base`.
    """
    start = manifests.read(store, change.base) if change.base else None
    while True:
        known = manifests.numbers(store)
        newest = manifests.read(store, known[-1]) if known else None
        if newest is not None and newest.number != change.base:
            _check_disjoint(store, change, start, newest)
        fragments = _merged(change, newest)
        if newest is not None and not _changes(change, fragments, newest):
            return newest
        result = _next(change, fragments, newest)
        if store.put_if_absent(manifests.file_name(result.number), result.to_bytes()):
            return result


def _check_disjoint(store: Store, change: Change, start: Manifest | None, newest: Manifest) -> None:
    before = {entry.id: entry.files for entry in start.fragments} if start else {}
    after = {entry.id: entry.files for entry in newest.fragments}
    if change.fragments is not None and list(before) != list(after):
        ours = [(entry.id, entry.files["base"].fingerprint) for entry in change.fragments]
        if ours != [(entry.id, entry.files["base"].fingerprint) for entry in newest.fragments]:
            raise ConflictError(_conflict(store, newest, "another list of fragments"))
    for fragment, files in change.files.items():
        if fragment not in after:
            raise ConflictError(_conflict(store, newest, f"a list without fragment {fragment}"))
        for name, entry in files.items():
            theirs = after[fragment].get(name)
            was = before.get(fragment, {}).get(name)
            if theirs is not None and theirs != was and theirs.fingerprint != entry.fingerprint:
                raise ConflictError(_conflict(store, newest, f"another {name!r} for fragment {fragment}"))
            for source, fingerprint in entry.inputs.items():
                if source not in files and _fingerprint(after[fragment], source) not in (fingerprint, None):
                    raise ConflictError(_conflict(store, newest, f"another {source!r}, which {name!r} was made from"))


def _conflict(store: Store, newest: Manifest, what: str) -> str:
    return (
        f"{store.root}: while this run was working, run {newest.run or 'unknown'} committed manifest {newest.number} "
        f"with {what}. Nothing of this run was committed; start it again to work on the newest version."
    )


def _merged(change: Change, newest: Manifest | None) -> list[FragmentEntry]:
    """The newest fragments with our files, less the files whose inputs are no longer the ones they were made from."""
    present = {entry.id: entry for entry in (newest.fragments if newest else [])}
    listed = change.fragments if change.fragments is not None else list(present.values())
    merged = []
    for entry in listed:
        old = present[entry.id].files if entry.id in present else {}
        files = {**old, **entry.files, **change.files.get(entry.id, {})}
        merged.append(FragmentEntry(id=entry.id, rows=entry.rows, files=_without_stale(files)))
    return merged


def _without_stale(files: dict[str, FileEntry]) -> dict[str, FileEntry]:
    while True:
        kept = {
            name: entry
            for name, entry in files.items()
            if all(_fingerprint(files, source) == made_from for source, made_from in entry.inputs.items())
        }
        if len(kept) == len(files):
            return kept
        files = kept


def _fingerprint(files: dict[str, FileEntry], name: str) -> str | None:
    return files[name].fingerprint if name in files else None


def _changes(change: Change, fragments: list[FragmentEntry], newest: Manifest) -> bool:
    told = any(newest.info.get(key) != value for key, value in change.info.items())
    return fragments != newest.fragments or told


def _next(change: Change, fragments: list[FragmentEntry], newest: Manifest | None) -> Manifest:
    files = {name for entry in fragments for name in entry.files}
    steps = {**(newest.steps if newest else {}), **change.steps}
    parents = change.parents if change.parents is not None else (newest.parents if newest else [])
    return Manifest(
        number=newest.number + 1 if newest else 1,
        previous=newest.number if newest else 0,
        schema_version=change.schema_version,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        run=change.run,
        message=change.message,
        fragments=fragments,
        steps={name: step for name, step in steps.items() if name in files},
        parents=parents,
        versions=change.versions,
        info={**(newest.info if newest else {}), **change.info},
    )
