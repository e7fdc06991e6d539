"""How long new prompts wait for others, so that one forward pass computes them together."""

from __future__ import annotations

MOST_S = 0.05
"""Seconds that prompts wait at most."""

LONGER = 1.5
"""A wait, as a multiple of what the last prompts took."""

FORGOTTEN, FORGOTTEN_FAST = 0.95, 0.5
"""What is left of an expectation that is not met, and of one of which not even half came."""


class Gathering:
    """Several prompts cost little more to compute than one, and clients that send one request after another come back
    together. So as many rows are waited for as were there lately, and about as long as computing prompts takes: waiting
    costs about what it may save. A client that is alone soon does not wait.
    """

    def __init__(self) -> None:
        self._usual = 1.0
        self.seconds = 0.0
        """The longest wait, now."""

    def took(self, seconds: float) -> None:
        """The duration of a step that computed prompts."""
        self.seconds = min(LONGER * seconds, MOST_S)

    def begin(self, rows: int) -> None:
        """`rows` are waiting or running, and some are about to be computed."""
        self._usual = max(float(rows), self._usual)

    def end(self, rows: int) -> None:
        """`rows` are there after the wait."""
        if rows < self._usual:
            kept = FORGOTTEN_FAST if rows < self._usual / 2 else FORGOTTEN
            self._usual = max(float(rows), self._usual * kept)

    def expects_more(self, rows: int) -> bool:
        return rows < round(self._usual)
