"""Garbage collection: removes what no kept manifest references and what dead writers left. Nothing else deletes.

Manifests go first, the oldest first, and files after them: a killed collection leaves files that nobody names, which
the next one removes, and every manifest that is still there has all its files.
"""

from __future__ import annotations

import re
import time
import uuid
from calendar import timegm
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from schemas import manifest as manifests
from schemas.chunks import FOLDER, SUFFIX
from schemas.errors import ConflictError, LavaBeamError
from schemas.lease import GC, Lease, hold, live, sweep
from schemas.manifest import Manifest
from schemas.store import TEMPORARY, Store, in_our_words

_COLUMN_FILE = re.compile(r"^fragments/[^/]+/(.+)\.[^./]+\.arrow$")
_RUN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


@dataclass
class Garbage:
    """What a collection removes: numbers of manifests, and name -> bytes of the rest."""

    manifests: list[int] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    """Column files."""
    chunks: dict[str, int] = field(default_factory=dict)
    """Chunks of the lists of files."""
    temporaries: dict[str, int] = field(default_factory=dict)
    logs: dict[str, int] = field(default_factory=dict)
    """Run logs of the removed manifests."""
    notes: list[str] = field(default_factory=list)
    """What stays because a run works on the dataset."""

    @property
    def bytes(self) -> int:
        return sum(sum(one.values()) for one in (self.files, self.chunks, self.temporaries, self.logs))


def collect(store: Store, keep: int | None = None, older_than: float | None = None, dry_run: bool = False) -> Garbage:
    """Remove all manifests but the newest `keep`, or those older than `older_than` seconds, and what only they name.

    Without either all manifests stay. The newest one, and those that a live run reads, always stay. `dry_run` says
    what would go. Raises VersionError for a dataset with unknown features, CorruptError or InputError when a kept
    manifest cannot be read (what it names is unknown then), ConflictError while another collection is going on.
    """
    manifests.check_writable(manifests.read(store), store.root)
    for folder in ("fragments", FOLDER, "runs"):
        store.inside(folder)  # what a link out of the dataset leads to is not ours to remove
    with _alone(store, dry_run), in_our_words(store.root):
        leases = [lease for lease in live(store) if lease.kind != GC]
        found = _find(store, keep, older_than, leases)
        if not dry_run:
            _remove(store, found, leave_folders=bool(leases))
        found.temporaries = sweep(store, remove=not dry_run)
    return found


@contextmanager
def _alone(store: Store, dry_run: bool) -> Iterator[None]:
    """Runs that begin now wait for our lease; a second collection is refused."""
    if dry_run:
        yield
        return
    with hold(store, run=f"{GC}-{uuid.uuid4().hex[:12]}", kind=GC) as ours:
        other = next((lease for lease in live(store) if lease.kind == GC and lease.token != ours.token), None)
        if other is not None:
            raise ConflictError(
                f"{store.root}: another `lavabeam gc` is cleaning it since {other.started}. Wait for it."
            )
        yield


def _find(store: Store, keep: int | None, older_than: float | None, leases: list[Lease]) -> Garbage:
    found, pinned = Garbage(), {lease.manifest for lease in leases}
    kept: list[Manifest] = []
    known = manifests.numbers(store)
    for index, number in enumerate(known):
        newest = index == len(known) - 1
        if not newest and number not in pinned and keep is not None and index < len(known) - keep:
            found.manifests.append(number)
            continue
        one = manifests.read(store, number)
        manifests.check_writable(one, store.root)
        old = older_than is not None and _age(one) > older_than
        if old and not newest and number not in pinned:
            found.manifests.append(number)
        else:
            kept.append(one)
    _find_files(store, kept, leases, found)
    _find_logs(store, kept, leases, found)
    for lease in leases:
        reads = f"reads manifest {lease.manifest}" if lease.manifest else "works on it"
        makes = f" and makes {', '.join(lease.makes)}" if lease.makes else ""
        found.notes.append(f"run {lease.run}, since {lease.started}, {reads}{makes}: files that it may need are kept.")
    return found


def _find_files(store: Store, kept: list[Manifest], leases: list[Lease], found: Garbage) -> None:
    """What no kept manifest names, and no live run may take over or be about to name."""
    chunks, files = _named(kept)
    making = {name for lease in leases for name in lease.makes}
    for name, size in store.walk("fragments"):
        match = _COLUMN_FILE.match(name)
        if match and name not in files and match.group(1) not in making and TEMPORARY not in name:
            found.files[name] = size
    # A run that is committing writes its chunks before the head that names them.
    for name, size in store.walk(FOLDER) if not leases else ():
        if name not in chunks and name.endswith(SUFFIX) and TEMPORARY not in name:
            found.chunks[name] = size


def _named(kept: list[Manifest]) -> tuple[set[str], set[str]]:
    """The paths of all chunks and column files that these manifests name."""
    chunks: set[str] = set()
    files: set[str] = set()
    for one in (part for manifest in kept for part in manifest.fragments.ranges):
        if one.ids.ref.path not in chunks:
            chunks.add(one.ids.ref.path)
            _ = one.ids.table  # checked: a version that stays must be readable before another one goes
        for chunk in one.files.values():
            if chunk.ref.path not in chunks:
                chunks.add(chunk.ref.path)
                files.update(path for path in chunk.table.column("path").to_pylist() if path is not None)
    return chunks, files


def _find_logs(store: Store, kept: list[Manifest], leases: list[Lease], found: Garbage) -> None:
    stay = {manifest.run for manifest in kept} | {lease.run for lease in leases}
    for number in found.manifests:
        with suppress(LavaBeamError):  # a manifest that goes need not be readable
            run = manifests.read(store, number).run
            if run not in stay and _RUN.match(run):
                found.logs.update(store.walk(f"runs/{run}"))


def _remove(store: Store, found: Garbage, leave_folders: bool) -> None:
    for name in found.logs:
        _remove_one(store, name)
    for number in found.manifests:
        _remove_one(store, manifests.file_name(number))
    for name in (*found.files, *found.chunks):
        _remove_one(store, name)
    if not leave_folders:  # a run makes a folder, and a moment later a file in it
        store.remove_empty_folders("runs")
        store.remove_empty_folders("fragments")


def _remove_one(store: Store, name: str) -> None:
    with suppress(FileNotFoundError):
        store.remove(name)


def _age(manifest: Manifest) -> float:
    """Seconds since the manifest was committed; 0 when it does not say so as we do."""
    try:
        return time.time() - timegm(time.strptime(manifest.created, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return 0.0
