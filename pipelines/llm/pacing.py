"""Request pacing: an adaptive concurrency window, and token buckets for stated limits."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

# A bucket never holds more than this many seconds of its rate: providers count their minutes in short pieces.
_BURST_S = 5.0


class Window:
    """How many requests may be open at once, between 1 and `limit`.

    Multiplicative decrease in proportion to the share of overloaded answers, once per round of as many answers as
    the window is wide: a tenth of 429s costs a twentieth of the window, a storm halves it (DCTCP, RFC 8257 section
    3.3, with gain 1). Additive increase of `limit / 16` per round, in proportion to the answers that came through.
    """

    def __init__(self, limit: int):
        self.limit, self.size, self.open = limit, float(limit), 0
        self._answers = self._overloaded = 0
        self._waiting: deque[asyncio.Future] = deque()

    async def enter(self) -> None:
        """Wait, first come first served, until one more request may be open."""
        if self.open < int(self.size) and not self._waiting:
            self.open += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(None)
            raise

    def leave(self, overloaded: bool | None) -> None:
        """A request ended; `overloaded` says whether the server had too much to do for it (None: it was not sent)."""
        self.open -= 1
        if overloaded is not None:
            self._answers += 1
            self._overloaded += overloaded
            if self._answers >= int(self.size):
                self._end_round()
        while self._waiting and self.open < int(self.size):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self.open += 1

    def _end_round(self) -> None:
        share = self._overloaded / self._answers
        self.size = self.size * (1 - share / 2) + max(1.0, self.limit / 16) * (1 - share)
        self.size = min(float(self.limit), max(1.0, self.size))
        self._answers = self._overloaded = 0


class TokenBucket:
    """At most `per_minute` units a minute, with a small burst. `None` is no limit.

    Units may be taken before they are known exactly: `give_back` returns what was not used.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic):
        self.rate = None if per_minute is None else per_minute / 60
        self._burst = 0.0 if self.rate is None else max(1.0, self.rate * _BURST_S)
        self._level, self._clock, self._last = self._burst, clock, clock()
        self._turn = asyncio.Lock()

    async def take(self, units: float) -> None:
        """Wait, first come first served, until `units` are there. More than a burst waits for a full bucket."""
        if self.rate is None:
            return
        async with self._turn:
            while (lacking := min(units, self._burst) - self._filled()) > 0:
                await asyncio.sleep(lacking / self.rate)
            self._level -= units

    def give_back(self, units: float) -> None:
        """Return units that were taken and not used (negative: more were used than taken)."""
        if self.rate is not None:
            self._level = min(self._burst, self._filled() + units)

    def _filled(self) -> float:
        assert self.rate is not None
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._last) * self.rate)
        self._last = now
        return self._level
