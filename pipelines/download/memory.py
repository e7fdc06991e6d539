"""Bounds the bytes of images in one worker process: those arriving, and finished ones waiting for their turn.

Rows leave in order, so a slow row makes finished ones wait. When they fill the memory, no further row starts, except
the one that its whole fragment waits for (the head of its line): so there is always progress.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

_WOKEN_AT_A_TIME = 16


class MemoryFull(Exception):
    """This body is given up for now and fetched again later: the memory belongs to the rows before it."""


class Line:
    """The rows of one fragment in their order; the first unfinished one is the head."""

    def __init__(self) -> None:
        self._rows: deque[Row] = deque()

    def join(self) -> Row:
        row = Row(self)
        self._rows.append(row)
        return row

    @property
    def head(self) -> Row | None:
        return self._rows[0] if self._rows else None

    def finish(self, row: Row) -> None:
        """`row` is done; whoever is the head now may start whatever the memory says."""
        row.finished = True
        while self._rows and self._rows[0].finished:
            self._rows.popleft()
        if self.head is not None:
            self.head.wake()


@dataclass(eq=False)
class Row:
    """A row under way and the bytes that it holds."""

    line: Line
    held: int = 0
    finished: bool = False
    _ticket: asyncio.Future[None] | None = field(default=None, repr=False)

    @property
    def is_head(self) -> bool:
        return self.line.head is self

    async def wait(self) -> None:
        self._ticket = asyncio.get_running_loop().create_future()
        await self._ticket

    def wake(self) -> None:
        if self._ticket is not None and not self._ticket.done():
            self._ticket.set_result(None)


class Memory:
    """Counts bytes against `limit`; used on one event loop only."""

    def __init__(self, limit: int):
        self.limit, self.held, self.peak = limit, 0, 0
        self._waiting: deque[Row] = deque()

    def may_start(self, row: Row) -> bool:
        """Whether there is room for another body. Half is left for those that are already arriving."""
        return row.is_head or self.held * 2 <= self.limit

    async def room(self, row: Row) -> None:
        """Return when `row` may start."""
        while not self.may_start(row):
            self._waiting.append(row)
            await row.wait()

    def take(self, row: Row, size: int) -> None:
        """Count `size` more bytes for `row`; raises MemoryFull when it must make room for rows before it."""
        if self.held + size > self.limit and not row.is_head:
            raise MemoryFull
        row.held += size
        self.held += size
        self.peak = max(self.peak, self.held)

    def resize(self, row: Row, size: int) -> None:
        """`row` now holds `size` bytes: the picture that is kept, or 0 when it failed or was written."""
        self.held += size - row.held
        row.held = size
        for _ in range(min(_WOKEN_AT_A_TIME, len(self._waiting)) if self.held * 2 <= self.limit else 0):
            self._waiting.popleft().wake()
