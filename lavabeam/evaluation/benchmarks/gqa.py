"""GQA: 12,578 questions of the balanced test-dev split, one right word or phrase each."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from lavabeam.evaluation.benchmarks.base import Benchmark, accuracy_table, write_json
from lavabeam.evaluation.joining import Truth
from lavabeam.evaluation.layouts import field, json_object
from lavabeam.evaluation.question import LLAVA, LMMS_EVAL, ONE_WORD, Answered, Question
from lavabeam.evaluation.table import Table, Total
from schemas.errors import InputError
from schemas.streams import plain_suffix

_NO_MARKS = str.maketrans("", "", string.punctuation)
TOTALS = (Total("accuracy"), Total("binary", "pooled", ("binary",)), Total("open", "pooled", ("open",)))


class Gqa(Benchmark):
    name = "gqa"
    title = "GQA"
    source = "Hudson and Manning 2019, arXiv:1902.09506; cs.stanford.edu/people/dorarad/gqa"
    tokens: ClassVar = {LLAVA: 128, LMMS_EVAL: 16}
    truth_file = "testdev_balanced_questions.json"
    upload_file = "a JSON list of questionId and prediction, as GQA's eval.py takes it"

    def questions(self, path: Path, protocol: str) -> list[Question]:
        """LLaVA's lines, or the official object of questions by id."""
        if plain_suffix(path.name) == ".jsonl":
            return super().questions(path, protocol)
        return [
            Question(key, f"{truth.words}\n{ONE_WORD}", str(truth.words), f"{image}.jpg", truth=truth.value)
            for key, truth, image in _official(path)
        ]

    def truths(self, path: Path) -> dict[Any, Truth]:
        return {key: truth for key, truth, _ in _official(path)}

    def score(self, rows: Sequence[Answered], protocol: str) -> Table:
        """`binary` and `open` as GQA's eval.py divides: questions of structural type query are open."""
        same = _llava if protocol == LLAVA else _lmms_eval
        scores = [float(row.text is not None and same(row.text, row.truth[0])) for row in rows]
        labels = [(row.truth[1], "open" if row.truth[1] == "query" else "binary") for row in rows]
        return accuracy_table(rows, scores, labels, TOTALS)

    def upload(self, rows: Sequence[Answered], path: Path, every: Path | None) -> int:
        write_json(path, [{"questionId": row.question.id, "prediction": _plain(row.text or "")} for row in rows])
        return len(rows)


def _official(path: Path) -> list[tuple[str, Truth, str]]:
    """(id, truth with its question, picture's name) of each question."""
    found = []
    for key, row in json_object(path).items():
        where = f"{path}, {key!r}"
        if not isinstance(row, dict):
            raise InputError(f"{where}: is {row!r:.60}; expected a question. Give {Gqa.truth_file}.")
        types = row.get("types")
        kind = str(types.get("structural") if isinstance(types, dict) else "other")
        answer = field(row, "answer", where)
        found.append((key, Truth((answer, kind), field(row, "question", where)), str(row.get("imageId", ""))))
    return found


def _plain(text: str) -> str:
    """As LLaVA's convert_gqa_for_eval.py writes predictions."""
    return text.rstrip(".").lower()


def _llava(text: str, truth: str) -> bool:
    return _plain(text) == truth


def _lmms_eval(text: str, truth: str) -> bool:
    one, other = (words.lower().translate(_NO_MARKS) for words in (text, truth))
    return one == other
