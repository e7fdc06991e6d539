"""The share of questions that a checkpoint answers correctly, per kind, beside the best constant answer."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from schemas.errors import InputError
from trainer.inference.asked import questions_of
from trainer.inference.prompts import Answer, AnswerStatus, Prompt, Source, question, refusal

ANSWER_TOKENS = 1024
"""Enough for an answer that follows its reasoning (ScienceQA's QCM-LEA)."""


class Answered(Protocol):
    """The reference that an answer is compared with."""

    @property
    def answer(self) -> str: ...
    @property
    def kind(self) -> str: ...


class Question(Answered, Protocol):
    """One question of an evaluation, about `images` (files, or their bytes), expecting `answer`. `refused`: why it
    cannot be asked."""

    @property
    def images(self) -> tuple[Source, ...]: ...
    @property
    def question(self) -> str: ...
    @property
    def refused(self) -> Answer | None: ...


LETTER = r"\(?([A-Z])\)?"
CHOICES = (
    re.compile(rf"{LETTER}[.:]?$"),
    re.compile(r"\(?([A-Z])[).:]\s"),
    re.compile(rf".*?[Tt]he answer is {LETTER}\b", re.DOTALL),
)
"""The letter of an option, as LLaVA's ScienceQA evaluation finds it (llava/eval/eval_science_qa.py): alone, in front of
the option's text, or in a sentence."""


def evaluate(
    checkpoint: str | Path,
    questions: str | Path | Iterable[Question],
    *,
    template: str | None = None,
    batch: int | None = None,
    limit: int | None = None,
    images: str | Path | None = None,
    max_tokens: int = ANSWER_TOKENS,
    processes: int | None = None,
    device: str | None = None,
    load: str | None = None,
) -> dict[str, Any]:
    """Ask every question in isolation, greedily, and count exact matches, ignoring case, blanks and a final full stop.
    Where the expected answer is an option's letter, the letters are compared.

    questions: objects, or a path as `asked.questions_of` reads it, with the pictures in `images`. Returns `accuracy`,
    `constant_baseline` (of each kind's most common answer), `questions`, and the same per kind in `kinds`. A question
    that cannot be asked counts as answered wrongly, and by its reason in `not_asked`, where there are any. Raises
    InputError when none can be asked.
    """
    from trainer.inference.answer import progress

    found = questions_of(questions, images) if isinstance(questions, str | Path) else questions
    truths: list[_Truth] = []
    asked = _remembered(islice(found, limit), truths)
    with progress() as bar:
        options: dict[str, Any] = {"template": template, "batch": batch, "max_tokens": max_tokens}
        options |= {"processes": processes, "device": device, "load": load}
        answers = answers_of(checkpoint, asked, advance=bar.update, **options)
    if not truths:
        raise InputError(f"{questions}: contains no questions.")
    refused = [answer for answer in answers if answer.status != AnswerStatus.ok]
    if len(refused) == len(answers):
        raise InputError(f"{questions}: none of {len(answers)} questions can be asked. The first: {refused[0].detail}")
    result = score(truths, [answer.text for answer in answers])
    if refused:
        counts = Counter(answer.status.value for answer in refused)
        result["not_asked"] = {**dict(sorted(counts.items())), "first": refused[0].detail}
    return result


def answers_of(
    checkpoint: str | Path,
    asked: Iterable[Question],
    *,
    template: str | None = None,
    batch: int | None = None,
    max_tokens: int = ANSWER_TOKENS,
    advance: Callable[[int], Any] = lambda answered: None,
    processes: int | None = None,
    device: str | None = None,
    load: str | None = None,
) -> list[Answer]:
    """The checkpoint's answer to each question, asked in isolation. `advance` is called with how many more are done."""
    from trainer.inference.spread import open_answerer

    prompts = (_prompt(one) for one in asked)
    with open_answerer(checkpoint, template, processes, device, load) as answerer:
        return list(answerer.stream(prompts, max_tokens, batch, advance))


def _prompt(one: Question) -> Prompt:
    name = f"question {one.question[:40]!r}"
    if one.refused is not None:
        return refusal(name, one.refused.status, one.refused.detail)
    return question(one.question, one.images, name)


@dataclass(frozen=True)
class _Truth:
    """What is kept of a question once it was asked: not its picture."""

    answer: str
    kind: str


def _remembered(asked: Iterable[Question], truths: list[_Truth]) -> Iterator[Question]:
    for one in asked:
        truths.append(_Truth(one.answer, one.kind))
        yield one


def score(asked: Sequence[Answered], answers: Sequence[str]) -> dict[str, Any]:
    """Accuracy of `answers`, and of the best constant answer of each kind."""
    right: Counter[str] = Counter()
    truths: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one, answer in zip(asked, answers, strict=True):
        truths[one.kind][choice(one.answer) or plain(one.answer)] += 1
        right[one.kind] += agrees(answer, one.answer)
    kinds = {}
    for kind, counts in sorted(truths.items()):
        constant, often = min(counts.items(), key=lambda item: (-item[1], item[0]))
        total = counts.total()
        kinds[kind] = {
            "questions": total,
            "accuracy": round(right[kind] / total, 4),
            "constant_baseline": round(often / total, 4),
            "constant_answer": constant,
        }
    best = sum(max(counts.values()) for counts in truths.values())
    return {
        "questions": len(asked),
        "accuracy": round(right.total() / len(asked), 4),
        "constant_baseline": round(best / len(asked), 4),
        "kinds": kinds,
    }


def plain(answer: str) -> str:
    """An answer normalised for comparison: lower case, single blanks, no final full stop."""
    return " ".join(answer.lower().split()).removesuffix(".").strip()


def agrees(answer: str, truth: str) -> bool:
    """Whether an answer is correct: the same words, or the same option where the truth is an option's letter."""
    wanted = choice(truth)
    return plain(answer) == plain(truth) or (wanted is not None and choice(answer) == wanted)


def choice(text: str) -> str | None:
    """The letter of the option that a text chooses, or None."""
    found = (pattern.match(text.strip()) for pattern in CHOICES)
    return next((match[1] for match in found if match), None)
