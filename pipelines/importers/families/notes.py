"""What is counted while official files are read, and how a run's summary says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass
class Tally:
    """Questions in = questions in turns + questions left out, by status."""

    questions: int = 0
    turns: int = 0
    rows: int = 0
    pictures: int = 0
    missing: int = 0
    several: int = 0
    replaced: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    firsts: dict[str, str] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)
    """What a set's own reader has to say."""

    def used(self, turns: Sequence[tuple[str, str]]) -> None:
        self.questions += 1
        self.turns += len(turns)
        self.replaced += any(REPLACEMENT in text for turn in turns for text in turn)

    def left_out(self, status: str, id: str) -> None:
        self.questions += 1
        self.reasons[status] += 1
        self.firsts.setdefault(status, id)

    def looked_up(self, found: bool, several: int) -> None:
        self.pictures += 1
        self.missing += not found
        self.several = several

    def notes(self) -> list[str]:
        words = [f"{self.questions} questions became {self.turns} turns in {self.rows} rows"]
        words += [f"{count} {status} (first: {self.firsts[status]})" for status, count in sorted(self.reasons.items())]
        lines = ["; ".join(words) + "."]
        if self.missing:
            lines.append(f"{self.missing} of {self.pictures} pictures are not in the image folder.")
        if self.several:
            lines.append(f"{self.several} pictures are in several places of the image folder; the topmost was taken.")
        if self.replaced:
            lines.append(f"{self.replaced} questions hold U+FFFD, an unreadable character, as published.")
        return [*lines, *self.extra]
