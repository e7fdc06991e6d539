"""Parse a judge's review: two scores on its first line, summarised by category.

The layout is LLaVA's (llava/eval/eval_gpt_review_bench.py and summarize_gpt_review.py): a review's text begins with the
scores of the first and the second answer; the summary is mean(second) / mean(first) x 100.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import InputError

_SCORE = re.compile(r"\d{1,3}(?:\.\d+)?")
ALL = "all"
"""The category of all reviews together."""


@dataclass(frozen=True)
class Review:
    """One review: `scores` of the first and the second answer, None where the judge's words hold none."""

    question_id: str
    category: str
    scores: tuple[float, float] | None


def parse_review(text: str) -> tuple[float, float] | None:
    """The two scores on the first line of a review, separated by blanks or a comma; None for any other beginning."""
    first = text.strip().partition("\n")[0].replace(",", " ").split()
    if len(first) != 2 or not all(_SCORE.fullmatch(word) for word in first):
        return None
    return float(first[0]), float(first[1])


def summary(reviews: Iterable[Review]) -> dict[str, dict[str, float | int | None]]:
    """Per category, and for `all`: `relative` (mean of the second scores over the mean of the first, x 100), `first`
    and `second` (means x 10), `reviews`, and `unreadable`, which enter no mean. None where there is nothing to divide.
    """
    groups: dict[str, list[Review]] = {ALL: []}
    for review in reviews:
        groups[ALL].append(review)
        groups.setdefault(review.category, []).append(review)
    return {category: _means(group) for category, group in sorted(groups.items())}


def read_reviews(path: Path) -> list[Review]:
    """The reviews in a file of LLaVA's layouts: `content` and `tuple`, or `text` and `score`.

    Scores are read from the words; stored ones count where the words do not begin with any (the math reviews of
    Vicuna's 80 questions end with them), but for (-1, -1), which stands for an answer that could not be read. Raises
    InputError naming the line of what is no review, or whose words and stored scores differ.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as JSON lines: {error}") from error
    return [_review(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _review(line: str, where: str) -> Review:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON: {error}") from error
    text = row.get("content", row.get("text")) if isinstance(row, dict) else None
    if not isinstance(text, str) or "question_id" not in row:
        raise InputError(f"{where}: expected a review with question_id and content (or text), and its tuple or score.")
    said, stored = parse_review(text), _stored(row.get("tuple", row.get("score")), where)
    if row.get("status", "ok") != "ok":  # of `lavabeam review`: whatever the words begin with, they are no scores
        said = stored = None
    if said and stored and said != stored:
        raise InputError(f"{where}: the judge's words say {said}, the stored scores are {stored}. Correct one of them.")
    return Review(str(row["question_id"]), str(row.get("category") or "default"), said or stored)


def _stored(value: Any, where: str) -> tuple[float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(one, int | float) for one in value):
        raise InputError(f"{where}: the stored scores are {value!r:.60}; expected two numbers.")
    return None if min(value) < 0 else (float(value[0]), float(value[1]))


def _means(group: list[Review]) -> dict[str, float | int | None]:
    pairs = [review.scores for review in group if review.scores]
    first, second = (sum(column) / len(pairs) for column in zip(*pairs, strict=True)) if pairs else (None, None)
    return {
        "reviews": len(group),
        "unreadable": len(group) - len(pairs),
        "relative": second / first * 100 if first and second is not None else None,
        "first": None if first is None else 10 * first,
        "second": None if second is None else 10 * second,
    }
