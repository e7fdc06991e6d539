"""The benchmark interface. Subclass it to add a benchmark: questions, ground truth, score, submission format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lavabeam.evaluation.joining import Truth
from lavabeam.evaluation.layouts import Row, field, identity, rows_of
from lavabeam.evaluation.question import LLAVA, LMMS_EVAL, ONE_WORD, PROTOCOLS, Answered, Question, same_words
from lavabeam.evaluation.table import Metric, Table, Total, share
from schemas.errors import InputError


class Benchmark:
    """Base of all benchmarks; one instance is shared, so it is stateless."""

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    """Paper and site."""
    tokens: ClassVar[Mapping[str, int]] = {LLAVA: 128, LMMS_EVAL: 1024}
    """Maximum new tokens of an answer, per protocol."""
    protocols: ClassVar[tuple[str, ...]] = PROTOCOLS
    by_text: ClassVar[bool] = False
    """Ids repeat: questions are identified by (id, question)."""
    reviewed: ClassVar[bool] = False
    """Scored by a judge: `review_table` reads its reviews."""
    truth_file: ClassVar[str] = ""
    """What `--truth` expects, for messages."""
    upload_file: ClassVar[str] = ""
    """What `--upload` writes; empty if there is no submission server."""

    def questions(self, path: Path, protocol: str) -> list[Question]:
        """The questions in one of the official files, in its order. Raises InputError naming file and row."""
        return [self.question(row, where, protocol) for where, row in rows_of(path)]

    def question(self, row: dict[str, Any], where: str, protocol: str) -> Question:
        """A row of LLaVA's question files: question_id, image, text (with its suffix), category."""
        text = field(row, "text", where)
        stem = text.removesuffix(f"\n{ONE_WORD}")
        asked = text if protocol == LLAVA else f"{stem}\n{ONE_WORD}"
        name = identity(field(row, "question_id", where), where)
        return Question(name, asked, stem, row.get("image"), str(row.get("category") or "all"))

    def truths(self, path: Path) -> dict[Any, Truth]:
        """Ground truth by `truth_key`. Raises InputError naming file and row."""
        raise InputError(f"{path}: {self.title} has no truth file that is read here.")

    def truth_key(self, question: Question) -> Any:
        return question.id

    def plain_id(self, name: str) -> str:
        """An id in the form common to answers and questions."""
        return name

    def upload_id(self, question: Question) -> str:
        """What the upload file names a question by, as text."""
        return question.id

    def words(self, prompt: str) -> str:
        """A prompt without protocol-specific additions, for (id, question) keys."""
        return same_words(prompt).lower()

    def score(self, rows: Sequence[Answered], protocol: str) -> Table:
        """Score rows, all of which have ground truth; a missing answer (None) is wrong."""
        raise NotImplementedError

    def review_table(self, questions: Sequence[Question], paths: Sequence[Path], truth: Path | None) -> Table:
        """The scores in a judge's reviews. Raises InputError where they do not fit the questions."""
        raise InputError(f"{self.title} is scored by its truth, not by reviews. Leave --reviews out.")

    def upload(self, rows: Sequence[Answered], path: Path, every: Path | None) -> int:
        """Write the file that the official server or script takes; returns the number of its rows. every: the list of
        all questions that it has to hold, where that is more than was asked."""
        raise InputError(f"{self.title} has no upload file: nothing takes one. Leave --upload out.")


def accuracy_table(
    rows: Sequence[Answered],
    scores: Sequence[float],
    labels: Sequence[tuple[str, ...]],
    totals: Sequence[Total] = (Total("accuracy"),),
    more: Mapping[str, Any] | None = None,
) -> Table:
    """Questions that score from 0 to 1, and their mean x 100."""
    columns = np.array(scores, np.float64).reshape(len(rows), 1)
    metrics: dict[str, Metric] = {"accuracy": share()}
    return Table(columns, labels, metrics, tuple(totals), scores, more=more or {})


def add_truth(found: dict[Any, Truth], key: Any, truth: Truth, where: str) -> None:
    """Add ground truth; raises InputError where the file contradicts itself about a question."""
    known = found.get(key)
    if known is not None and known.value != truth.value:
        raise InputError(f"{where}: {key} is given as {truth.value!r:.60}, and as {known.value!r:.60} before.")
    found[key] = truth


def people(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The answers of several people: texts, or objects with `answer`."""
    answers = row.get("answers")
    if not isinstance(answers, list) or not answers:
        raise InputError(f"{where}: has no list of answers. This is of a test split, or of another benchmark.")
    said: tuple[Any, ...] = tuple([one.get("answer") if isinstance(one, dict) else one for one in answers])
    if {*map(type, said)} != {str}:
        wrong = next(one for one in said if not isinstance(one, str))
        raise InputError(f"{where}: one of the answers is {wrong!r:.60}; expected text.")
    return said


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def first_row(path: Path) -> Row:
    """The first row of a file, which determines its format. Raises InputError when there is none."""
    for row in rows_of(path):
        return row
    raise InputError(f"{path}: holds no rows.")
