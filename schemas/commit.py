"""Commits a change as one new manifest, put if absent. Readers see all of a run or nothing.

Two writers: the second one merges when it touched other column files than the first, and fails otherwise.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from schemas import manifest as manifests
from schemas.errors import ConflictError
from schemas.lease import hold
from schemas.listing import Fragments, Range
from schemas.manifest import FileEntry, FragmentEntry, Manifest, Parent, StepEntry
from schemas.merging import Conflict, check_disjoint, merged
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

    Raises ConflictError when another writer committed the same column files, or other inputs of ours, since `base`;
    VersionError when the dataset has a feature that this code does not know; StorageError when it cannot be written.
    """
    start = manifests.read(store, change.base) if change.base else None
    while True:
        known = manifests.numbers(store)
        newest = manifests.read(store, known[-1]) if known else None
        if newest is not None:
            manifests.check_writable(newest, store.root)
            if newest.number != change.base:
                _check_disjoint(store, change, start, newest)
        ranges, names = merged(change.fragments, change.files, start, newest)
        if newest is not None and not _changes(change, ranges, newest):
            return newest
        number = manifests.next_number(store, newest.number) if newest else 1
        result = _next(change, number, ranges, names, newest)
        if put(store, result):
            return manifests.read(store, result.number)


def put(store: Store, result: Manifest) -> bool:
    """Write a manifest unless its number is taken: chunks first, then the head that names them.

    The lease keeps a cleaning away from chunks without a head.
    """
    with hold(store, run=f"commit-{uuid.uuid4().hex[:12]}", manifest=result.previous):
        for one in result.fragments.ranges:
            for chunk in one.chunks:
                chunk.save(store)
        return store.put_if_absent(manifests.file_name(result.number), result.to_bytes())


def _check_disjoint(store: Store, change: Change, start: Manifest | None, newest: Manifest) -> None:
    try:
        check_disjoint(change.fragments, change.files, start, newest)
    except Conflict as conflict:
        raise ConflictError(
            f"{store.root}: while this run was working, run {newest.run or 'unknown'} committed manifest "
            f"{newest.number} with {conflict}. Nothing of this run was committed; start it again to work on the newest "
            "version."
        ) from None


def _changes(change: Change, ranges: list[Range], newest: Manifest) -> bool:
    described = any(newest.info.get(key) != value for key, value in change.info.items())
    return Fragments(ranges) != newest.fragments or described


def _next(change: Change, number: int, ranges: list[Range], names: list[str], newest: Manifest | None) -> Manifest:
    present = {name for one in ranges for name in one.files}
    names = [name for name in names if name in present]
    steps = {**(newest.steps if newest else {}), **change.steps}
    parents = change.parents if change.parents is not None else (newest.parents if newest else [])
    return Manifest(
        number=number,
        previous=newest.number if newest else 0,
        schema_version=change.schema_version,
        created=now(),
        run=change.run,
        message=change.message,
        reader_flags=newest.reader_flags if newest else [],
        writer_flags=newest.writer_flags if newest else [],
        totals=manifests.totals(Fragments(ranges), names, newest),
        steps={name: step for name, step in steps.items() if name in names},
        parents=parents,
        versions=change.versions,
        info={**(newest.info if newest else {}), **change.info},
        names=names,
        ranges=[one.ref for one in ranges],
    ).over(ranges)


def now() -> str:
    """The time of a commit, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
