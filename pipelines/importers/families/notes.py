"""Statistics of reading official files, and how a run's summary reports them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass
class Tally:
    """Questions in = questions in turns + questions left out, by status."""

    questions: int = 0
    made: int = 0
    """Turns that questions became."""
    turns: int = 0
    """Turns in rows: where a picture has more than its rows take, those are not chosen."""
    rows: int = 0
    pictures: int = 0
    missing: int = 0
    several: int = 0
    replaced: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    firsts: dict[str, str] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)
    """What a set's own reader has to say."""

    def read(self, turns: Sequence[tuple[str, str]]) -> None:
        self.questions += 1
        self.made += len(turns)
        self.replaced += any(REPLACEMENT in text for turn in turns for text in turn)

    def repeated(self, lines: Sequence[str]) -> None:
        """Counts the questions of a picture that come again, id, text and answer alike; they are asked once."""
        for line, count in Counter(lines).items():
            id, turns, status, _ = json.loads(line)
            if count > 1 and status == "ok":
                self.made -= (count - 1) * len(turns)
                self.reasons["repeated"] += count - 1
                self.firsts.setdefault("repeated", id)

    def wrote(self, turns: Sequence[tuple[str, str]]) -> None:
        self.rows += 1
        self.turns += len(turns)

    def left_out(self, status: str, id: str) -> None:
        self.questions += 1
        self.reasons[status] += 1
        self.firsts.setdefault(status, id)

    def looked_up(self, found: bool, several: int) -> None:
        self.pictures += 1
        self.missing += not found
        self.several = several

    def notes(self) -> list[str]:
        made = (
            f"{counted(self.questions, 'question')} became {counted(self.turns, 'turn')} in {counted(self.rows, 'row')}"
        )
        words = [made, *([f"{counted(self.made - self.turns, 'turn')} not chosen"] if self.made > self.turns else [])]
        words += [f"{count} {status} (first: {self.firsts[status]})" for status, count in sorted(self.reasons.items())]
        lines = ["; ".join(words) + "."]
        if self.missing:
            lines.append(f"{self.missing} of {counted(self.pictures, 'picture')} not in the image folder.")
        if self.several:
            lines.append(
                f"{counted(self.several, 'picture')} in several places of the image folder; the topmost is taken."
            )
        if self.replaced:
            lines.append(f"{counted(self.replaced, 'question')} with U+FFFD, an unreadable character, as published.")
        return [*lines, *self.extra]


def counted(number: int, what: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
