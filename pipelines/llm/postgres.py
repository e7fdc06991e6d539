"""Answers, claims and spend in a PostgreSQL database: the cache that the processes of several machines share.

The same tables and statements as in the SQLite file (store.py). What a lock on a file does there, advisory locks do
here: one for all transactions that write, and one per process that shows whether it still lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar
from urllib.parse import urlsplit

from schemas.errors import InputError

if TYPE_CHECKING:
    import psycopg

Result = TypeVar("Result")

_LAYOUT = 1
# BIGINT: servers count tokens, and need not be honest. COLLATE "C": exports are in the order of SQLite's.
_TABLES = """
CREATE SCHEMA lavabeam;
CREATE TABLE lavabeam.answers (
    key TEXT COLLATE "C" PRIMARY KEY, provider TEXT COLLATE "C" NOT NULL, model TEXT COLLATE "C" NOT NULL,
    prompt TEXT COLLATE "C" NOT NULL, response TEXT NOT NULL, input_tokens BIGINT, output_tokens BIGINT,
    cost DOUBLE PRECISION, created DOUBLE PRECISION NOT NULL, hits BIGINT NOT NULL DEFAULT 0
);
CREATE TABLE lavabeam.spend (
    budget TEXT COLLATE "C" PRIMARY KEY, requests BIGINT NOT NULL, tokens BIGINT NOT NULL,
    cost DOUBLE PRECISION NOT NULL, lost_requests BIGINT NOT NULL, lost_tokens BIGINT NOT NULL,
    lost_cost DOUBLE PRECISION NOT NULL
);
CREATE TABLE lavabeam.claims (
    key TEXT COLLATE "C" PRIMARY KEY, budget TEXT COLLATE "C" NOT NULL, owner TEXT NOT NULL, tokens BIGINT NOT NULL,
    cost DOUBLE PRECISION NOT NULL, prompt TEXT NOT NULL DEFAULT ''
);
CREATE TABLE lavabeam.batches (name TEXT PRIMARY KEY, model TEXT NOT NULL, owner TEXT NOT NULL, batch TEXT);
CREATE TABLE lavabeam.missing (owner TEXT PRIMARY KEY, since TIMESTAMPTZ NOT NULL);
CREATE TABLE lavabeam.layout (version INTEGER NOT NULL);
"""
# The lock that a transaction which writes holds to its end: settled and reserved amounts are then read and raised by
# one process at a time, whichever budgets and claims it touches.
_WRITING = 0x6C617661_6265616D
# A process that is stopped within a transaction does not stop all others for longer than this.
_IDLE_MS, _BUSY_MS = 10_000, 60_000
# The database notices within a minute that a machine is gone (its processes' claims are open until then).
_SESSION = f"""
SET search_path TO lavabeam; SET lock_timeout TO {_BUSY_MS};
SET tcp_keepalives_idle TO 30; SET tcp_keepalives_interval TO 10; SET tcp_keepalives_count TO 3;
"""
_CONNECTING: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    "application_name": "lavabeam",
}
FIRST_WAITS_S = (0.2, 0.8, 2.0)
"""Waits between the tries to reach a database for the first time: a wrong address is reported soon."""
WAITS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 7.0, 7.0, 7.0)
"""The same for one that was there: half a minute, enough for a restart or a failover."""
HEARTBEAT_S = 3.0
"""How often a process that only waits for answers looks whether its connection is still there."""
GRACE_S = 20.0
"""So long a process may be without a session, once another one has seen it, before its claims count as lost. After a
failover all come back within a heartbeat and one wait."""
_REMEDY = (
    "Give postgresql://HOST/DATABASE or postgresql://HOST:PORT/DATABASE; libpq's own variables and files hold the "
    "rest: PGUSER, PGPASSWORD, PGPASSFILE or ~/.pgpass, PGSERVICE, PGSSLMODE."
)
_PLACE = re.compile(r"postgres(?:ql)?://(?P<place>[^/?#@\s,]+/[^/?#@\s]+)/?", re.IGNORECASE)


def is_database(cache: str) -> bool:
    """Whether `cache` names a database, not a folder."""
    return cache.lower().startswith(("postgresql:", "postgres:"))


def check_database(cache: str) -> str:
    """The database's address, as postgresql://HOST[:PORT]/NAME; raises InputError, which never repeats a secret."""
    found = _PLACE.fullmatch(cache)
    try:
        port = urlsplit(cache).port
    except ValueError:
        port = 0
    if found and port != 0:
        return f"postgresql://{found['place']}"
    if "@" in cache or "?" in cache or "#" in cache:
        raise InputError(
            "cache: the database's address holds a user name, a password or parameters (`@`, `?`, `#`), and recipes, "
            f"logs and job descriptions would keep them. {_REMEDY}"
        )
    raise InputError(f"cache {cache!r}: not the address of a database. {_REMEDY}")


class DatabaseConnection:
    """A session that outlives the loss of its connection; its errors name the database and say what to do.

    `greet` is called with every new session, before anything else is asked of it.
    """

    def __init__(self, url: str, greet: Callable[[psycopg.Connection], None] = lambda session: None):
        self.url, self._greet = url, greet
        self._driver = _driver(url)
        self._session: psycopg.Connection | None = None
        self._within = False
        self._gone: InputError | None = None
        self.outliving(lambda: None, FIRST_WAITS_S)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> psycopg.Cursor:
        """Run one statement; outside of a transaction it is one by itself, run again when the connection is lost."""
        text = statement.replace("?", "%s")
        if self._within:
            return self._open().execute(text, values)
        return self.outliving(lambda: self._open().execute(text, values))

    def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> psycopg.Cursor:
        """Run one statement for each of `rows`, within a transaction."""
        cursor = self._open().cursor()
        cursor.executemany(statement.replace("?", "%s"), rows)
        return cursor

    def stream(self, statement: str) -> Iterator[Sequence[Any]]:
        """The rows of a statement, a few at a time in memory."""
        try:
            with self._open().transaction(), self._open().cursor(name="rows") as cursor:
                yield from cursor.execute(statement)
        except self._driver.Error as error:
            raise self._unusable(error) from error

    def stored_bytes(self) -> int:
        """What the tables and their indexes take on the server's disk."""
        statement = "SELECT CAST(SUM(pg_total_relation_size(relid)) AS BIGINT) FROM pg_stat_user_tables"
        return self.execute(f"{statement} WHERE schemaname = 'lavabeam'").fetchone()[0] or 0  # type: ignore[index]

    def transact(self, work: Callable[[DatabaseConnection], Result]) -> Result:
        """`work` in one transaction, of which there is one at a time."""
        session = self._open()
        session.execute(f"BEGIN; SELECT pg_advisory_xact_lock({_WRITING})")
        self._within = True
        try:
            result = work(self)
            session.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(self._driver.Error):
                session.execute("ROLLBACK")
            raise
        finally:
            self._within = False
        return result

    def outliving(self, work: Callable[[], Result], waits: Sequence[float] = ()) -> Result:
        """`work()`, from its start again when the connection was lost meanwhile; so it must bear being done twice.

        Raises InputError when the database does not come back, and at once from then on.
        """
        left = iter(waits or WAITS_S)
        while self._gone is None:
            try:
                self._connect()
                return work()
            except self._driver.Error as error:
                if not self._is_lost():
                    raise self._unusable(error) from error
                wait = next(left, None)
                if wait is None:
                    self._gone = self._unusable(error)
                    raise self._gone from error
                # Spread out: all workers have lost it at the same moment.
                time.sleep(wait * random.uniform(0.75, 1.25))
        raise self._gone

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def _connect(self) -> None:
        if self._session is not None and not self._session.closed:
            return
        session = self._driver.connect(self.url, autocommit=True, **_CONNECTING)
        try:
            session.execute(_SESSION)
            self._greet(session)
        except BaseException:
            session.close()
            raise
        self._session = session

    def _is_lost(self) -> bool:
        """Asked after an error: one that ends the session may arrive before its end does."""
        if self._session is None:
            return True
        with contextlib.suppress(self._driver.Error):
            self._session.execute("SELECT 1")
        return self._session.closed

    def _open(self) -> psycopg.Connection:
        assert self._session is not None
        return self._session

    def _unusable(self, error: Exception) -> InputError:
        reported = " ".join(str(error).split())[:300]
        return InputError(
            f"cache {self.url}: the database cannot be used ({reported}). Check that it is running and reachable, and "
            f"that PGUSER and PGPASSWORD (or ~/.pgpass) name a user who may create a schema. Paid responses are kept: "
            f"run the same command again."
        )


class DatabaseStore:
    """The open database, like `CacheStore`. One per process; use it from one thread at a time (the event loop's)."""

    of_this_machine: ClassVar[Literal[False]] = False

    def __init__(self, cache: str):
        self.owner = DatabaseOwner(self)
        self.connection = DatabaseConnection(check_database(cache), self.owner.greet)
        self.atomically(self._create_tables)

    def atomically(self, work: Callable[[DatabaseConnection], Result]) -> Result:
        """`work` in one transaction: all of it becomes true at once, or nothing.

        After a lost connection it is done again, though it may have become true: so it must bear being done twice.
        """
        return self.connection.outliving(lambda: self.connection.transact(work))

    async def stay(self) -> None:
        """Find out about a lost connection between requests too, until cancelled or the database is given up."""
        with contextlib.suppress(InputError):
            while True:
                await asyncio.sleep(HEARTBEAT_S)
                self.connection.execute("SELECT 1")

    def close(self) -> None:
        self.connection.close()

    def _create_tables(self, connection: DatabaseConnection) -> None:
        if not _has_tables(connection):
            for statement in filter(str.strip, _TABLES.split(";")):
                connection.execute(statement)
            connection.execute("INSERT INTO layout VALUES (?)", (_LAYOUT,))
        _check_layout(connection)


class DatabaseOwner:
    """Who holds a claim, and whether it still lives: its session holds a lock, which the database ends with it.

    Shared, because after a lost connection the database may take the old session for alive for a while.
    """

    def __init__(self, store: DatabaseStore):
        self._store, self.name = store, uuid.uuid4().hex
        self._was_here = False

    def greet(self, session: psycopg.Connection) -> None:
        """What every session of this process begins with."""
        session.execute(f"SET idle_in_transaction_session_timeout TO {_IDLE_MS}")
        session.execute("SELECT pg_advisory_lock_shared(%s)", (_number(self.name),))
        if self._was_here:
            session.execute(
                "DELETE FROM missing WHERE owner = %s OR since < now() - make_interval(days => 1)", (self.name,)
            )
        self._was_here = True

    def is_dead(self, name: str) -> bool:
        """Whether the process that called itself `name` has had no session for `GRACE_S`."""
        if name == self.name:
            return False
        execute = self._store.connection.execute
        if execute("SELECT pg_try_advisory_xact_lock(?)", (_number(name),)).fetchone() == (False,):
            return False
        statement = (
            "INSERT INTO missing VALUES (?, now()) ON CONFLICT (owner) DO UPDATE SET since = missing.since "
            "RETURNING since <= now() - make_interval(secs => ?)"
        )
        return execute(statement, (name, GRACE_S)).fetchone() == (True,)


def open_for_reading(cache: str) -> DatabaseConnection:
    """A connection that writes nothing; raises InputError for a database without our tables."""
    connection = DatabaseConnection(check_database(cache), _only_read)
    try:
        if not _has_tables(connection):
            raise InputError(
                f"{connection.url}: there is no answer cache here (no tables of LavaBeam). "
                "Give the `cache` of a recipe."
            )
        _check_layout(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _only_read(session: psycopg.Connection) -> None:
    session.execute("SET default_transaction_read_only TO on")


def _has_tables(connection: DatabaseConnection) -> bool:
    return connection.execute("SELECT to_regclass('lavabeam.layout')").fetchone() != (None,)


def _check_layout(connection: DatabaseConnection) -> None:
    (layout,) = connection.execute("SELECT version FROM layout").fetchone() or (0,)
    if layout != _LAYOUT:
        raise InputError(
            f"{connection.url}: written by another LavaBeam (layout {layout}, this code reads {_LAYOUT}). "
            "Use the same version of lavabeam everywhere, or choose another `cache`."
        )


def _number(owner: str) -> int:
    """An owner as the 64 bits, with a sign, that a lock of PostgreSQL has for a name."""
    return int.from_bytes(bytes.fromhex(owner)[:8], signed=True)


def _driver(url: str) -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise InputError(
            f"cache {url}: the database driver psycopg is not installed. Install lavabeam[postgres]."
        ) from error
    return psycopg
