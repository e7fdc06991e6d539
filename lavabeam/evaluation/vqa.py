"""Soft accuracy of an answer against those that several people gave (VQA: Antol et al. 2015, section 2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lavabeam.evaluation.normalise import challenge, plain

ENOUGH = 3
"""So many people with the same answer make it right."""


def soft_accuracy(answer: str, people: Sequence[str]) -> float:
    """Mean over all but one of `people` of min(1, matches / 3); both sides as they are compared."""
    return _leave_one_out(Counter(people)[answer], len(people))


def challenge_accuracy(answer: str, people: Sequence[str]) -> float:
    """`soft_accuracy` as VQA's and VizWiz's own evaluation has it: answers are normalised only where people disagree.

    So a capital letter makes an answer wrong that all people agree on.
    """
    said = Counter(people)
    compared = challenge if len({plain(one) for one in said}) > 1 else plain
    answer = compared(answer)
    matches = sum(count for one, count in said.items() if compared(one) == answer)
    return _leave_one_out(matches, len(people))


def _leave_one_out(matches: int, people: int) -> float:
    """Each of `people` is left out once: `matches` of them times one match fewer remains."""
    if not matches:
        return 0.0
    without_match = min(1.0, (matches - 1) / ENOUGH)
    without_other = min(1.0, matches / ENOUGH)
    return (matches * without_match + (people - matches) * without_other) / people
