"""A PostgreSQL server of the tests' own, on a free port and in a folder that goes with it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

USER, PASSWORD, NAME = "lavabeam", "a-password-of-tests", "postgres"


def server_programs() -> Path | None:
    """The folder of `initdb` and `postgres`, which Debian leaves out of PATH."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in versions), key=lambda path: int(path.parent.name), default=None)


class DatabaseServer:
    """Started by `with`. Settings that make a server safe against a power cut are off: only processes die here."""

    def __init__(self, programs: Path):
        self._programs = programs
        # A server refuses to run as root. Its folder is outside of pytest's, which only this user may enter.
        self._as = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}
        if os.getuid():
            self._as = {}
        self.folder = Path(tempfile.mkdtemp(prefix="lavabeam-database-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def __enter__(self) -> DatabaseServer:
        (self.folder / "password").write_text(PASSWORD)
        if self._as:
            for path in (self.folder, self.folder / "password"):
                shutil.chown(path, "nobody")
        given = ["--username", USER, "--auth=scram-sha-256", f"--pwfile={self.folder / 'password'}"]
        self._run("initdb", "-D", str(self.folder / "data"), *given, "--no-sync", "--locale=C", "--encoding=UTF8")
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop(signal.SIGQUIT)  # what it holds is not needed any more
        shutil.rmtree(self.folder)

    def start(self) -> None:
        options = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        command = [str(self._programs / "postgres"), "-D", str(self.folder / "data")]
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **self._as)  # type: ignore[call-overload]
        for _ in range(200):
            try:
                return self.ask("SELECT 1")
            except psycopg.OperationalError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ends all sessions; SIGQUIT is a crash."""
        self.process.send_signal(how)
        self.process.wait(timeout=120)

    def emptied(self) -> str:
        """The address of the database, with nothing in it."""
        self.end_sessions()
        self.ask("DROP SCHEMA IF EXISTS lavabeam CASCADE")
        return f"postgresql://127.0.0.1:{self.port}/{NAME}"

    def end_sessions(self) -> None:
        """What a failover, or a network that breaks off, does to all clients; returns when they are gone."""
        self.ask("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'lavabeam'")

    def ask(self, statement: str) -> Any:
        place = {"host": "127.0.0.1", "port": self.port, "dbname": NAME, "user": USER, "password": PASSWORD}
        with psycopg.connect(**place, autocommit=True) as connection:  # type: ignore[arg-type]
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else None

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False, **self._as)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr
