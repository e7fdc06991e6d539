"""Leases: which runs are working on a dataset, so that nothing they read or are about to commit is removed.

A lease is `leases/<token>.json`. In a local folder its holder keeps a lock (flock) on it, and the kernel says at once
whether the holder lives: process numbers cannot, which differ between containers of one host. On object stores, and
where files cannot be locked, the holder writes the time into it every minute instead.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace

from schemas.errors import ConflictError, InputError, StorageError
from schemas.store import TEMPORARY, Store, in_our_words

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FOLDER = "leases"
BEAT_S = 60.0
DEAD_AFTER_S = 600.0
"""A lease without a lock is dead when its holder has not written the time for so long."""
GC = "gc"
WAIT_S = 60.0
"""How long a run waits for a cleaning that is going on."""
UNKNOWN_WRITER_S = 3600.0
"""How old a temporary file of a writer without a lease must be before it counts as left behind."""

_TOKEN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,200}$")


@dataclass(frozen=True)
class Lease:
    """What one run works on. `makes` are the column-file names whose unfinished and unnamed files it may take over."""

    token: str
    run: str
    started: str
    manifest: int
    """The version that it reads: this one, and all it names, stay."""
    makes: tuple[str, ...] = ()
    kind: str = "run"
    locked: bool = True
    """Whether the holder keeps a lock on the file; else `beat` tells whether it lives."""
    beat: float = 0.0
    """Seconds since 1970 when the holder last wrote the lease."""


@contextmanager
def hold(
    store: Store,
    *,
    run: str,
    manifest: int = 0,
    makes: str | Sequence[str] = (),
    kind: str = "run",
    wait: float = WAIT_S,
) -> Iterator[Lease]:
    """A lease on `store` during the block; what `store` writes meanwhile carries `run` as its token.

    Waits while a cleaning (gc) is going on, up to `wait` seconds, then raises ConflictError; also when that removed
    `manifest`. Raises StorageError when the lease cannot be written.
    """
    if not _TOKEN.match(run):
        raise InputError(f"run {run!r}: expected letters, digits, '.', '_' and '-', at most 200.")
    lease = Lease(
        token=run,
        run=run,
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        manifest=manifest,
        makes=(makes,) if isinstance(makes, str) else tuple(makes),
        kind=kind,
        locked=store.local and fcntl is not None,
        beat=time.time(),
    )
    before = store.token
    with _locked(store, lease) if lease.locked else _beating(store, lease):
        store.token = run
        try:
            if kind != GC:
                _wait_for_gc(store, manifest, wait)
            yield lease
        finally:
            store.token = before


@contextmanager
def pin(store: Store, *, run: str, manifest: int) -> Iterator[None]:
    """A lease on a dataset that `run` only reads. One that we must not write to is read without."""
    with ExitStack() as stack:
        with suppress(StorageError, PermissionError):
            stack.enter_context(hold(store, run=f"{run}.reads", manifest=manifest))
        yield


def live(store: Store) -> list[Lease]:
    """The leases whose holders live."""
    return [lease for name in _names(store) if (lease := _living(store, name)) is not None]


def sweep(store: Store, remove: bool = True) -> dict[str, int]:
    """Remove what dead writers left unfinished, and their leases; returns the unfinished files, name -> bytes.

    A file whose writer has no lease, such as a converter, counts as left behind after an hour.
    """
    names = _names(store)
    lives = {name.removesuffix(".json"): _living(store, name) is not None for name in names}
    found = {}
    for name, token, size in store.temporaries():
        with suppress(FileNotFoundError):
            if not lives[token] if token in lives else store.age(name) > UNKNOWN_WRITER_S:
                found[name] = size
    for name in (*found, *(f"{FOLDER}/{token}.json" for token, alive in lives.items() if not alive)) if remove else ():
        store.remove(name)
    return found


def _names(store: Store) -> list[str]:
    return [name for name in store.list(FOLDER) if name.endswith(".json") and TEMPORARY not in name]


def _living(store: Store, name: str) -> Lease | None:
    """The lease in a file of the folder, None when its holder is dead."""
    try:
        content = store.read(f"{FOLDER}/{name}")
        held = store.local and fcntl is not None and _is_locked(store.path(f"{FOLDER}/{name}"))
    except FileNotFoundError:
        return None
    try:
        lease = Lease(**{**json.loads(content), "token": name.removesuffix(".json")})
        beats = not lease.locked and time.time() - float(lease.beat) < DEAD_AFTER_S
    except (ValueError, TypeError):
        # Of another version, perhaps: its holder lives while the kernel says so, whatever it wrote.
        lease, beats = Lease(name.removesuffix(".json"), "unknown", "", 0), False
    return lease if held or beats else None


def _is_locked(path: str) -> bool:
    with open(path, "rb") as file:
        try:
            # Shared, so that two who look at once do not take each other for the holder.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@contextmanager
def _locked(store: Store, lease: Lease) -> Iterator[None]:
    """The lease's file, locked. It is locked before it gets its name: nobody sees it and finds it free."""
    name = store.path(f"{FOLDER}/{lease.token}.json")
    with in_our_words(store.root):
        temporary = store.temporary(f"{FOLDER}/{lease.token}.json")
        file = open(temporary, "wb")  # noqa: SIM115 (closed below, after its name is gone)
    try:
        with in_our_words(store.root):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked = True
            except OSError:  # a file system without locks
                locked = False
            file.write(_content(replace(lease, locked=locked)))
            file.flush()
            try:
                os.link(temporary, name)
            except FileExistsError:
                raise ConflictError(
                    f"{name}: run {lease.run} is already working on this dataset. Wait until it ends."
                ) from None
            finally:
                os.unlink(temporary)
        with ExitStack() as stack:
            stack.callback(store.remove, f"{FOLDER}/{lease.token}.json")
            if not locked:
                stack.enter_context(_beating(store, replace(lease, locked=False)))
            yield
    finally:
        file.close()


@contextmanager
def _beating(store: Store, lease: Lease) -> Iterator[None]:
    """The lease's file, into which a thread writes the time until the block ends."""
    name, stop = f"{FOLDER}/{lease.token}.json", threading.Event()

    def put() -> None:
        with store.write(name) as file:
            file.write(_content(replace(lease, beat=time.time())))

    def beat() -> None:
        while not stop.wait(BEAT_S):
            # A place that cannot be reached for a minute is asked again: the lease lasts for ten.
            with suppress(OSError, StorageError):
                put()

    put()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with suppress(FileNotFoundError):
            store.remove(name)


def _content(lease: Lease) -> bytes:
    return json.dumps(asdict(lease)).encode()


def _wait_for_gc(store: Store, manifest: int, wait: float) -> None:
    """Both sides write their lease first and look second, so at least one of them sees the other."""
    started, waited = time.monotonic(), False
    while any(lease.kind == GC for lease in live(store)):
        if time.monotonic() - started > wait:
            raise ConflictError(
                f"{store.root}: `lavabeam gc` is still cleaning after {wait:.0f} s. Start this again when it is done."
            )
        if not waited:
            print(f"{store.root}: waiting for `lavabeam gc` to end", file=sys.stderr)
        waited = True
        time.sleep(0.1)
    if manifest and not store.exists(f"manifest-{manifest:06d}.json"):
        raise ConflictError(
            f"{store.root}: `lavabeam gc` removed manifest {manifest}, which this run started from. Start it again."
        )
