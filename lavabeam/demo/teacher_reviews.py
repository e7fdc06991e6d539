"""The scripted teacher as a judge: scores of two answers, or a grade of one, by the words that they share with what is
known. Rehearses `lavabeam review`; says nothing about a model."""

from __future__ import annotations

import re

_REVIEW = re.compile(
    r"(?:\[Context\]\n(?P<context>.*?)\n\n)?\[Question\]\n(?P<question>.*?)\n\n"
    r"\[(?P<role>[^\]]+) 1\]\n(?P<first>.*?)\n\n\[End of (?P=role) 1\]\n\n"
    r"\[(?P=role) 2\]\n(?P<second>.*?)\n\n\[End of (?P=role) 2\]\n\n\[System\]",
    re.DOTALL,
)
_GRADE = re.compile(r"\nTruth: (?P<truth>.*?)\n[ ]*Answer: (?P<answer>.*?)\n\s*\nWrite the grade", re.DOTALL)


def judgement(text: str) -> str | None:
    """The answer to a request for a review or a grade (LLaVA's layout, rules/mm-vet.yaml); None for any other text."""
    asked = _REVIEW.match(text)
    if asked:
        known = _words(f"{asked['context'] or ''} {asked['question']}")
        first, second = (_score(known, asked[place]) for place in ("first", "second"))
        return f"{first} {second}\nBy the share of the known words that each answer uses."
    grades = list(_GRADE.finditer(text[text.rfind("\nTruth: ") :] if "\nTruth: " in text else ""))
    if grades:
        return f"{_share(_words(grades[-1]['truth']), grades[-1]['answer']):.1f}"
    return None


def _score(known: set[str], answer: str) -> int:
    return 1 + min(9, round(18 * _share(known, answer)))


def _share(known: set[str], answer: str) -> float:
    return len(known & _words(answer)) / max(1, len(known))


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]{2,}", text.lower()))
