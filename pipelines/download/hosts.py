"""Politeness: how many downloads at a time and how often, per host and in total. Lives on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

KEPT_HOSTS = 20_000
"""Idle hosts remembered (their last start, their pause) before the oldest are forgotten."""


class HostLimits:
    """A slot for one host and one of the total, taken together and given back together.

    A row waits for its host first and for the total after it, so that a slow host never keeps others' slots.
    """

    def __init__(self, total: int, per_host: int, delay: float, workers: int = 1):
        # The limits of a host hold over all worker processes: each gets its share, at least one download at a time.
        self._per_host = max(1, per_host // workers)
        self._delay = delay * workers
        self._total = asyncio.Semaphore(total)
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def slot(self, host: str) -> AsyncIterator[None]:
        """Wait for a turn at `host`; it ends with the block."""
        state = self._state(host)
        state.users += 1
        try:
            async with state.slots:
                await state.wait_for_turn(self._delay)
                async with self._total:
                    yield
        finally:
            state.users -= 1

    def pause(self, host: str, seconds: float) -> None:
        """No new download from `host` for so long: it said that we ask too much."""
        state = self._state(host)
        state.next_start = max(state.next_start, _now() + seconds)

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
        idle = [host for host, state in self._hosts.items() if not state.users and state.next_start < _now()]
        for host in idle[: KEPT_HOSTS // 2]:
            del self._hosts[host]


class _Host:
    def __init__(self, limit: int):
        self.slots = asyncio.Semaphore(limit)
        self.users = 0
        self.delay = 0.0
        self.next_start = 0.0

    async def wait_for_turn(self, delay: float) -> None:
        gap = max(delay, self.delay)
        while (wait := self.next_start - _now()) > 0:
            # Each waiter takes the next place in line, so that starts are spread, not released together.
            if gap:
                self.next_start += gap
                await asyncio.sleep(wait)
                return
            await asyncio.sleep(wait)
        self.next_start = _now() + gap


def _now() -> float:
    return asyncio.get_running_loop().time()
