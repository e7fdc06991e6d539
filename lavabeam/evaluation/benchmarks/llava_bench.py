"""LLaVA-Bench (In-the-Wild): 60 questions about 24 pictures; a judge compares each answer with a reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lavabeam.evaluation.answers import no_answer, write_jsonl
from lavabeam.evaluation.benchmarks.base import Benchmark
from lavabeam.evaluation.layouts import field, identity
from lavabeam.evaluation.question import LLAVA, Answered, Question
from lavabeam.evaluation.scores import Review, read_reviews
from lavabeam.evaluation.table import Metric, Table, Total
from schemas.errors import InputError


class LlavaBench(Benchmark):
    name = "llava-bench"
    title = "LLaVA-Bench (In-the-Wild)"
    source = "Liu et al. 2023, arXiv:2304.08485; huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild"
    tokens: ClassVar = {LLAVA: 1024}
    protocols: ClassVar = (LLAVA,)
    reviewed: ClassVar = True
    upload_file = "LLaVA's answers (JSON lines), which `lavabeam review` and eval_gpt_review_bench.py take"

    def question(self, row: dict[str, Any], where: str, protocol: str) -> Question:
        text = field(row, "text", where)
        name = identity(field(row, "question_id", where), where)
        return Question(name, text, text, row.get("image"), str(row.get("category") or "all"))

    def review_table(self, questions: Sequence[Question], paths: Sequence[Path], truth: Path | None) -> Table:
        """Mean over the runs of mean(second score) / mean(first score) x 100; reviews that could not be read are in no
        mean, and are counted."""
        runs = [self._run(questions, path) for path in paths]
        columns = np.array(
            [[score for run in runs for score in run[question.id].scores or (0.0, 0.0)] for question in questions]
        )
        metrics: dict[str, Metric] = {"relative": _relative}
        metrics |= {f"run {number}": _run_metric(number) for number in range(1, len(runs) + 1)}
        unreadable = sum(review.scores is None for run in runs for review in run.values())
        each = [float(metrics[f"run {number}"](columns.mean(axis=0))) for number in range(1, len(runs) + 1)]
        more = {"runs": each, "spread": float(np.std(each)), "unreadable": unreadable}
        labels = [(runs[0][question.id].category,) for question in questions]
        scores = (columns[:, 1::2].mean(axis=1)).tolist()
        return Table(columns, labels, metrics, (Total("relative"),), scores, more=more)

    def _run(self, questions: Sequence[Question], path: Path) -> dict[str, Review]:
        found: dict[str, Review] = {}
        for review in read_reviews(path):
            if review.question_id in found:
                raise InputError(f"{path}: question {review.question_id} is reviewed twice. Give one run a file.")
            found[review.question_id] = review
        if all(review.scores is None for review in found.values()):
            raise InputError(f"{path}: none of {len(found)} reviews begins with two scores. Check the judge's output.")
        asked = {question.id for question in questions}
        if missing := asked - found.keys():
            raise InputError(f"{path}: no review of {len(missing)} of {len(asked)} questions, such as {min(missing)}.")
        if foreign := found.keys() - asked:
            raise InputError(f"{path}: {len(foreign)} reviews of other questions, such as {min(foreign)}.")
        return found

    def upload(self, rows: Sequence[Answered], path: Path, every: Path | None) -> int:
        lines = [
            {"question_id": _number(row.question.id), "prompt": row.question.text, "text": row.text or ""}
            | no_answer(row)
            for row in rows
        ]
        write_jsonl(path, lines)
        return len(rows)


def _relative(means: np.ndarray) -> np.ndarray:
    """Of columns first, second, first, second, ...: no number where no review could be read."""
    first = means[..., 0::2]
    ratios = np.divide(means[..., 1::2], first, out=np.full_like(first, np.nan), where=first > 0)
    return 100 * ratios.mean(axis=-1)


def _run_metric(number: int) -> Metric:
    return lambda means: _relative(means[..., 2 * number - 2 : 2 * number])


def _number(name: str) -> int | str:
    return int(name) if name.isdecimal() else name
