"""Worker processes: a maker and one task at a time in, `Made` out. Started fresh, never forked.

The parent communicates with each over two pipes, in pickles. A worker that dies is replaced and its task redone; one
that decodes a single picture for too long is killed, and its replacement refuses that picture. A worker whose parent is
gone exits at once, whatever it is doing.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any

from pipelines.engine.counting import Count, Done
from pipelines.engine.makers import Maker, Task
from pipelines.engine.making import Made, make
from pipelines.engine.step import Context
from schemas.decoding import Board, crashed, late, limit_this_process, refuse, too_slow
from schemas.errors import LavaBeamError, WorkerError
from schemas.picturetypes import PictureError

AGAIN = 3
"""How often a fragment is made again whose worker process died."""


_BOOT = (
    "import pickle, sys; from multiprocessing.connection import Connection; inbox = Connection(0, writable=False); "
    "sys.path[:], board = pickle.loads(inbox.recv_bytes()); from pipelines.engine.processes import serve; "
    "serve(inbox, *board)"
)
# A process per core: libraries that would start a thread per core in each of them are kept to one.
ONE_THREAD_EACH = {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1", "RAYON_NUM_THREADS": "1"}
# Pictures are large: their memory goes back to the system when they are done. By itself glibc keeps ever larger blocks.
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": str(4 << 20), "MALLOC_TRIM_THRESHOLD_": str(16 << 20)}
_SHOWN = 20_000
"""Characters of a traceback that are shown at most."""
_END = b""
_LOOK_S = 1.0
"""How often a process that says nothing is looked at."""
_GRACE_S = 10.0
"""How long an idle worker may take to tear down what its step has set up."""


class Crew:
    """Hires worker processes that all get the same maker."""

    def __init__(self, maker: Maker, context: Context, count: Count):
        # By value, as Beam does for its own workers: a step that a script or a notebook defines has no importable name.
        from apache_beam.internal.cloudpickle import cloudpickle

        self.maker, self.count = maker, count
        self.refused: dict[bytes, PictureError] = {}
        self._lost_with: Counter[bytes] = Counter()
        self.orders = cloudpickle.dumps((maker, context))

    def hire(self) -> Hired:
        return Hired(self)

    def lost(self, begun: Collection[bytes], slow: Collection[bytes]) -> bool:
        """A process is gone that was decoding the pictures `begun`; whether it was ended because of `slow` ones.

        Those are not tried again, nor is one that two processes were decoding when they died.
        """
        self.refused |= dict.fromkeys(slow, too_slow())
        self._lost_with.update(begun)
        self.refused |= {mark: crashed() for mark in begun if mark not in slow and self._lost_with[mark] >= 2}
        return bool(slow)


class Hired:
    """One worker process, and its replacements. One thread uses it; `close` may come from another one."""

    def __init__(self, crew: Crew):
        self._crew, self._closed, self._lock = crew, False, threading.Lock()
        self._looked, self._late = 0.0, list[bytes]()
        self._process = self._start()

    def make(self, task: Task) -> Made:
        """The task, made by the process; raises what a defect of the step raised there."""
        how, died = "", 0
        while died <= AGAIN:
            kind, *values = self._ask(task)
            if kind == "made":
                return values[0]
            if kind == "raised":
                raise _defect(*values)
            how = self._end()
            died += not self._crew.lost(set(self._line.begun()), self._late)
            self._late = []
            with self._lock:
                if self._closed:
                    break
                self._process = self._start()
        return _died_too_often(task, self._crew.maker, how)

    def close(self) -> None:
        """Let an idle worker tear down its step; one that is busy is killed, and `make` returns."""
        with self._lock:
            closed, self._closed = self._closed, True
            idle = self._idle
        if not idle:
            self._process.kill()
        elif not closed:
            with suppress(OSError, subprocess.TimeoutExpired):
                self._out.send_bytes(_END)
                self._process.wait(_GRACE_S)
            self._end()

    def _start(self) -> subprocess.Popen:
        """A new process, or one that `prestart` has ready; it gets its orders, and is `_idle` until it has a task."""
        self._line = line = _take_ready() or _Line()
        self._idle, self._out, self._in = True, line.out, line.back
        with suppress(OSError):  # it died at once: `make` notices
            self._out.send_bytes(self._crew.orders)
        return line.process

    def _ask(self, task: Task) -> tuple[Any, ...]:
        """What the process says of the task: ("made", Made), ("raised", pickled error, traceback), or ("died",)."""
        with self._lock:
            if self._closed:
                return ("died",)
            self._idle = False
        counted = Done()
        try:
            self._out.send_bytes(pickle.dumps((task, self._crew.refused)))
            while True:
                kind, *values = pickle.loads(self._hear())
                if kind != "done":
                    self._idle = True
                    return (kind, *values)
                counted += values[0]
                self._crew.count(*values)
        except (EOFError, OSError, pickle.UnpicklingError):
            self._crew.count(-counted)  # all of it will be counted again
            return ("died",)

    def _hear(self) -> bytes:
        """The next message; raises EOFError when the process is gone or has to go.

        A child that the process forked may keep the pipe open when the process is gone.
        """
        while True:
            heard = self._in.poll(_LOOK_S)
            if time.monotonic() - self._looked >= _LOOK_S:
                self._looked = time.monotonic()
                self._late = late(self._line.begun())
                if self._late:
                    raise EOFError
            if heard:
                return self._in.recv_bytes()
            if self._process.poll() is not None and not self._in.poll(0):
                raise EOFError

    def _end(self) -> str:
        """Make sure that the process is gone; how it went."""
        self._process.kill()
        code = self._process.wait()
        self._out.close()
        self._in.close()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class _Line:
    """A new process and the two pipes to it. It imports what every worker needs, then waits for its orders."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", "-c", _BOOT]
        environment = {**ONE_THREAD_EACH, **GIVEN_BACK, **os.environ}
        self._board = _board()
        self._region = self._board.region()
        # A separate process group: a terminal's Ctrl-C is handled by the parent, also while this one still imports.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            bufsize=0,
            pass_fds=(self._board.descriptor,),
            process_group=0,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.out = Connection(os.dup(self.process.stdin.fileno()), readable=False)
        self.back = Connection(os.dup(self.process.stdout.fileno()), writable=False)
        self.process.stdin.close()
        self.process.stdout.close()
        with suppress(OSError):
            self.out.send_bytes(pickle.dumps((sys.path, (self._board.descriptor, self._region))))

    def begun(self) -> dict[bytes, float]:
        """The pictures that the process is decoding, or was when it died -> seconds that each took."""
        return self._board.begun(self._region, self.process.pid)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.out.close()
        self.back.close()


@lru_cache(maxsize=1)
def _board() -> Board:
    """One for all worker processes of this process: they share its budget of memory."""
    return Board()


_READY: list[_Line] = []
_READY_LOCK = threading.Lock()


def prestart(count: int) -> None:
    """Start processes that will be hired soon: they import while this process imports Beam."""
    lines = [_Line() for _ in range(count)]
    with _READY_LOCK:
        _READY.extend(lines)


def dismiss_ready() -> None:
    """End the processes that nobody hired."""
    while (line := _take_ready()) is not None:
        line.close()


def _take_ready() -> _Line | None:
    with _READY_LOCK:
        return _READY.pop() if _READY else None


def _died_too_often(task: Task, maker: Maker, how: str) -> Made:
    """The one error about a fragment that no worker process survived."""
    message = (
        f"{maker.target}, fragment {task.fragment}: {AGAIN + 1} consecutive worker processes died while making "
        f"{task.path.rsplit('/', 1)[-1]} ({how}). If memory ran out, use fewer --workers. The other fragments "
        "are kept: run the same command again to make this one."
    )
    return Made(task.fragment, error=WorkerError(message))


def _defect(error: bytes, text: str) -> BaseException:
    """What a step raised in its worker, as it was where it can be brought over."""
    try:
        raised = pickle.loads(error)
    except Exception:
        raised = RuntimeError(text.strip().rsplit("\n", 1)[-1])
    # As the cause, not as a note: Beam shows an exception by its last line.
    raised.__cause__ = RuntimeError(f"in a worker process:\n{text[-_SHOWN:]}")
    return raised


def serve(inbox: Connection, board: int, region: int) -> None:
    """The whole life of a worker process. Its stdout becomes stderr, so that no print gets between the messages.

    `board` and `region`: where it notes what it decodes (schemas/decoding.py).
    """
    limit_this_process(board, region)
    out = Connection(os.dup(1), readable=False)
    os.dup2(2, 1)
    try:
        maker, context = pickle.loads(inbox.recv_bytes())
    except EOFError:  # the parent ended before it had work
        return
    tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(inbox, tasks), daemon=True).start()

    lock = threading.Lock()

    def say(*message: object) -> None:
        with lock:  # a step may count from threads of its own
            out.send_bytes(pickle.dumps(message))

    def count(done: Done) -> None:
        say("done", done)

    ready = False
    while (message := tasks.get()) != _END:
        task, refused = pickle.loads(message)
        refuse(refused)
        try:
            if not ready:
                maker.setup(context)
                ready = True
            say("made", make(maker, task, context, count))
        except LavaBeamError as error:
            say("made", Made(task.fragment, error=error))
        except BaseException as error:
            say("raised", _pickled(error), traceback.format_exc())
    if ready:
        maker.teardown()


def _listen(inbox: Connection, tasks: queue.SimpleQueue[bytes]) -> None:
    """Messages as they come. When the parent is gone the process ends at once: nobody waits for what it does."""
    try:
        while True:
            tasks.put(inbox.recv_bytes())
    except (EOFError, OSError):
        os._exit(1)


def _pickled(error: BaseException) -> bytes:
    try:
        return pickle.dumps(error)
    except Exception:
        return b""
