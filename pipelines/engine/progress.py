"""Progress of a run: a bar on a terminal, a plain line now and then elsewhere. Always on stderr.

A local run counts rows as they are written. Other runners' workers are elsewhere: their finished fragments are counted
by the records of the run log, which every runner writes.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping

from pipelines.engine.counting import Done
from pipelines.engine.runlog import RunRecords
from schemas.store import Store

PLAIN_EVERY_S = 10.0


class LiveCounts:
    """What the runs of this process have done so far, by run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: dict[str, Done] = {}

    def add(self, run: str, done: Done) -> None:
        with self._lock:
            self._done[run] = self._done.get(run, Done()) + done

    def of(self, run: str) -> Done:
        with self._lock:
            return self._done.get(run, Done())


LIVE = LiveCounts()


class Progress:
    """`with Progress(...)`: shows rows done, rate, time left and statuses so far until the block ends."""

    def __init__(self, title: str, rows: int, store: Store, run: str, live: bool):
        self.title, self.rows, self.run, self.live = title, rows, run, live
        self._records = RunRecords(store, run)
        self._finished = Done()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def counts(self) -> Done:
        """What is done so far. Answers are known of a local run alone: other runners' workers are elsewhere."""
        if self.live:
            return LIVE.of(self.run)
        for record in self._records.new():
            self._finished += Done(record["source_rows"], record["statuses"])
        return self._finished

    def _watch(self) -> None:
        if sys.stderr.isatty():
            self._bar()
        else:
            self._lines()

    def _lines(self) -> None:
        started = time.monotonic()
        while not self._stop.wait(PLAIN_EVERY_S):
            print(self.line(self.counts(), time.monotonic() - started), file=sys.stderr, flush=True)

    def line(self, done: Done, seconds: float) -> str:
        """A plain line about what was done in so many seconds."""
        rate = done.rows / seconds
        left = f", {(self.rows - done.rows) / rate:.0f} s left" if 0 < done.rows < self.rows else ""
        answers = f", {done.answers} answers, {done.answers / seconds:.1f}/s" if done.answers else ""
        return f"{self.title}: {done.rows}/{self.rows} rows, {rate:.0f}/s{left}{answers}{_statuses_text(done.statuses)}"

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
                done, seconds = self.counts(), time.monotonic() - started
                rate = f"{done.rows / seconds:.0f} rows/s"
                if done.answers:
                    rate += f", {done.answers} answers, {done.answers / seconds:.1f}/s"
                bar.update(
                    task, completed=done.rows, rate=rate, statuses=_statuses_text(done.statuses).removeprefix(", ")
                )


def _statuses_text(statuses: Mapping[str, int]) -> str:
    shown = [f"{count} {status}" for status, count in Counter(statuses).most_common(4)]
    return f", {', '.join(shown)}" if shown else ""
