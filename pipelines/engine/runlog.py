"""The run log: what is not a function of the inputs. One file of JSON lines per process that Beam runs in.

`runs/<run>/<file name>-<host>-<process>.jsonl` holds one record per fragment. A line that was cut by a kill is left
out when it is read.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from schemas.store import Store

FLUSH_S = 10.0
"""How often a log on an object store, which cannot be appended to, is rewritten."""


class RunLog:
    """Appends records; locally each at once, on an object store every now and then and at `flush`."""

    def __init__(self, store: Store, run: str, name: str):
        self._store = store
        self._path = f"runs/{run}/{name}-{socket.gethostname()}-{os.getpid()}.jsonl"
        self._lines: list[bytes] = []
        self._written, self._flushed = 0, time.monotonic()
        self._lock = threading.Lock()  # a cluster's process may work on several threads

    def add(self, record: dict[str, Any]) -> None:
        with self._lock:
            self._lines.append(json.dumps(record, default=str).encode() + b"\n")
            if self._store.local or time.monotonic() - self._flushed > FLUSH_S:
                self._flush()

    def flush(self) -> None:
        """Make everything that was added readable."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        if len(self._lines) == self._written:
            return
        if self._store.local:
            self._store.append(self._path, b"".join(self._lines))
            self._lines.clear()
            return
        with self._store.write(self._path) as file:
            file.write(b"".join(self._lines))
        self._written = len(self._lines)


class RunRecords:
    """The records of a run, of which each call of `new` gives those that were added since the one before."""

    def __init__(self, store: Store, run: str):
        self._store, self._folder = store, f"runs/{run}"
        self._read: dict[str, int] = {}

    def new(self) -> Iterator[dict[str, Any]]:
        for name in self._store.list(self._folder):
            if not name.endswith(".jsonl"):
                continue
            start = self._read.get(name, 0)
            lines, end, _ = self._store.read(f"{self._folder}/{name}", start).rpartition(b"\n")
            self._read[name] = start + len(lines) + len(end)
            yield from map(json.loads, lines.splitlines())


def read_records(store: Store, run: str) -> Iterator[dict[str, Any]]:
    """All records of a run."""
    return RunRecords(store, run).new()
