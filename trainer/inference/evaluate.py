"""How many questions a checkpoint answers right, per kind of question, beside the best constant answer."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from schemas.errors import InputError
from trainer.inference.asked import questions_of

if TYPE_CHECKING:
    from trainer.inference.answer import Prompt

ANSWER_TOKENS = 16


class Question(Protocol):
    """What an evaluation asks: about `image` (a file, or its bytes; None for text only), expecting `answer`."""

    @property
    def image(self) -> Path | bytes | None: ...
    @property
    def question(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def kind(self) -> str: ...


LETTER = r"\(?([A-Z])\)?"
CHOICES = (
    re.compile(rf"{LETTER}[.:]?$"),
    re.compile(r"\(?([A-Z])[).:]\s"),
    re.compile(rf".*?[Tt]he answer is {LETTER}\b", re.DOTALL),
)
"""An option by its letter, as LLaVA's ScienceQA evaluation finds it (llava/eval/eval_science_qa.py): alone, in front of
the option's text, or in a sentence."""


def evaluate(
    checkpoint: str | Path,
    questions: str | Path | Iterable[Question],
    *,
    template: str | None = None,
    batch: int = 256,
    limit: int | None = None,
    images: str | Path | None = None,
) -> dict[str, Any]:
    """Ask every question on its own, greedily, and count exact matches (case, blanks and a final stop aside; where the
    answer is an option's letter, the letter counts).

    questions: objects, or a path as `asked.questions_of` reads it, with the pictures in `images`. Returns
    `accuracy`, `constant_baseline` (always giving each kind's commonest answer), `questions`, and the same per kind in
    `kinds`.
    """
    asked = list(questions_of(questions, images) if isinstance(questions, str | Path) else questions)[:limit]
    if not asked:
        raise InputError(f"{questions}: there is no question to ask.")
    return score(asked, answers_of(checkpoint, asked, template=template, batch=batch))


def answers_of(
    checkpoint: str | Path, asked: Sequence[Question], *, template: str | None = None, batch: int = 256
) -> list[str]:
    """The checkpoint's answer to each question, asked on its own."""
    from trainer.inference.answer import Answerer

    files: dict[Path, bytes] = {}
    prompts = [_prompt(one, files) for one in asked]
    return Answerer(checkpoint, template).answer(prompts, ANSWER_TOKENS, batch)


def score(asked: Sequence[Question], answers: Sequence[str]) -> dict[str, Any]:
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
    """An answer as it is compared: lower case, single blanks, no final stop."""
    return " ".join(answer.lower().split()).removesuffix(".").strip()


def agrees(answer: str, truth: str) -> bool:
    """Whether an answer is the true one: the same words, or the same option where the truth is an option's letter."""
    wanted = choice(truth)
    return plain(answer) == plain(truth) or (wanted is not None and choice(answer) == wanted)


def choice(text: str) -> str | None:
    """The letter of the option that a text names, or None."""
    found = (pattern.match(text.strip()) for pattern in CHOICES)
    return next((match[1] for match in found if match), None)


def _prompt(one: Question, files: dict[Path, bytes]) -> Prompt:
    from trainer.inference.answer import question

    if one.image is None:
        return question(one.question)
    if isinstance(one.image, bytes):
        return question(one.question, (one.image,))
    if one.image not in files:
        if not one.image.is_file():
            raise InputError(f"{one.image}: no such picture, asked about by {one.question!r}.")
        files[one.image] = one.image.read_bytes()
    return question(one.question, (files[one.image],))
