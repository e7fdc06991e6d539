"""Shared by the converters: choice of the answer, formatting of choices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from string import ascii_uppercase

from pipelines.importers.families.question import FamilyStatus, Question, Unusable

SHORT = "Answer the question using a single word or phrase."
"""After questions of VQAv2, GQA, OK-VQA and OCR-VQA (LLaVA-1.5, arXiv 2310.03744, Table 7)."""

LETTER = "Answer with the option's letter from the given choices directly."
"""After questions with choices, as A-OKVQA's (same table)."""


def most_common(answers: Sequence[str]) -> str | None:
    """The answer that most annotators gave; of several the first. None without answers."""
    given = [answer for answer in answers if answer.strip()]
    # Counter keeps the order of first appearance, and most_common is stable.
    return Counter(given).most_common(1)[0][0] if given else None


def choice_turns(question: Question, rotations: int = 1) -> list[tuple[str, str]]:
    """The question with lettered choices, once per rotation of them, and the letter of the right one.

    Raises Unusable without choices, and for a right one that is not among them.
    """
    count = len(question.choices)
    if not count:
        raise Unusable(FamilyStatus.bad_question, "no choices")
    if question.correct is None:
        raise Unusable(FamilyStatus.no_answer, "no answer")
    if not 0 <= question.correct < count:
        raise Unusable(FamilyStatus.bad_question, f"choice {question.correct} of {count} is said to be right")
    return [
        (f"{question.text}\n{lettered(question.choices, by)}", letter((question.correct - by) % count))
        for by in range(rotations)
    ]


def lettered(choices: Sequence[str], rotation: int = 0) -> str:
    """`A. cat` and so on, a line each, the choices moved up by `rotation` places."""
    turned = [*choices[rotation:], *choices[:rotation]]
    return "\n".join(f"{letter(place)}. {choice}" for place, choice in enumerate(turned))


def letter(place: int) -> str:
    """The letter of a choice, A for 0; raises Unusable beyond Z."""
    if place >= len(ascii_uppercase):
        raise Unusable(FamilyStatus.bad_question, f"choice {place + 1} has no letter")
    return ascii_uppercase[place]
