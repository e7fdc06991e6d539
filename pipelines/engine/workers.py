"""Workers: make a run's column files. Tasks in, `Made` out as they finish, in any order.

Three kinds, chosen by the runner (`Hands`): in the process that Beam runs in, one after the other (what a Dask or
Dataflow worker does); there on several threads, for steps that wait; or in a process per core (processes.py).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pipelines.engine.counting import Count
from pipelines.engine.makers import Maker, Task
from pipelines.engine.making import Made, make
from pipelines.engine.processes import Crew, dismiss_ready
from pipelines.engine.progress import LIVE
from pipelines.engine.runlog import RunLog
from pipelines.engine.step import Context
from schemas.errors import LavaBeamError, StorageError, WorkerError
from schemas.store import Store

LOST_IN_A_ROW = 2
"""So many fragments lost to dying workers, and none made between them: it is the step or the machine, not a row."""


@dataclass(frozen=True)
class Hands:
    """How many tasks are under way at a time in one process that Beam runs in, and on what."""

    kind: Literal["inline", "threads", "processes"] = "inline"
    count: int = 1
    resources: Mapping[str, str] = field(default_factory=dict)
    """What the process's machine must have, as Beam's resource hints: for runners that choose their machines."""


class Worker(Protocol):
    """Makes one task at a time, for one thread."""

    def make(self, task: Task) -> Made: ...

    def close(self) -> None: ...


class Workforce:
    """What one process keeps for a run of one maker: its workers, and the run log that it writes."""

    def __init__(self, maker: Maker, context: Context, hands: Hands):
        self._log = RunLog(Store(maker.target, token=context.run), context.run, maker.name)
        self._hands, self._stop = hands, threading.Event()
        # A cluster's process may get several blocks at a time, each on its own thread.
        self._turns: AbstractContextManager = nullcontext() if maker.needs.threads else threading.Lock()
        self._lost = 0
        self._hopeless: LavaBeamError | None = None
        self._workers: list[Worker] = []
        self._free: list[Worker] = []
        if hands.kind == "processes":
            crew = Crew(maker, context, _counted_for(context.run))
            self._hire: Callable[[], Worker] = crew.hire
        else:
            shared = InProcess(maker, context)
            self._workers.append(shared)
            self._hire = lambda: shared

    def make(self, tasks: Iterable[Task]) -> Iterator[Made]:
        """Make all `tasks`. Where nothing can be written, or no worker survives, the others fail without a try."""
        made = self._in_turn(tasks) if self._hands.kind == "inline" else self._side_by_side(list(tasks))
        for one in made:
            if one.record is not None:
                self._log.add(one.record)
            self._judge(one)
            yield one
        self._log.flush()

    def close(self) -> None:
        """End the workers; what they are making is given up."""
        self._stop.set()
        # Side by side: each process takes a fifth of a second to end.
        ends = [threading.Thread(target=worker.close) for worker in self._workers[1:]]
        for end in ends:
            end.start()
        for worker in self._workers[:1]:
            worker.close()
        for end in ends:
            end.join()
        self._log.flush()

    def _judge(self, made: Made) -> None:
        self._lost = self._lost + 1 if isinstance(made.error, WorkerError) else 0
        if isinstance(made.error, StorageError) or self._lost >= LOST_IN_A_ROW:
            self._hopeless = made.error

    def _in_turn(self, tasks: Iterable[Task]) -> Iterator[Made]:
        worker = self._hire()
        for task in tasks:
            with self._turns:
                made = self._one(worker, task)
            yield made

    def _side_by_side(self, tasks: list[Task]) -> Iterator[Made]:
        """A thread per worker takes tasks from one line; this thread hands on what is finished."""
        line: queue.SimpleQueue[Task] = queue.SimpleQueue()
        for task in tasks:
            line.put(task)
        done: queue.SimpleQueue[Made | BaseException] = queue.SimpleQueue()
        threads = [
            threading.Thread(target=self._serve, args=(line, done), daemon=True)
            for _ in range(min(self._hands.count, len(tasks)))
        ]
        for thread in threads:
            thread.start()
        for _ in tasks:
            made = done.get()
            if isinstance(made, BaseException):
                self._stop.set()
                raise made
            yield made
        for thread in threads:  # so that their workers are free for the next tasks
            thread.join()

    def _serve(self, line: queue.SimpleQueue[Task], done: queue.SimpleQueue[Made | BaseException]) -> None:
        try:
            worker = self._free_worker()
            while not self._stop.is_set():
                try:
                    task = line.get_nowait()
                except queue.Empty:
                    self._free.append(worker)
                    return
                done.put(self._one(worker, task))
            worker.close()  # also one that was hired while the others were ended
        except BaseException as error:
            done.put(error)  # a defect: raised again in the thread that waits, so that the run ends with it

    def _free_worker(self) -> Worker:
        """One that earlier tasks were made by, or a new one."""
        try:
            return self._free.pop()
        except IndexError:
            worker = self._hire()
        if worker not in self._workers:
            self._workers.append(worker)
        return worker

    def _one(self, worker: Worker, task: Task) -> Made:
        if self._hopeless is not None:
            return Made(task.fragment, error=self._hopeless)
        return worker.make(task)


class InProcess:
    """Makes tasks in this very process; threads may share it."""

    def __init__(self, maker: Maker, context: Context):
        self._maker, self._context, self._count = maker, context, _counted_for(context.run)
        self._ready = True
        maker.setup(context)

    def make(self, task: Task) -> Made:
        return make(self._maker, task, self._context, self._count)

    def close(self) -> None:
        if self._ready:
            self._ready = False
            self._maker.teardown()


def _counted_for(run: str) -> Count:
    return lambda done: LIVE.add(run, done)


_FORCES: dict[tuple[str, str], Workforce] = {}
_LOCK = threading.Lock()


def workforce(maker: Maker, context: Context, hands: Hands) -> Workforce:
    """This process's workforce for the run; set up once, however many threads and bundles ask for it."""
    key = (context.run, maker.name)
    with _LOCK:
        if key not in _FORCES:
            _release(lambda other: other[0] != context.run and other[1] == maker.name)
            _FORCES[key] = Workforce(maker, context, hands)
        return _FORCES[key]


def release_workers(run: str) -> None:
    """Tear down what this process set up for `run`. Processes that a cluster keeps do so when they get other work."""
    with _LOCK:
        _release(lambda key: key[0] == run)
    dismiss_ready()


def _release(chosen: Callable[[tuple[str, str]], bool]) -> None:
    for key in [key for key in _FORCES if chosen(key)]:
        _FORCES.pop(key).close()
