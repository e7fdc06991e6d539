"""Rate limits: concurrent downloads and delays, per host and in total. Runs on one event loop."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipelines.download.statuses import Failure
from pipelines.engine.retry import RetryPolicy

KEPT_HOSTS = 20_000
"""Idle hosts remembered (their last start, their rest) before the oldest are forgotten."""

REFUSALS = 8
"""After so many refusals, each after the rest that the one before it asked for, and no answer between them, a host is
left alone."""
LEFT_ALONE_S = 600.0
"""Seconds, or as long as the host asked for when that is more."""


class HostLimits:
    """A slot for one host and one of the total, taken together and given back together.

    A row waits for its host first and for the total after it, so that a slow host never keeps others' slots.
    """

    def __init__(self, total: int, per_host: int, delay: float, workers: int = 1, patience: RetryPolicy | None = None):
        # The limits of a host hold over all worker processes: each gets its share, at least one download at a time.
        self._per_host = max(1, per_host // workers)
        self._delay = delay * workers
        self._patience = (patience or RetryPolicy()).model_copy(update={"attempts": REFUSALS})
        self._total = asyncio.Semaphore(total)
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def slot(self, host: str) -> AsyncIterator[None]:
        """Wait for a turn at `host`; it ends with the block. Raises Failure when the host is left alone."""
        state = self._state(host)
        state.users += 1
        try:
            async with state.slots:
                await state.wait_for_turn(self._delay)
                async with self._total:
                    yield
        finally:
            state.users -= 1

    def refused(self, host: str, failure: Failure) -> None:
        """`host` said that we ask too much: it rests as long as it asked for, in the end it is left alone."""
        state = self._state(host)
        if _now() >= state.rests_until:
            state.refusals += 1  # those that were under way when it began to rest are one refusal
        rest = self._patience.delay(state.refusals, failure.retry_after)
        if rest is not None:
            state.rests_until = max(state.rests_until, _now() + rest)
        elif state.refusals >= REFUSALS:
            state.left_alone_until = _now() + max(LEFT_ALONE_S, failure.retry_after or 0)
            # The same outcome as the rows that asked, so that no column tells who came first.
            state.refusal = Failure(failure.status, failure.detail, retry_after=math.inf)

    def answered(self, host: str) -> None:
        """`host` gave a picture, or said that there is none."""
        self._state(host).refusals = 0

    def slow_down(self, host: str, delay: float) -> None:
        """Keep at least `delay` seconds between starts at `host` (its robots.txt asks for it)."""
        self._state(host).delay = delay

    def _state(self, host: str) -> _Host:
        # Re-inserting keeps the dictionary in order of use.
        state = self._hosts.pop(host, None) or _Host(self._per_host)
        self._hosts[host] = state
        if len(self._hosts) > KEPT_HOSTS:
            self._forget()
        return state

    def _forget(self) -> None:
        idle = [host for host, state in self._hosts.items() if state.is_idle]
        for host in idle[: KEPT_HOSTS // 2]:
            del self._hosts[host]


class _Host:
    def __init__(self, limit: int):
        self.slots = asyncio.Semaphore(limit)
        self.users = 0
        self.delay = 0.0
        self.next_start = 0.0
        self.rests_until = 0.0
        self.refusals = 0
        self.left_alone_until = 0.0
        self.refusal: Failure | None = None

    @property
    def is_idle(self) -> bool:
        return not self.users and max(self.next_start, self.rests_until, self.left_alone_until) < _now()

    async def wait_for_turn(self, delay: float) -> None:
        """Each waiter takes the next place in line, so that starts are spread, and another one when a rest began."""
        gap = max(delay, self.delay)
        while True:
            self._check_left_alone()
            start = max(self.next_start, self.rests_until, _now())
            self.next_start = start + gap
            if start > _now():
                await asyncio.sleep(start - _now())
            if self.rests_until <= start:
                return self._check_left_alone()

    def _check_left_alone(self) -> None:
        if self.refusal is not None and _now() < self.left_alone_until:
            raise Failure(self.refusal.status, self.refusal.detail, self.refusal.retry_after)


def _now() -> float:
    return asyncio.get_running_loop().time()
