"""Counts events of a task where they happen, for the progress display."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Done:
    """Source rows worked on, statuses of the rows made of them, and answers that an LLM gave meanwhile."""

    rows: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)
    answers: int = 0

    def __add__(self, other: Done) -> Done:
        statuses = Counter(self.statuses) + Counter(other.statuses)
        return Done(self.rows + other.rows, statuses, self.answers + other.answers)

    def __neg__(self) -> Done:
        """What takes it back, added to a sum that it is part of."""
        statuses = {status: -number for status, number in self.statuses.items()}
        return Done(-self.rows, statuses, -self.answers)


Count = Callable[[Done], None]

_COUNT: ContextVar[Count | None] = ContextVar("counts what the current task has done", default=None)


@contextmanager
def counting(count: Count) -> Iterator[None]:
    """`report` of this thread, and of coroutines that it submits, goes to `count` until the block ends."""
    token = _COUNT.set(count)
    try:
        yield
    finally:
        _COUNT.reset(token)


def report(done: Done) -> None:
    """Count for the current task, from any thread; of no effect outside one."""
    count = _COUNT.get()
    if count is not None:
        count(done)
