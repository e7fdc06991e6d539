"""Rollback: commits the content of an older manifest as the newest one. History is kept."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

from schemas import manifest as manifests
from schemas.commit import now, put
from schemas.errors import CorruptError
from schemas.lease import pin
from schemas.manifest import Manifest
from schemas.store import Store

NAMED = 5
"""Missing files that an error names."""


@dataclass(frozen=True)
class Rollback:
    """What going back changed, or would change."""

    to: int
    before: int
    """The newest manifest before."""
    number: int
    """The new one; the newest where its content is that of `to` already."""
    rows: int
    rows_before: int
    names: list[str]
    """The column files that the dataset has then, by name."""
    lost: list[str]
    """Those of the newest version that it will not have."""


def roll_back(store: Store, to: int, dry_run: bool = False) -> Rollback:
    """Commit the content of manifest `to` under the next number.

    Raises InputError when there is no such manifest; CorruptError, and changes nothing, when a file that it names was
    removed or cut since; VersionError when either version has features that this code does not know.
    """
    while True:
        newest, old = manifests.read(store), manifests.read(store, to)
        for one in (newest, old):
            manifests.check_writable(one, store.root)
        same = newest.number == to or _content(newest) == _content(old)
        number = newest.number if same else manifests.next_number(store, newest.number)
        lost = [name for name in newest.names if name not in old.names]
        done = Rollback(to, newest.number, number, old.rows, newest.rows, list(old.names), lost)
        with nullcontext() if dry_run else pin(store, run=f"rollback-{number}", manifest=to):
            _check_files(store, old)
            if same or dry_run:
                return done
            message = f"rollback to {to}"
            change = {"number": number, "previous": newest.number, "created": now(), "run": "", "message": message}
            made = old.model_copy(update={**change, "format": manifests.FORMAT}).over(old.fragments.ranges)
            if put(store, made):
                return done


def _content(manifest: Manifest) -> dict:
    """What a version holds, without when and how it came to be."""
    return manifest.model_dump(exclude={"format", "number", "previous", "created", "run", "message", "versions"})


def _check_files(store: Store, manifest: Manifest) -> None:
    """Raise CorruptError, naming them, when column files are missing or shorter than the manifest says."""
    stored = dict(store.walk("fragments"))
    damaged = [
        path
        for one in manifest.fragments.ranges
        for chunk in one.files.values()
        for path, size in zip(*(chunk.table.column(name).to_pylist() for name in ("path", "bytes")), strict=True)
        if path is not None and (stored.get(path) if path in stored else _size(store, path)) != size
    ]
    if damaged:
        more = f" and {len(damaged) - NAMED} more" if len(damaged) > NAMED else ""
        raise CorruptError(
            f"{store.root}: manifest {manifest.number} names {len(damaged)} files that are missing or truncated: "
            f"{', '.join(damaged[:NAMED])}{more}. `lavabeam gc` may have removed them: go back to another version "
            "(`lavabeam log` lists them), or rerun the steps.",
            kind="missing",
        )


def _size(store: Store, path: str) -> int | None:
    try:
        return store.size(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
