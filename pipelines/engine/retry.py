"""The retry policy shared by image downloads and LLM requests.

What flows in: how many tries were made and what the server said. What flows out: seconds to wait, or None.
Everything here is pure; the caller sleeps and owns the randomness.
"""

from __future__ import annotations

import random as _random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from pydantic import BaseModel, ConfigDict, Field

# RFC 9110 section 15.5.9 (408), RFC 8470 section 5.2 (425), RFC 6585 section 4 (429): the same request may pass later.
_TRANSIENT_CLIENT_ERRORS = frozenset({408, 425, 429})


class RetryPolicy(BaseModel):
    """Exponential backoff with jitter, bounded, that listens to ``Retry-After``.

    The wait after try number n is ``base_s * 2**(n-1)``, at most ``cap_s``, of which a random share ``jitter`` is
    taken off: 1 is "full jitter" (uniform between 0 and the wait), 0 is the bare exponential. Full jitter finishes
    soonest with the least load on the server (Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts: int = Field(default=4, ge=1, description="tries in total, the first one included")
    base_s: float = Field(default=0.5, ge=0, description="longest wait after the first failure, in seconds")
    cap_s: float = Field(default=30.0, ge=0, description="upper limit of our own waits, in seconds")
    jitter: float = Field(default=1.0, ge=0, le=1, description="random share of each wait, 0 to 1")
    retry_after_cap_s: float = Field(
        default=120.0,
        ge=0,
        description="longest Retry-After that is honoured; with a longer one the row fails for this run",
    )

    def delay(
        self, attempt: int, retry_after: float | None = None, random: Callable[[], float] = _random.random
    ) -> float | None:
        """Seconds to wait before the next try, or None when there should be none.

        ``attempt`` is the number of tries already made (1 after the first failure). ``retry_after`` is what the server
        asked for, in seconds: it is never undercut, the jitter comes on top so that clients do not return together,
        and asking for more than ``retry_after_cap_s`` ends the tries. ``random`` returns a float in [0, 1).
        """
        if attempt < 1:
            raise ValueError(f"attempt counts tries already made and starts at 1, got {attempt}")
        if attempt >= self.attempts:
            return None
        # 2**62 seconds is beyond every cap: bounding the exponent keeps the float finite for any number of attempts.
        wait = min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 62))
        if retry_after is None:
            return wait * (1 - self.jitter * random())
        if retry_after > self.retry_after_cap_s:
            return None
        return max(0.0, retry_after) + self.jitter * random() * min(wait, self.base_s)


def is_transient_http(status: int) -> bool:
    """Whether an HTTP status may pass by itself: 408, 425, 429 and every 5xx. All other errors are permanent."""
    return status in _TRANSIENT_CLIENT_ERRORS or 500 <= status <= 599


def parse_retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds a server asks to wait, from ``Retry-After`` (RFC 9110 section 10.2.3), or None.

    Both forms are read, a number of seconds and an HTTP date (``now`` is the moment to count from, timezone aware;
    the current time by default), and before them ``retry-after-ms``, which LLM services send. A date in the past is
    0; nonsense counts as absent. Header names are compared without regard to case.
    """
    values = {name.lower(): value.strip() for name, value in headers.items()}
    milliseconds = _non_negative(values.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = values.get("retry-after")
    seconds = _non_negative(text)
    if seconds is not None or not text:
        return seconds
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


def _non_negative(text: str | None) -> float | None:
    """A finite number >= 0 written in plain digits, or None."""
    if not text or not text.replace(".", "", 1).isdecimal() or not text.isascii():
        return None
    return float(text)
