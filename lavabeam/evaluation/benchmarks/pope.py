"""POPE: whether an object is in a picture. 8,910 questions in three categories of absent objects."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lavabeam.evaluation.answers import no_answer, write_jsonl
from lavabeam.evaluation.benchmarks.base import Benchmark, add_truth
from lavabeam.evaluation.joining import Truth
from lavabeam.evaluation.layouts import field, identity, rows_of
from lavabeam.evaluation.question import LLAVA, LMMS_EVAL, ONE_WORD, Answered, Question, same_words
from lavabeam.evaluation.table import Metric, Table, Total
from schemas.errors import InputError

CATEGORIES = ("adversarial", "popular", "random")
_TP, _FP, _TN, _FN, _RIGHT, _YES = range(6)


class Pope(Benchmark):
    """F1 per category and their mean, as LLaVA's eval_pope.py has it; lmms-eval pools all rows."""

    name = "pope"
    title = "POPE"
    source = "Li et al. 2023, arXiv:2305.10355; github.com/AoiDragon/POPE"
    tokens: ClassVar = {LLAVA: 128, LMMS_EVAL: 128}
    truth_file = "the folder of coco_pope_{adversarial,popular,random}.json"
    upload_file = "JSON lines of question and answer; POPE's evaluate.py takes those of one category"

    def questions(self, path: Path, protocol: str) -> list[Question]:
        """LLaVA's llava_pope_test.jsonl, or the official files: one, or the folder of the three."""
        return [
            question
            for file in _files(path)
            for where, row in rows_of(file)
            for question in [self._asked(row, where, file, protocol)]
        ]

    def _asked(self, row: dict[str, Any], where: str, file: Path, protocol: str) -> Question:
        asked = self.question(row, where, protocol)
        if "label" not in row:
            return asked
        category, text = _category(file), f"{asked.stem}\n{ONE_WORD}"
        name = f"{category}/{asked.id}"  # official ids restart in each file
        return Question(name, text, asked.stem, _image(row, where), category, truth=_label(row, where))

    def truths(self, path: Path) -> dict[Any, Truth]:
        """Labels by picture and question: ids of LLaVA's files and of today's differ, and so do their numbers."""
        found: dict[Any, Truth] = {}
        for file in _files(path):
            for where, row in rows_of(file):
                key = (_image(row, where), _spelt(field(row, "text", where)))
                add_truth(found, key, Truth(_label(row, where)), where)
        return found

    def truth_key(self, question: Question) -> Any:
        return (question.image, _spelt(question.stem))

    def score(self, rows: Sequence[Answered], protocol: str) -> Table:
        read = _llava if protocol == LLAVA else _lmms_eval
        columns, counts = np.zeros((len(rows), 6)), defaultdict[str, Counter](Counter)
        for number, row in enumerate(rows):
            said = read(row.text) if row.text is not None else {"yes": "no", "no": "yes"}[row.truth]
            if said in ("yes", "no"):
                cell = {("yes", "yes"): _TP, ("yes", "no"): _FP, ("no", "no"): _TN, ("no", "yes"): _FN}[said, row.truth]
                columns[number, cell] = 1
                counts[row.question.category][("TP", "FP", "TN", "FN")[cell]] += 1
            columns[number, _RIGHT], columns[number, _YES] = said == row.truth, said == "yes"
        metrics: dict[str, Metric] = {"f1": _f1, "accuracy": _column(_RIGHT), "precision": _precision}
        metrics |= {"recall": _recall, "yes": _column(_YES)}
        mean, pooled = Total("f1", "mean"), Total("f1_pooled")
        return Table(
            columns,
            [(row.question.category,) for row in rows],
            metrics,
            (mean, pooled) if protocol == LLAVA else (Total("f1"), Total("accuracy", metric="accuracy")),
            columns[:, _RIGHT].tolist(),
            more={"counts": {name: dict(found) for name, found in sorted(counts.items())}},
        )

    def upload(self, rows: Sequence[Answered], path: Path, every: Path | None) -> int:
        """evaluate.py reads `answer` alone, of one category's lines in the order of its labels; by the rest the file is
        read here again."""
        write_jsonl(path, [_line(row) for row in rows])
        return len(rows)


def _line(row: Answered) -> dict[str, Any]:
    asked = row.question
    line = {"question_id": asked.id, "category": asked.category, "image": asked.image, "question": asked.stem}
    return {**line, "answer": row.text or "", **no_answer(row)}


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = [file for file in sorted(path.glob("*.json")) if any(name in file.name for name in CATEGORIES)]
    if not files:
        raise InputError(f"{path}: holds no files such as coco_pope_adversarial.json.")
    return files


def _category(file: Path) -> str:
    found = [name for name in CATEGORIES if name in file.name]
    if len(found) != 1:
        raise InputError(f"{file}: its name says none of {', '.join(CATEGORIES)}. Give POPE's files as they are named.")
    return found[0]


def _image(row: dict[str, Any], where: str) -> str:
    return identity(field(row, "image", where), where)


def _spelt(text: str) -> str:
    """The question as today's files spell it: 246 of LLaVA's ask about an "imange"."""
    return same_words(text).replace("imange", "image")


def _label(row: dict[str, Any], where: str) -> str:
    label = str(field(row, "label", where)).strip().lower()
    if label not in ("yes", "no"):
        raise InputError(f"{where}: the label is {label!r:.40}; expected yes or no.")
    return label


def _llava(text: str) -> str:
    """The first sentence says no when one of its words is No, not or no, and yes otherwise."""
    words = text.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def _lmms_eval(text: str) -> str:
    return text.lower().strip()


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """100 * part / whole; 0 where there is nothing."""
    whole = np.asarray(whole, float)
    return 100 * np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def _f1(means: np.ndarray) -> np.ndarray:
    return _ratio(2 * means[..., _TP], 2 * means[..., _TP] + means[..., _FP] + means[..., _FN])


def _precision(means: np.ndarray) -> np.ndarray:
    return _ratio(means[..., _TP], means[..., _TP] + means[..., _FP])


def _recall(means: np.ndarray) -> np.ndarray:
    return _ratio(means[..., _TP], means[..., _TP] + means[..., _FN])


def _column(number: int) -> Metric:
    return lambda means: 100 * means[..., number]
