"""`lavabeam review`: judge every pair of answers, once per run and order, into a folder of review files."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from lavabeam.evaluation.judging import Asked, JudgementStatus, JudgeSettings, judge_all, requests_of
from lavabeam.evaluation.review.pairs import Pair, Reply, read_pairs
from lavabeam.evaluation.review.rules import Rule, read_rules, rule_of
from lavabeam.evaluation.scores import parse_review
from pipelines.llm.estimate import estimate_requests
from pipelines.llm.tally import Tally
from schemas.errors import InputError
from schemas.fingerprint import fingerprint

SETTINGS = "review.json"
MOST_SCORE = 10
_IDENTITY = ("provider", "model", "temperature", "max_output_tokens", "extra", "system")


class ReviewSettings(JudgeSettings):
    """What is judged by whom."""

    context: str = Field("", description="what is known about the pictures: caps_boxes or context.jsonl lines")
    rule: str = Field("", description="rules by category, YAML or JSON (LLaVA's rule.json); by default our own")
    both_orders: bool = Field(False, description="judge each pair in the other order too, for the position bias")
    system: str = "You compare two answers with care and say which of them serves the reader better."
    """The system message."""


@dataclass(frozen=True)
class Task:
    """All of one review: the pairs, each with its rule, and a mark of what decides what is asked."""

    pairs: list[Pair]
    rules: list[tuple[str, Rule]]
    settings: ReviewSettings

    @classmethod
    def read(cls, questions: Path, answers: Path, reference: Path, settings: ReviewSettings) -> Task:
        """Raises InputError for files that cannot be joined, and for a category without a rule."""
        pairs = read_pairs(questions, answers, reference, Path(settings.context) if settings.context else None)
        rules = read_rules(settings.rule or None)
        named = [
            rule_of(rules, one.category, bool(one.context.boxes), bool(one.context.sentences), one.where)
            for one in pairs
        ]
        return cls(pairs, named, settings)

    @property
    def mark(self) -> str:
        """Of the words that are sent and of whom they are sent to."""
        words = [self.text(number, swapped=False) for number in range(len(self.pairs))]
        return fingerprint(words, {name: getattr(self.settings, name) for name in _IDENTITY})

    def text(self, number: int, swapped: bool) -> str:
        """The user's message about pair `number`, in the layout of LLaVA's review scripts."""
        pair, (_, rule) = self.pairs[number], self.rules[number]
        first, second = (pair.answer, pair.reference) if swapped else (pair.reference, pair.answer)
        parts = [f"[Context]\n{pair.context.text}"] if pair.context.text else []
        parts.append(f"[Question]\n{pair.question}")
        for place, reply in ((1, first), (2, second)):
            parts += [f"[{rule.role} {place}]\n{reply.text}", f"[End of {rule.role} {place}]"]
        return "\n\n".join([*parts, f"[System]\n{rule.prompt}"]) + "\n\n"

    def asked(self, run: int, swapped: bool) -> list[Asked]:
        """The questions to the judge about the pairs that both have an answer."""
        return [
            Asked(f"{run}/{pair.question_id}", f"review/{name}", self.settings.system, self.text(number, swapped), run)
            for number, (pair, (name, _)) in enumerate(zip(self.pairs, self.rules, strict=True))
            if not (pair.reference.missing or pair.answer.missing)
        ]

    @property
    def passes(self) -> list[tuple[int, bool]]:
        """(run, whether the model's answer stands first), each a file of reviews."""
        orders = (False, True) if self.settings.both_orders else (False,)
        return [(run, swapped) for run in range(1, self.settings.runs + 1) for swapped in orders]


def estimate(task: Task) -> dict[str, Any]:
    """What the review would send and cost (pipelines/llm/estimate.py); sends nothing."""
    asked = (one for run, swapped in task.passes for one in task.asked(run, swapped))
    return estimate_requests(task.settings, requests_of(task.settings, list(asked)))


def review(task: Task, output: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """Judge everything that `output` does not hold yet, and write its review files; returns (how many reviews have
    each status, what was asked as `Tally.report` says it).

    A file is written when all its reviews are there; until then the answers are in the cache, where the same command
    finds them after a kill. Raises InputError where `output` holds the reviews of something else.
    """
    _claim(task, output)
    tally, statuses = Tally(), Counter[str]()
    for run, swapped in task.passes:
        lines = list(_reviews(task, output, run, swapped, tally))
        statuses.update(line["status"] for line in lines)
        path = file_of(output, run, swapped)
        draft = path.with_suffix(".part")
        draft.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        draft.replace(path)
    return dict(statuses), tally.report()


def file_of(output: Path, run: int, swapped: bool) -> Path:
    return output / f"reviews-{run}{'.swapped' if swapped else ''}.jsonl"


def read_scores(text: str) -> tuple[float, float]:
    """Raises ValueError for a text whose first line is not two scores up to 10."""
    scores = parse_review(text)
    if scores is None or max(scores) > MOST_SCORE:
        raise ValueError(f"the first line is not two scores from 0 to 10: {text[:80]!r}")
    return scores


def _reviews(task: Task, output: Path, run: int, swapped: bool, tally: Tally) -> Iterator[dict[str, Any]]:
    with judge_all(task.settings, output, task.asked(run, swapped), read_scores, tally) as judgements:
        yield from _lines(task, swapped, judgements)


def _lines(task: Task, swapped: bool, judgements: Iterator[Any]) -> Iterator[dict[str, Any]]:
    for number, (pair, (name, _)) in enumerate(zip(task.pairs, task.rules, strict=True), 1):
        first, second = (pair.answer, pair.reference) if swapped else (pair.reference, pair.answer)
        line = {
            "id": number,
            "question_id": pair.question_id,
            "answer1_id": first.id,
            "answer2_id": second.id,
            "category": name,
        }
        if why := _not_answered(pair.reference, pair.answer):
            yield {**line, "content": "", "tuple": None, "status": str(JudgementStatus.not_answered), "detail": why}
            continue
        one = next(judgements)
        scores = None if one.value is None else list(one.value)
        taken = {"model": task.settings.model, "cost": one.answer.cost, "request_id": one.answer.request_id}
        said = {"content": one.answer.text, "tuple": scores, "status": one.status, "detail": one.detail}
        yield {**line, **said, **taken}


def _not_answered(*replies: Reply) -> str:
    return "; ".join(reply.missing for reply in replies if reply.missing)


def _claim(task: Task, output: Path) -> None:
    """Note in `output` what is reviewed there."""
    known = output / SETTINGS
    facts = {"mark": task.mark, "questions": len(task.pairs), **_facts(task)}
    if known.is_file():
        try:
            mark = json.loads(known.read_text(encoding="utf-8"))["mark"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{known}: not the settings of a review ({error}). Choose another --output.") from error
        if mark != task.mark:
            raise InputError(
                f"{output}: holds reviews of other answers, or by other rules or another judge. Choose another "
                "--output."
            )
    elif output.is_dir() and any(output.iterdir()):
        raise InputError(f"{output}: holds other files, and no {SETTINGS}. Choose another --output.")
    output.mkdir(parents=True, exist_ok=True)
    draft = known.with_suffix(".part")
    draft.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(known)


def _facts(task: Task) -> dict[str, Any]:
    """For people who find the folder."""
    settings = task.settings
    rules = {name: hashlib.sha256(rule.prompt.encode()).hexdigest()[:16] for name, rule in task.rules}
    return {**{name: getattr(settings, name) for name in _IDENTITY}, "rules": rules, "rule_file": settings.rule or None}
