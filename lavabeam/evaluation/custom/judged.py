"""The metric `judge`: an LLM grades each answer against its references, from 0 to 1 in tenths."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from lavabeam.evaluation.judging import judge_all
from lavabeam.evaluation.question import Answered
from lavabeam.evaluation.review.mmvet import Graded, GradeSettings, asked_of, read_grade
from pipelines.llm.tally import Tally
from schemas.errors import InputError

PROMPT = "grade/1"
_ANY = "<OR>"


def judged_columns(rows: Sequence[Answered], settings: GradeSettings, output: Path) -> np.ndarray:
    """The mean grade of each row over the runs, then the grade of each run, [questions, 1 + runs].

    No answer is graded 0 and asked about nobody. Raises InputError when the judge leaves answers without a grade: what
    it said is in the cache, and the same command asks for the others.
    """
    graded = [_graded(row) for row in rows]
    grades, without = np.zeros((len(rows), settings.runs)), list[str]()
    with judge_all(settings, output, asked_of(graded, settings, PROMPT), read_grade, Tally()) as found:
        for run, (number, row) in product(range(settings.runs), enumerate(graded)):
            if row.missing:
                continue
            one = next(found)
            if one.value is None:
                without.append(f"question {row.id}: {one.status}: {one.detail}")
            else:
                grades[number, run] = one.value
    if without:
        raise InputError(
            f"the judge left {len(without)} of {len(rows) * settings.runs} answers without a grade, the first: "
            f"{without[0]}. Raise `repairs` (now {settings.repairs}) or max_output_tokens in the file of --judge, or "
            "repair the endpoint; grades that are there are not asked for again."
        )
    return np.column_stack([grades.mean(axis=1), grades])


def _graded(row: Answered) -> Graded:
    truth = _ANY.join(dict.fromkeys(row.truth))
    return Graded(row.question.id, row.question.stem, truth, row.text or "", "no answer" if row.text is None else "")
