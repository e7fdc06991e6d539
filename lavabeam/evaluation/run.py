"""Run one benchmark: questions, answers, ground truth, scores, submission file."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavabeam.evaluation.answers import read_answers, write_jsonl
from lavabeam.evaluation.benchmarks.base import Benchmark, write_json
from lavabeam.evaluation.joining import Allowed, Joined, check_ids, with_answers, with_truths
from lavabeam.evaluation.question import LLAVA, Answered, Question
from lavabeam.evaluation.registry import open_benchmark
from lavabeam.evaluation.table import Table, figures
from schemas.errors import InputError

SCORES, RESULTS = "scores.json", "results.jsonl"


@dataclass(frozen=True)
class Files:
    """What one evaluation reads and writes."""

    questions: Path
    answers: Path
    truth: Path | None = None
    reviews: tuple[Path, ...] = ()
    upload: Path | None = None
    upload_questions: Path | None = None
    output: Path | None = None
    """The folder for scores.json (all figures) and results.jsonl (each question with answer, truth and score)."""


@dataclass(frozen=True)
class Settings:
    """How a benchmark is asked and scored. `limit`: only the first questions, and a score of those alone."""

    protocol: str = LLAVA
    allowed: Allowed = field(default_factory=Allowed)
    limit: int | None = None


def open_checked(name: str, protocol: str) -> Benchmark:
    """The benchmark; raises InputError when it does not have that protocol."""
    benchmark = open_benchmark(name)
    if protocol not in benchmark.protocols:
        raise InputError(
            f"{benchmark.title} has protocol {', '.join(benchmark.protocols)} here, not {protocol}: lmms-eval has it "
            "with a judge of its own, or not at all. Leave --protocol out."
        )
    return benchmark


def read_questions(benchmark: Benchmark, path: Path, settings: Settings) -> list[Question]:
    """The official questions, at most `limit` of them. Raises InputError when there are none, and for ids that stand
    for several (joining.check_ids)."""
    if not path.exists():
        raise InputError(f"{path}: no such file. Give {benchmark.title}'s questions with --questions.")
    with without_collector():
        questions = benchmark.questions(path, settings.protocol)[: settings.limit]
    if not questions:
        raise InputError(f"{path}: contains no questions.")
    check_ids(questions, str(path), _name_of(benchmark))
    return questions


def _name_of(benchmark: Benchmark) -> Callable[[Question], Any]:
    """What tells a question from all others."""
    if not benchmark.by_text:
        return lambda one: benchmark.plain_id(one.id)
    return lambda one: (benchmark.plain_id(one.id), benchmark.words(one.stem), benchmark.upload_id(one))


@contextmanager
def without_collector() -> Iterator[None]:
    """Millions of rows are made here and all stay: Python's cycle collector would walk through them again and again."""
    was = gc.isenabled()  # type: ignore[attr-defined]  # mypy takes it for dags/gc.py
    gc.disable()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if was:
            gc.enable()  # type: ignore[attr-defined]


def evaluate_answers(
    benchmark: Benchmark, questions: Sequence[Question], files: Files, settings: Settings
) -> dict[str, Any]:
    """Join, score and write. Returns `scores` (None where there is no truth), `categories`, `counts` of the join and
    what was written.

    Raises InputError for what does not fit (joining.py), and when there is neither a truth nor anything to write.
    """
    with without_collector():
        words, answers = benchmark.words if benchmark.by_text else None, read_answers(files.answers)
        joined = with_answers(
            questions, answers, settings.allowed, benchmark.plain_id, words, upload_id=benchmark.upload_id
        )
        rows, truthful = _with_truths(benchmark, joined, files, settings.allowed)
    table = _table(benchmark, rows if truthful else [], questions, files, settings)
    if table is None and files.upload is None and files.output is None:
        what = "reviews (--reviews)" if benchmark.reviewed else f"its truth (--truth: {benchmark.truth_file})"
        raise InputError(f"{benchmark.title} is scored by {what}. Give it, or write an upload file with --upload.")
    report = {
        "benchmark": benchmark.name,
        "protocol": settings.protocol,
        "answers": str(files.answers),
        "join": joined.counts,
        "scored": 0 if table is None else sum(score is not None for score in table.scores),
        **({"scores": None} if table is None else figures(table)),
    }
    if files.upload is not None:
        written = benchmark.upload(rows if truthful else joined.rows, files.upload, files.upload_questions)
        report["upload"] = {"file": str(files.upload), "rows": written}
    if files.output is not None:
        _write(files.output, report, rows if truthful else joined.rows, table)
    return report


def _with_truths(benchmark: Benchmark, joined: Joined, files: Files, allowed: Allowed) -> tuple[list[Answered], bool]:
    """The rows with their truths, of the truth file or of the questions' own, and whether there are any."""
    if files.truth is not None and not benchmark.reviewed:
        truths = benchmark.truths(files.truth)
        if not truths:
            raise InputError(f"{files.truth}: holds no truths. Give {benchmark.truth_file}.")
        return with_truths(joined.rows, truths, benchmark.truth_key, str(files.truth), allowed), True
    own = [Answered(row.question, row.text, row.question.truth) for row in joined.rows]
    known = [row for row in own if row.truth is not None]
    if known and len(known) < len(own) and not allowed.unscored:
        first = next(row.question for row in own if row.truth is None)
        raise InputError(
            f"{files.questions}: {len(own) - len(known)} of {len(own)} questions have no answer in it, the first: id "
            f"{first.id}. Give the whole truth with --truth, or leave those out with --allow-unscored."
        )
    return known, bool(known)


def _table(
    benchmark: Benchmark, rows: Sequence[Answered], questions: Sequence[Question], files: Files, settings: Settings
) -> Table | None:
    if files.reviews:
        return benchmark.review_table(questions, files.reviews, files.truth)
    if not rows or benchmark.reviewed:
        return None
    return benchmark.score(rows, settings.protocol)


def _write(folder: Path, report: dict[str, Any], rows: Sequence[Answered], table: Table | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scores: Sequence[float | None] = [None] * len(rows) if table is None else table.scores
    reasons = {} if table is None else table.reasons
    lines = [
        {
            "question_id": row.question.id,
            "question": row.question.stem,
            "image": row.question.image if isinstance(row.question.image, str) else None,
            "category": row.question.category,
            "answer": row.text,
            "truth": row.truth,
            "score": score,
            **({"detail": reasons[number]} if number in reasons else {}),
        }
        for number, (row, score) in enumerate(zip(rows, scores, strict=True))
    ]
    write_jsonl(folder / RESULTS, lines)
    write_json(folder / SCORES, json.loads(json.dumps(report)))
