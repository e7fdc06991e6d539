"""The judge of MM-Vet (Yu et al., arXiv 2308.02490): each answer graded from 0 to 1 in tenths against its truth.

Out: the grade file of its official evaluator ({id: {model, content, score}}, lists with one entry per run), with the
status and detail of answers that have no grade.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from lavabeam.evaluation.judging import Asked, JudgementStatus, JudgeSettings, judge_all, requests_of
from lavabeam.evaluation.review.pairs import listed, rows_of, why_missing
from lavabeam.evaluation.review.rules import FOLDER
from pipelines.llm.estimate import estimate_requests
from pipelines.llm.tally import Tally
from schemas.config import StrictModel, load_yaml
from schemas.errors import InputError
from schemas.jsonfile import json_values

_GRADE = re.compile(r"0|1|0?\.\d|1\.0")
_PLACES = ("{question}", "{truth}", "{answer}")


class GradeRule(StrictModel):
    """The judge's instructions; `prompt` has {question}, {truth} and {answer} where those go."""

    system: str
    prompt: str


class GradeSettings(JudgeSettings):
    """The judge of MM-Vet."""

    temperature: float | None = Field(default=0.0, ge=0, le=2)
    """null omits it from the request."""
    max_output_tokens: int = Field(default=16, ge=1)
    """Tokens of one answer at most; a model that thinks first needs more."""
    rule: str = Field("", description="YAML with system and prompt; by default our own words")


@dataclass(frozen=True)
class Graded:
    """One question of MM-Vet with the answer to grade; `missing` says why there is none."""

    id: str
    question: str
    truth: str
    answer: str
    missing: str = ""


def read_answers(answers: Path, truth: Path) -> list[Graded]:
    """Every question of `truth` (MM-Vet's mm-vet.json) with its answer: JSON lines with question_id and text, where 7
    means v1_7, or the upload file {v1_7: text}. Raises InputError for answers that are missing, foreign or doubled."""
    asked = _mapping(truth)
    for name, row in asked.items():
        if not isinstance(row, dict) or not {"question", "answer", "capability"} <= row.keys():
            raise InputError(f"{truth}, {name}: expected question, answer and capability. Give MM-Vet's mm-vet.json.")
    given: dict[str, tuple[str, str]] = {}
    doubled = []
    for name, text, missing in _answers(answers):
        if name in given:
            doubled.append(name)
        given[name] = text, missing
    lacking, foreign = [name for name in asked if name not in given], [name for name in given if name not in asked]
    faults = (("missing", lacking), ("given twice", doubled), (f"of no question in {truth}", foreign))
    wrong = [f"{listed(names)} {kind}" for kind, names in faults if names]
    if wrong:
        raise InputError(f"{answers}: of {len(asked)} answers {', '.join(wrong)}. Give the answers to these questions.")
    return [Graded(name, row["question"], row["answer"], *given[name]) for name, row in asked.items()]


def estimate(rows: list[Graded], settings: GradeSettings) -> dict[str, Any]:
    """What grading would send and cost (pipelines/llm/estimate.py); sends nothing."""
    return estimate_requests(settings, requests_of(settings, asked_of(rows, settings)))


def grade(rows: list[Graded], settings: GradeSettings, output: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """Write the grade file `output`; returns (how many grades have each status, what was asked, as Tally.report).

    After a kill the same call asks for what the cache does not hold.
    """
    tally = Tally()
    grades: dict[str, dict[str, list[Any]]] = {row.id: {} for row in rows}
    statuses = Counter[str]()
    with judge_all(settings, output, asked_of(rows, settings), read_grade, tally) as found:
        for row in rows * settings.runs:
            entry = _missing(row) if row.missing else _entry(next(found))
            statuses[entry["status"]] += 1
            for name, value in {"model": settings.model, **entry}.items():
                grades[row.id].setdefault(name, []).append(value)
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = output.with_name(f"{output.name}.part")
    draft.write_text(json.dumps(grades, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(output)
    return dict(statuses), tally.report()


def read_grade(text: str) -> float:
    """A grade from 0 to 1 in tenths, alone or behind a word and a colon; raises ValueError for anything else."""
    words = text.strip().rpartition(":")[2].strip().rstrip(".") if "\n" not in text.strip() else ""
    if not _GRADE.fullmatch(words):
        raise ValueError(f"not a grade from 0.0 to 1.0 in tenths: {text[:80]!r}")
    return float(words)


def asked_of(rows: list[Graded], settings: GradeSettings, prompt: str = "mm-vet/1") -> list[Asked]:
    """The questions to the judge about the rows that have an answer, run by run. Raises InputError for a rule without
    a place for the question, the truth or the answer."""
    rule = load_yaml(settings.rule or FOLDER / "mm-vet.yaml", GradeRule)
    lacking = [place for place in _PLACES if place not in rule.prompt]
    if lacking:
        raise InputError(f"{settings.rule}: the prompt has no {', '.join(lacking)}. Write it where that goes.")
    return [
        Asked(f"{run}/{row.id}", prompt, rule.system, _filled(rule.prompt, row), run, expected_tokens=4)
        for run in range(1, settings.runs + 1)
        for row in rows
        if not row.missing
    ]


def _filled(prompt: str, row: Graded) -> str:
    """The prompt with a question in it; braces in an answer stay braces."""
    values = dict(zip(_PLACES, (row.question, row.truth, row.answer), strict=True))
    return re.sub("|".join(map(re.escape, _PLACES)), lambda place: values[place[0]], prompt)


def _entry(judgement: Any) -> dict[str, Any]:
    said = {"content": judgement.answer.text, "score": judgement.value}
    return {**said, "status": judgement.status, "detail": judgement.detail}


def _missing(row: Graded) -> dict[str, Any]:
    return {"content": "", "score": None, "status": str(JudgementStatus.not_answered), "detail": row.missing}


def _mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give MM-Vet's mm-vet.json.")
    found = list(json_values(path))
    if len(found) != 1 or not isinstance(found[0], dict):
        raise InputError(f"{path}: expected one JSON object with MM-Vet's questions by id (v1_0, ...).")
    return found[0]


def _answers(path: Path) -> Iterator[tuple[str, str, str]]:
    """(id, answer, why there is none) of an upload file or of JSON lines."""
    first = next(iter(json_values(path)), None) if path.is_file() else None
    if isinstance(first, dict) and "question_id" not in first:
        for name, text in first.items():
            if not isinstance(text, str):
                raise InputError(f"{path}, {name}: the answer is {text!r:.60}; expected a string.")
            yield name, text, ""
        return
    for _, row in rows_of(path, ("question_id", "text")):
        name = str(row["question_id"])
        yield name if name.startswith("v1_") else f"v1_{name}", row["text"], why_missing(row)
