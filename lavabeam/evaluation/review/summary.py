"""`lavabeam review summary`: summarise review files, with the spread over runs and the position bias.

Files are LLaVA's or ours. The summary of a file is mean(second) / mean(first) x 100 per category, of the reviews that
hold two scores.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lavabeam.evaluation.review.pairs import listed, rows_of
from lavabeam.evaluation.scores import ALL, Review, read_reviews, summary
from schemas.errors import InputError

_OURS = re.compile(r"reviews-(\d+)(\.swapped)?\.jsonl")


@dataclass(frozen=True)
class ReviewFile:
    """The reviews of one file, in both orders where it has a `.swapped` one; `subject`: which answers were compared."""

    path: Path
    reviews: tuple[Review, ...]
    swapped: tuple[Review, ...]
    subject: tuple[Any, ...] | None


def summarise(paths: Sequence[Path], ignore: Iterable[str] = ()) -> dict[str, Any]:
    """`files`: per file its categories (scores.summary) and, where there are both orders, its `position` bias; `runs`:
    per set of answers that several files judged, the mean and spread of `relative` by category.

    paths: review files, or folders of them. `ignore`: question ids that are left out, of which each must be there.
    The spread is the sample standard deviation, with the least and the most. Raises InputError for a path without
    reviews, and for a question that a file has twice.
    """
    files = [_without(one, set(ignore)) for path in paths for one in _files_at(path)]
    groups: dict[Any, list[dict[str, Any]]] = {}
    reported = []
    for one in files:
        entry = {"file": str(one.path), "categories": _categories([*one.reviews, *map(_turned, one.swapped)])}
        if one.swapped:
            entry["position"] = position_bias(one.reviews, one.swapped)
        reported.append(entry)
        groups.setdefault(one.subject or one.path, []).append(entry)
    return {"files": reported, "runs": [_spread(group) for group in groups.values() if len(group) > 1]}


def position_bias(reviews: Sequence[Review], swapped: Sequence[Review]) -> dict[str, float | int | None]:
    """What the place of an answer does to its score, over the `questions` that have scores in both orders.

    `first_gains`: points by which an answer's score is higher in the first place than in the second, on average.
    `changed`: the share of questions of which another answer wins when the order changes. None without such questions.
    """
    other = {one.question_id: one.scores for one in swapped}
    gains, changed = [], 0
    for one in reviews:
        turned = other.get(one.question_id)
        if one.scores is None or turned is None:
            continue
        (reference, answer), (answer_first, reference_second) = one.scores, turned
        gains.append(((reference - reference_second) + (answer_first - answer)) / 2)
        changed += _sign(answer - reference) != _sign(answer_first - reference_second)
    count = len(gains)
    shares = {"first_gains": statistics.fmean(gains), "changed": changed / count} if count else {}
    return {"questions": count, "first_gains": None, "changed": None, **shares}


def _categories(reviews: list[Review]) -> dict[str, dict[str, Any]]:
    """scores.summary, and `published`: `relative` with one digit as LLaVA's summarize_gpt_review.py prints it, which
    rounds the means to three digits before it divides them (52.6 where the ratio is 52.65)."""
    found: dict[str, dict[str, Any]] = {}
    for name, means in summary(reviews).items():
        first, second = means["first"], means["second"]
        ratio = round(round(second / 10, 3) / round(first / 10, 3) * 100, 1) if first and second is not None else None
        found[name] = {**means, "published": ratio}
    return found


def _files_at(path: Path) -> list[ReviewFile]:
    if path.is_file():
        return [_read(path)]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder. Give review files, or the --output of `lavabeam review`.")
    named = [(_OURS.fullmatch(one.name), one) for one in path.iterdir()]
    ours = sorted((int(name[1]), one) for name, one in named if name and not name[2])
    found = [one for _, one in ours] or sorted(path.glob("*.jsonl"))
    if not found:
        raise InputError(f"{path}: holds no review files (*.jsonl). `lavabeam review` makes them.")
    return [_read(one) for one in found]


def _read(path: Path) -> ReviewFile:
    ours = _OURS.fullmatch(path.name)
    beside = path.with_suffix(".swapped.jsonl")
    swapped = tuple(_once(beside)) if ours and not ours[2] and beside.is_file() else ()
    reviews = tuple(_once(path))
    if not reviews:
        raise InputError(f"{path}: contains no reviews.")
    return ReviewFile(path, reviews, swapped, _subject(path))


def _once(path: Path) -> list[Review]:
    reviews = read_reviews(path)
    seen: set[str] = set()
    doubled = [one.question_id for one in reviews if one.question_id in seen or seen.add(one.question_id)]  # type: ignore[func-returns-value]
    if doubled:
        raise InputError(f"{path}: two reviews of {listed(doubled)} questions. Give each run a file of its own.")
    return reviews


def _subject(path: Path) -> tuple[Any, ...] | None:
    """The ids of the answers that a file compares, by which the runs of one comparison are known.

    None where its answers have none but those of their questions: all models' answers are called the same then.
    """
    rows = [row for _, row in rows_of(path, ("question_id",))]
    named = [(str(row["question_id"]), str(row.get("answer1_id")), str(row.get("answer2_id"))) for row in rows]
    return tuple(named) if any(second not in (question, "None") for question, _, second in named) else None


def _without(file: ReviewFile, ignored: set[str]) -> ReviewFile:
    lacking = ignored - {one.question_id for one in file.reviews}
    if lacking:
        raise InputError(f"{file.path}: has no review of question {listed(sorted(lacking))}, which --ignore names.")
    kept = (tuple(one for one in part if one.question_id not in ignored) for part in (file.reviews, file.swapped))
    reviews, swapped = kept
    return replace(file, reviews=reviews, swapped=swapped)


def _turned(review: Review) -> Review:
    """A review in the other order, as if the reference stood first."""
    return replace(review, scores=review.scores and (review.scores[1], review.scores[0]))


def _spread(group: list[dict[str, Any]]) -> dict[str, Any]:
    categories = {}
    for name in sorted({name for one in group for name in one["categories"]}):
        values = [one["categories"].get(name, {}).get("relative") for one in group]
        known = [value for value in values if value is not None]
        if len(known) > 1:
            categories[name] = {
                "runs": len(known),
                "mean": statistics.fmean(known),
                "deviation": statistics.stdev(known),
                "least": min(known),
                "most": max(known),
            }
    return {"files": [one["file"] for one in group], "categories": categories}


def _sign(difference: float) -> int:
    return (difference > 0) - (difference < 0)


__all__ = ["ALL", "ReviewFile", "position_bias", "summarise"]
