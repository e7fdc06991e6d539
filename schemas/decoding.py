"""Resource limits of decoding: memory of all images decoded concurrently, and seconds per image.

Memory: a picture whose decoding takes more than SMALL bytes waits until it fits into BUDGET beside the others; one that
takes more than BUDGET is refused. Worker processes of a run share one budget through locks on one file.

Time: a decoder is C code that nothing can interrupt, so the worker process notes what it decodes in the same file, and
its parent ends it when a picture takes more than SECONDS. The replacement refuses that picture. Outside of worker
processes there is no such limit: there the bounds of pictureheader.py alone hold.
"""

from __future__ import annotations

import hashlib
import os
import queue
import struct
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count

from schemas.picturetypes import Defect, PictureError

SMALL = 16 << 20
BUDGET = 640 << 20
SECONDS = 30.0
"""CPU time of a worker process while it decodes one picture: the load of the machine does not change what is kept."""

IDLE_FACTOR = 20
"""A decoder that waits forever uses no CPU time; it is ended after SECONDS times this on the clock."""

_PART = 32 << 20
_PARTS = BUDGET // _PART
_WAIT_S = 0.02
"""How often memory that other processes held is looked at."""

_SLOT = struct.Struct("<dd32s")
"""When a picture was begun (seconds of the machine's monotonic clock; 0: nothing is decoded), the process's CPU time
then, and the picture's mark."""
_SLOTS = 64
_ENDS = 4096
"""Bytes of a picture's start and end that its mark is made of, besides its length."""


def mark_of(data: bytes) -> bytes:
    """32 bytes that tell pictures apart, at a cost that does not grow with them."""
    return hashlib.sha256(b"%d:%b%b" % (len(data), data[:_ENDS], data[-_ENDS:])).digest()


class Memory:
    """BUDGET in parts. `file`: a descriptor that all processes of a run share; None: this process alone."""

    def __init__(self, file: int | None = None):
        self._file = file
        self._free = set(range(_PARTS))
        self._turn, self._given = threading.Lock(), threading.Condition()
        self._held = threading.local()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes fit. A thread that holds some already gets no more and does not wait."""
        if size <= SMALL or getattr(self._held, "any", False):
            yield
            return
        parts: list[int] = []
        self._held.any = True
        try:
            # One at a time collects: two that wait for each other's parts would wait forever.
            with self._turn, self._locked(_PARTS):
                self._collect(parts, min(_PARTS, -(-size // _PART)))
            yield
        finally:
            self._give(parts)
            self._held.any = False

    def _collect(self, parts: list[int], wanted: int) -> None:
        while True:
            with self._given:
                for part in sorted(self._free):
                    if len(parts) == wanted:
                        return
                    if self._lock(part, wait=False):
                        self._free.discard(part)
                        parts.append(part)
                if len(parts) == wanted:
                    return
                self._given.wait(_WAIT_S)

    def _give(self, parts: list[int]) -> None:
        with self._given:
            for part in parts:
                self._unlock(part)
                self._free.add(part)
            self._given.notify_all()

    @contextmanager
    def _locked(self, part: int) -> Iterator[None]:
        self._lock(part, wait=True)
        try:
            yield
        finally:
            self._unlock(part)

    def _lock(self, part: int, wait: bool) -> bool:
        """Record locks belong to a process and end with it, however it ends."""
        if self._file is None:
            return True
        import fcntl

        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, part)
        except BlockingIOError:
            return False
        return True

    def _unlock(self, part: int) -> None:
        if self._file is not None:
            import fcntl

            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, part)


class Notes:
    """What one worker process is decoding, as its parent reads it: slots in `file` from byte `start` on."""

    def __init__(self, file: int, start: int):
        self._file, self._start = file, start
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(_SLOTS):
            self._free.put(slot)
        self.refused: dict[bytes, PictureError] = {}

    @contextmanager
    def decoding(self, data: bytes) -> Iterator[None]:
        """Raises PictureError for a picture that a process was lost to before."""
        mark = mark_of(data)
        if mark in self.refused:
            raise self.refused[mark]
        slot = self._free.get()
        try:
            self._write(slot, time.monotonic(), time.process_time(), mark)
            yield
        finally:
            self._write(slot, 0.0, 0.0, bytes(32))
            self._free.put(slot)

    def _write(self, slot: int, begun: float, used: float, mark: bytes) -> None:
        os.pwrite(self._file, _SLOT.pack(begun, used, mark), self._start + slot * _SLOT.size)


class Board:
    """The file that a parent shares with its worker processes, a region for each."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        self._regions = count(1)

    @property
    def descriptor(self) -> int:
        return self._file.fileno()

    def region(self) -> int:
        """The first byte of a new worker process's slots; the parts of the budget lie before all of them."""
        return next(self._regions) * 4096

    def begun(self, region: int, process: int) -> dict[bytes, float]:
        """Marks of the pictures that the process of `region` is decoding, or was when it died -> seconds of CPU time
        that each took, or of the clock by IDLE_FACTOR where those are more."""
        now, cpu = time.monotonic(), _cpu_time(process)
        slots = os.pread(self.descriptor, _SLOTS * _SLOT.size, region)
        whole = slots[: len(slots) // _SLOT.size * _SLOT.size]
        return {
            mark: max(cpu - used, (now - begun) / IDLE_FACTOR)
            for begun, used, mark in _SLOT.iter_unpack(whole)
            if begun
        }


def _cpu_time(process: int) -> float:
    """Seconds that a process has used; 0 where it is gone, or the system does not say."""
    try:
        # The clock of another process (clock_getcpuclockid(3)); Linux computes its number like this.
        return time.clock_gettime((~process << 3) | 2)
    except OSError:
        return 0.0


class _Limits:
    memory = Memory()
    notes: Notes | None = None


def limit_this_process(file: int, region: int) -> None:
    """For a worker process: share the budget, and note what is decoded, in a Board's file."""
    _Limits.memory, _Limits.notes = Memory(file), Notes(file, region)


def refuse(refused: Mapping[bytes, PictureError]) -> None:
    """For a worker process: pictures not to be tried again."""
    if _Limits.notes is not None:
        _Limits.notes.refused.update(refused)


@contextmanager
def room(size: int) -> Iterator[None]:
    """Memory for work on one picture: `size` bytes for decoding it and for what is made of it."""
    with _Limits.memory.hold(size):
        yield


@contextmanager
def decoding(data: bytes, size: int) -> Iterator[None]:
    """For the time of decoding `data`, which takes `size` bytes of memory. Raises PictureError (too_slow, corrupt)."""
    notes = _Limits.notes
    with _Limits.memory.hold(size):
        if notes is None:
            yield
            return
        with notes.decoding(data):
            yield


def too_slow() -> PictureError:
    return PictureError(Defect.too_slow, f"not decoded in {SECONDS:g} s of CPU time")


def crashed() -> PictureError:
    return PictureError(Defect.corrupt, "the decoder ended its process twice")


def late(begun: Mapping[bytes, float]) -> list[bytes]:
    """The marks of pictures that take too long."""
    return [mark for mark, seconds in begun.items() if seconds > SECONDS]
