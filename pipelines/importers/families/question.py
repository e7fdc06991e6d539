"""One question of an official file with all its fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple


class FamilyStatus(StrEnum):
    """What became of the questions about one picture. All but `ok` leave the row out."""

    ok = "ok"
    no_image = "no_image"  # the picture is not in the image folder, or an empty file
    no_answer = "no_answer"  # no question of the row has one: a test split, or an id that the answers lack
    bad_question = "bad_question"  # no text, a placeholder of a picture in it, an answer that is not among the choices
    not_shown = "not_shown"  # it asks about something that the published picture does not show (AI2D's letters)


class Answer(NamedTuple):
    """What one annotator answered; `confidence` is yes, maybe or no where the set has it."""

    text: str
    confidence: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """One question. What a set does not have is empty."""

    id: str
    """As in the official file, leading zeros included."""
    picture: str | None
    """The picture's official name; None for a question without one."""
    text: str
    answer: str | None = None
    """The set's own main answer."""
    answers: tuple[Answer, ...] = ()
    """All answers, in the file's order."""
    choices: tuple[str, ...] = ()
    correct: int | None = None
    """Which choice is right, from 0."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the official record that evaluation needs, under their own names."""


class Unusable(Exception):
    """A question that becomes no turn: its status and the reason."""

    def __init__(self, status: str, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, reason
