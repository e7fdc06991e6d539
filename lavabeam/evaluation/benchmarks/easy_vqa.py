"""Easy-VQA: drawn shapes and one-word answers, small enough to train and evaluate on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from lavabeam.evaluation.benchmarks.base import Benchmark, accuracy_table
from lavabeam.evaluation.layouts import field, identity, rows_of, values_of
from lavabeam.evaluation.question import LLAVA, Answered, Question
from lavabeam.evaluation.table import Table
from schemas.errors import InputError


class EasyVqa(Benchmark):
    """Questions are asked as they are, without a suffix, and without the answers of others around them."""

    name = "easy-vqa"
    title = "Easy-VQA"
    source = "Zhou 2019, github.com/vzhou842/easy-VQA"
    tokens: ClassVar = {LLAVA: 16}
    protocols: ClassVar = (LLAVA,)
    truth_file = "its file of questions"

    def questions(self, path: Path, protocol: str) -> list[Question]:
        """Its questions.json (pictures are images/N.png), a samples dataset, or rows with text, answer, image, kind."""
        if not path.is_file():
            return _of_dataset(path)
        values = values_of(path)
        if values and isinstance(values[0], list):
            return _published(path)
        return [self._row(row, where, number) for number, (where, row) in enumerate(rows_of(path, values))]

    def _row(self, row: dict[str, Any], where: str, number: int) -> Question:
        name = identity(row.get("question_id", number), where)
        text, kind = field(row, "text", where), str(row.get("kind") or row.get("category") or "all")
        return Question(name, text, text, row.get("image"), kind, field(row, "answer", where))

    def score(self, rows: Sequence[Answered], protocol: str) -> Table:
        """The same words, but for case, blanks and a final full stop; beside it the best constant answers."""
        from trainer.inference.evaluate import agrees, score

        scores = [float(row.text is not None and agrees(row.text, row.truth)) for row in rows]
        constant = score([_Reference(row) for row in rows], [row.text or "" for row in rows])
        more = {"constant_baseline": 100 * constant["constant_baseline"]}
        return accuracy_table(rows, scores, [(row.question.category,) for row in rows], more=more)


class _Reference:
    """A row as `trainer.inference.evaluate.score` takes it."""

    def __init__(self, row: Answered):
        self.answer, self.kind = row.truth, row.question.category


def _published(path: Path) -> list[Question]:
    from pipelines.importers.easy_vqa import COLORS, SHAPES, read_questions

    found = []
    for number, (text, answer, picture) in enumerate(read_questions(path)):
        kind = "color" if answer in COLORS else "shape" if answer in SHAPES else "yesno"
        found.append(Question(str(number), text, text, f"{picture}.png", kind, answer))
    return found


def _of_dataset(path: Path) -> list[Question]:
    from trainer.inference.asked import questions_of

    found = []
    for number, one in enumerate(questions_of(path)):
        image = one.images[0] if one.images else None
        if len(one.images) > 1 or isinstance(image, Path):
            raise InputError(f"{path}, question {number}: {len(one.images)} pictures; Easy-VQA has one.")
        found.append(Question(str(number), one.question, one.question, image, one.kind, one.answer))
    return found
