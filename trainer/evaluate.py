"""How many questions a checkpoint answers right, per kind of question, beside the best constant answer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from schemas.dataset import Dataset
from schemas.errors import InputError

if TYPE_CHECKING:
    from trainer.answer import Prompt

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


@dataclass(frozen=True)
class Asked:
    """A question out of a samples dataset: one turn, asked on its own."""

    image: bytes | None
    question: str
    answer: str
    kind: str


def evaluate(
    checkpoint: str | Path,
    questions: str | Path | Iterable[Question],
    *,
    template: str | None = None,
    batch: int = 256,
    limit: int | None = None,
) -> dict[str, Any]:
    """Ask every question on its own, greedily, and count exact matches (case, blanks and a final stop aside).

    questions: objects, or the path of a `samples` dataset, whose every answered turn is asked. Returns `accuracy`,
    `constant_baseline` (always giving each kind's commonest answer), `questions`, and the same per kind in `kinds`.
    """
    asked = list(questions_of(questions) if isinstance(questions, str | Path) else questions)[:limit]
    if not asked:
        raise InputError(f"{questions}: there is no question to ask.")
    return score(asked, answers_of(checkpoint, asked, template=template, batch=batch))


def answers_of(
    checkpoint: str | Path, asked: Sequence[Question], *, template: str | None = None, batch: int = 256
) -> list[str]:
    """The checkpoint's answer to each question, asked on its own."""
    from trainer.answer import Answerer

    files: dict[Path, bytes] = {}
    prompts = [_prompt(one, files) for one in asked]
    return Answerer(checkpoint, template).answer(prompts, ANSWER_TOKENS, batch)


def score(asked: Sequence[Question], answers: Sequence[str]) -> dict[str, Any]:
    """Accuracy of `answers`, and of the best constant answer of each kind."""
    right: Counter[str] = Counter()
    truths: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one, answer in zip(asked, answers, strict=True):
        truths[one.kind][plain(one.answer)] += 1
        right[one.kind] += plain(answer) == plain(one.answer)
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


def questions_of(path: str | Path) -> Iterable[Asked]:
    """Every turn of a samples dataset as a question of its own about the row's picture."""
    dataset = Dataset.open(path)
    if dataset.schema_name != "samples":
        raise InputError(f"{path}: holds {dataset.schema_version}; evaluation reads samples, or a list of questions.")
    for batch in dataset.batches(["images", "messages", "kind"]):
        for row in batch.to_pylist():
            image = row["images"][0]["bytes"] if row["images"] else None
            texts = [(m["role"], "".join(p["text"] or "" for p in m["content"])) for m in row["messages"]]
            for (role, text), (next_role, answer) in pairwise(texts):
                if (role, next_role) == ("user", "assistant"):
                    yield Asked(image, text, answer, row["kind"] or "all")


def _prompt(one: Question, files: dict[Path, bytes]) -> Prompt:
    from trainer.answer import question

    if one.image is None:
        return question(one.question)
    if isinstance(one.image, bytes):
        return question(one.question, (one.image,))
    if one.image not in files:
        if not one.image.is_file():
            raise InputError(f"{one.image}: no such picture, asked about by {one.question!r}.")
        files[one.image] = one.image.read_bytes()
    return question(one.question, (files[one.image],))
