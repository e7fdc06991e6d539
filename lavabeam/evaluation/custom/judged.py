"""The metric `judge`: an LLM grades each answer against its references, from 0 to 1 in tenths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from lavabeam.evaluation.judging import Judgement, judge_all
from lavabeam.evaluation.question import Answered
from lavabeam.evaluation.review.mmvet import Graded, GradeSettings, asked_of, read_grade
from lavabeam.evaluation.table import Table, Total, share
from pipelines.llm.answer import TRANSIENT, UNFINISHED
from pipelines.llm.tally import Tally
from schemas.errors import InputError

JUDGE = "judge"
PROMPT = "grade/1"
_ANY = "<OR>"
Ungraded = dict[int, Judgement[float]]
"""The judgement that holds no grade, by the number of the row."""


def judged_table(
    rows: Sequence[Answered], settings: GradeSettings, output: Path, min_graded: float, more: Mapping[str, Any]
) -> Table:
    """The mean grade of each row over the runs, then the grade of each run; a row that a run left without a grade has
    no score, and a reason. `min_graded`: the smallest share of the rows with a grade that is scored.

    No answer is graded 0 and asked about nobody. Raises InputError when fewer rows have a grade, and when another run
    may still get some (the judge is away, the key is wrong, a cap is reached): what it said is in the cache, and the
    same command asks for the others.
    """
    grades, ungraded = _grades(rows, settings, output)
    _check(rows, ungraded, settings, min_graded)
    kept = [number for number in range(len(rows)) if number not in ungraded]
    columns = np.column_stack([grades.mean(axis=1), grades])
    statuses = Counter(str(one.status) for one in ungraded.values())
    return Table(
        columns=columns[kept],
        labels=[(rows[number].question.category,) for number in kept],
        metrics={JUDGE: share()},
        totals=(Total(JUDGE),),
        scores=[None if number in ungraded else float(score) for number, score in enumerate(columns[:, 0])],
        reasons={number: f"{one.status}: {one.detail}" for number, one in ungraded.items()},
        more={
            "metric": JUDGE,
            "about": f"grades by {settings.model}, from 0 to 1 in tenths, mean of {settings.runs} runs",
            **more,
            **({"ungraded": dict(statuses)} if statuses else {}),
        },
    )


def _grades(rows: Sequence[Answered], settings: GradeSettings, output: Path) -> tuple[np.ndarray, Ungraded]:
    """[rows, runs], and the rows that at least one run left without a grade."""
    graded = [_graded(row) for row in rows]
    grades, ungraded = np.zeros((len(rows), settings.runs)), Ungraded()
    with judge_all(settings, output, asked_of(graded, settings, PROMPT), read_grade, Tally()) as found:
        for run, (number, row) in product(range(settings.runs), enumerate(graded)):
            if row.missing:
                continue
            one = next(found)
            if one.value is not None:
                grades[number, run] = one.value
            elif number not in ungraded or one.status in TRANSIENT | UNFINISHED:
                ungraded[number] = one
    return grades, ungraded


def _check(rows: Sequence[Answered], ungraded: Ungraded, settings: GradeSettings, min_graded: float) -> None:
    if not ungraded:
        return
    again = {number: one for number, one in ungraded.items() if one.status in TRANSIENT | UNFINISHED}
    number, one = next(iter((again or ungraded).items()))
    left = f"the judge left {len(ungraded)} of {len(rows)} answers without a grade"
    first = f"question {rows[number].question.id}: {one.status}: {one.detail}"
    if again:
        raise InputError(
            f"{left}, {len(again)} of them for a reason that may pass, the first: {first}. Repair the endpoint or "
            "raise the cap, and run the same command: grades that are there are not asked for again."
        )
    share_graded = 1 - len(ungraded) / len(rows)
    if share_graded < min_graded or len(ungraded) == len(rows):
        raise InputError(
            f"{left} ({share_graded:.3f} have one, less than --min-graded {min_graded:g}), the first: {first}. Raise "
            f"`repairs` (now {settings.repairs}) or max_output_tokens in the file of --judge (grades that are there "
            "are not asked for again), or score the graded ones alone with a smaller --min-graded."
        )


def _graded(row: Answered) -> Graded:
    truth = _ANY.join(dict.fromkeys(row.truth))
    return Graded(row.question.id, row.question.stem, truth, row.text or "", "no answer" if row.text is None else "")
