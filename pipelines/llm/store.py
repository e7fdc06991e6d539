"""The cache folder: one SQLite file with the answers and the spend ledger, shared by all processes of a machine.

What several machines share is a database: postgres.py.

SQLite in WAL mode, because an answer, its cost and the end of its claim become true in one transaction: a `kill -9`
leaves either all or nothing of it. One file also holds a million answers without a million small files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from schemas.errors import InputError

Result = TypeVar("Result")

FILE = "answers.sqlite"
_LAYOUT = 2
_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, provider TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL, response TEXT NOT NULL,
    input_tokens INTEGER, output_tokens INTEGER, cost REAL, created REAL NOT NULL, hits INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spend (
    budget TEXT PRIMARY KEY, requests INTEGER NOT NULL, tokens INTEGER NOT NULL, cost REAL NOT NULL,
    lost_requests INTEGER NOT NULL, lost_tokens INTEGER NOT NULL, lost_cost REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (
    key TEXT PRIMARY KEY, budget TEXT NOT NULL, owner TEXT NOT NULL, tokens INTEGER NOT NULL, cost REAL NOT NULL,
    prompt TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    name TEXT PRIMARY KEY, model TEXT NOT NULL, owner TEXT NOT NULL, batch TEXT
) WITHOUT ROWID;
"""
# From the layout before: what makes it this one.
_UPGRADES = {1: "ALTER TABLE claims ADD COLUMN prompt TEXT NOT NULL DEFAULT ''"}
# How long a process waits for another one's transaction; they last well under a millisecond.
_BUSY_S = 60.0


class CacheStore:
    """The open file. One per process; use it from one thread at a time (the event loop's)."""

    of_this_machine: ClassVar[Literal[True]] = True
    """Whether the folders that its budgets are named after are this machine's."""

    def __init__(self, folder: str | Path):
        self.folder = check_folder(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cache {folder}: the folder cannot be created ({error}). Choose another.") from error
        path = self.folder / FILE
        with one_at_a_time(self.folder):
            self.connection = open_file(path)
            self.connection.execute("PRAGMA journal_mode=WAL")
            # Safe against the death of a process; that of the machine may lose the newest answers, never the file.
            self.connection.execute("PRAGMA synchronous=NORMAL")
            self._create_tables(path)
        self.owner = Owner(self.folder)

    def atomically(self, work: Callable[[Connection], Result]) -> Result:
        """`work` in one transaction: all of it becomes true at once, or nothing."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(self.connection)
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        return result

    def close(self) -> None:
        with one_at_a_time(self.folder):
            self.connection.close()
        self.owner.close()

    def _create_tables(self, path: Path) -> None:
        layout = self._layout()
        if layout > _LAYOUT:
            raise InputError(
                f"{path}: written by a newer LavaBeam (layout {layout}, this code reads {_LAYOUT}). "
                "Upgrade lavabeam, or choose another `cache`."
            )
        if layout == _LAYOUT:
            return
        self.atomically(self._upgrade)

    def _upgrade(self, connection: Connection) -> None:
        # Read again: another process may have done it meanwhile.
        layout = self._layout()
        statements = _TABLES.split(";") if layout == 0 else [_UPGRADES[old] for old in range(layout, _LAYOUT)]
        for statement in statements:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={_LAYOUT}")

    def _layout(self) -> int:
        return self.connection.execute("PRAGMA user_version").fetchone()[0]


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """For opening and closing the file: the change to WAL, and the last connection's end, wait for nobody.

    SQLite calls no busy handler there ("database is locked" at once); processes that start together need this lock.
    """
    try:
        lock = os.open(folder / "opening.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise InputError(
            f"{folder}: the answer cache cannot be used ({error}). Check that the folder exists and is writable, or "
            f"choose another `cache`."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


class Connection(sqlite3.Connection):
    """A connection whose errors say which file they are about, and what to do."""

    path: Path

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        with errors_naming(self.path):
            return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> sqlite3.Cursor:
        with errors_naming(self.path):
            return super().executemany(*arguments)

    def stream(self, statement: str) -> Iterator[Any]:
        """The rows of a statement, one at a time."""
        with errors_naming(self.path):
            yield from super().execute(statement)

    def stored_bytes(self) -> int:
        """What the file and SQLite's own files beside it take on the disk."""
        return sum(file.stat().st_size for file in self.path.parent.glob(self.path.name + "*"))


def open_file(path: Path, read_only: bool = False) -> Connection:
    """The SQLite file at `path`; raises InputError when it cannot be opened."""
    mode = "ro" if read_only else "rwc"
    with errors_naming(path):
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={mode}",
            uri=True,
            timeout=_BUSY_S,
            isolation_level=None,
            check_same_thread=False,
            factory=Connection,
        )
    connection.path = path
    return connection


@contextlib.contextmanager
def errors_naming(path: Path) -> Iterator[None]:
    """Errors of SQLite as InputError: a full disk, no right to write, a damaged file, or none of ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"{path}: the answer cache cannot be used ({error}). Check free disk space and write permission; if the "
            f"file is damaged or not a LavaBeam cache, move it away or choose another `cache`."
        ) from error


class Owner:
    """Who holds a claim, and whether it still lives: it holds a file lock that its death sets free."""

    def __init__(self, folder: Path):
        self._folder, self.name = folder, uuid.uuid4().hex
        for left in folder.glob("worker-*.lock"):
            self.is_dead(left.stem.removeprefix("worker-"))
        # Locked before it has its name: nobody sees it unlocked while this process lives.
        starting = folder / f"starting-{self.name}"
        self._file = os.open(starting, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        starting.rename(self._path(self.name))

    def is_dead(self, name: str) -> bool:
        """Whether the process that called itself `name` has ended; its lock file is removed then."""
        if name == self.name:
            return False
        try:
            other = os.open(self._path(name), os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            self._path(name).unlink(missing_ok=True)
            return True
        finally:
            os.close(other)

    def close(self) -> None:
        self._path(self.name).unlink(missing_ok=True)
        os.close(self._file)

    def _path(self, name: str) -> Path:
        return self._folder / f"worker-{name}.lock"


def check_folder(folder: str | Path) -> Path:
    """The folder as a path; raises InputError for a place where file locks do not work."""
    if "://" in str(folder):
        raise InputError(
            f"cache {str(folder)!r}: the answer cache must be on a local disk. "
            "Give a local folder, or postgresql://HOST/DATABASE for one that several machines share; "
            "`lavabeam cache export` moves its answers to other machines."
        )
    return Path(folder).expanduser()
