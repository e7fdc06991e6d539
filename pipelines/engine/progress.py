"""Progress of a run: a bar on a terminal, a plain line now and then elsewhere. Always on stderr.

A local run counts rows as they are written. Other runners' workers are elsewhere: their finished fragments are counted
by the records of the run log, which every runner writes.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter

from pipelines.engine.runlog import RunRecords
from schemas.store import Store

PLAIN_EVERY_S = 10.0


class LiveCounts:
    """Rows worked on, and statuses of the rows made of them, of the runs of this process, by run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: Counter[str] = Counter()
        self._statuses: dict[str, Counter[str]] = {}

    def add(self, run: str, rows: int, statuses: dict[str, int]) -> None:
        with self._lock:
            self._rows[run] += rows
            self._statuses.setdefault(run, Counter()).update(statuses)

    def of(self, run: str) -> tuple[int, Counter[str]]:
        with self._lock:
            return self._rows[run], Counter(self._statuses.get(run, {}))


LIVE = LiveCounts()


class Progress:
    """`with Progress(...)`: shows rows done, rate, time left and statuses so far until the block ends."""

    def __init__(self, title: str, rows: int, store: Store, run: str, live: bool):
        self.title, self.rows, self.run, self.live = title, rows, run, live
        self._records = RunRecords(store, run)
        self._finished, self._statuses = 0, Counter[str]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def counts(self) -> tuple[int, Counter[str]]:
        """Rows worked on, of `rows`, and statuses of what was made of them, so far."""
        if self.live:
            return LIVE.of(self.run)
        for record in self._records.new():
            self._finished += record["source_rows"]
            self._statuses.update(record["statuses"])
        return self._finished, self._statuses

    def _watch(self) -> None:
        if sys.stderr.isatty():
            self._bar()
        else:
            self._lines()

    def _lines(self) -> None:
        started = time.monotonic()
        while not self._stop.wait(PLAIN_EVERY_S):
            done, statuses = self.counts()
            rate = done / (time.monotonic() - started)
            left = f", {(self.rows - done) / rate:.0f} s left" if 0 < done < self.rows else ""
            print(f"{self.title}: {done}/{self.rows} rows, {rate:.0f}/s{left}{_told(statuses)}", file=sys.stderr)

    def _bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[statuses]}", style="dim"),
        )
        started = time.monotonic()
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(f"{self.title:<10}", total=self.rows or None, rate="", statuses="")
            while not self._stop.wait(0.2):
                done, statuses = self.counts()
                rate = f"{done / (time.monotonic() - started):.0f} rows/s"
                bar.update(task, completed=done, rate=rate, statuses=_told(statuses).removeprefix(", "))


def _told(statuses: Counter[str]) -> str:
    shown = [f"{count} {status}" for status, count in statuses.most_common(4)]
    return f", {', '.join(shown)}" if shown else ""
