"""ScienceQA: 4,241 multiple-choice questions of its test split, 2,017 of them with a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from lavabeam.evaluation.benchmarks.base import Benchmark, accuracy_table, add_truth, write_json
from lavabeam.evaluation.joining import Truth
from lavabeam.evaluation.layouts import field, identity, rows_in, rows_of, values_of
from lavabeam.evaluation.question import LETTER, LLAVA, LMMS_EVAL, Answered, Question
from lavabeam.evaluation.table import Table, Total
from schemas.errors import InputError

LETTERS = "ABCDE"
TOTALS = (Total("accuracy"), Total("image", "pooled", ("image",)), Total("text", "pooled", ("text",)))
_OPTION = re.compile(r"^\(?([A-Z])[.)] (.*)$", re.MULTILINE)
_SENTENCE = re.compile(r"The answer is ([A-Z]).")


class Scienceqa(Benchmark):
    """`image` is ScienceQA-IMG: the questions whose prompt shows a picture."""

    name = "scienceqa"
    title = "ScienceQA"
    source = "Lu et al. 2022, arXiv:2209.09513; scienceqa.github.io"
    tokens: ClassVar = {LLAVA: 1024, LMMS_EVAL: 16}
    truth_file = "problems.json"
    upload_file = "an object with acc, results and outputs, as LLaVA's eval_science_qa.py writes it"

    def questions(self, path: Path, protocol: str) -> list[Question]:
        """LLaVA's llava_test_CQM-A.json (id, image, conversations), or the output file of its evaluation."""
        values = values_of(path)
        whole = values[0] if len(values) == 1 and isinstance(values[0], dict) else {}
        if "correct" in whole and "incorrect" in whole:
            rows = rows_in([*whole["correct"], *whole["incorrect"]], path)
            return [
                _question(row, where, field(row, "question", where), row.get("ground_truth")) for where, row in rows
            ]
        return [self.question(row, where, protocol) for where, row in rows_of(path)]

    def question(self, row: dict[str, Any], where: str, protocol: str) -> Question:
        if "conversations" not in row:
            asked = _question(row, where, field(row, "text", where), row.get("answer"))
            return asked
        turns = row["conversations"]
        if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, dict) for turn in turns):
            raise InputError(f"{where}: conversations has no question and answer.")
        found = _read_letter(str(turns[1].get("value", "")))
        return _question(row, where, str(turns[0].get("value", "")), found)

    def truths(self, path: Path) -> dict[Any, Truth]:
        """problems.json (answer is the option's number), or a file of questions that holds the answers."""
        values = values_of(path)
        whole = values[0] if len(values) == 1 and isinstance(values[0], dict) else None
        found: dict[Any, Truth] = {}
        if whole is None or "correct" in whole:
            for question in self.questions(path, LLAVA):
                add_truth(found, question.id, Truth(question.truth, question.stem), str(path))
            return {key: truth for key, truth in found.items() if truth.value}
        for key, row in whole.items():
            if not isinstance(row, dict) or not isinstance(row.get("answer"), int) or not 0 <= row["answer"] < 5:
                raise InputError(f"{path}, {key!r}: no answer that is an option's number. Give {self.truth_file}.")
            found[key] = Truth(LETTERS[row["answer"]], row.get("question"))
        return found

    def score(self, rows: Sequence[Answered], protocol: str) -> Table:
        said = [self.letter(row.text or "", row.question, protocol) for row in rows]
        scores = [float(letter == row.truth) for letter, row in zip(said, rows, strict=True)]
        labels = [("image" if row.question.official.get("image") else "text",) for row in rows]
        return accuracy_table(
            rows, scores, labels, TOTALS, {"unreadable": said.count(None), "correct": int(sum(scores))}
        )

    def letter(self, text: str, question: Question, protocol: str) -> str | None:
        """The option that an answer chooses, None for none: text that names no letter, or one beyond the choices."""
        read = _llava if protocol == LLAVA else _lmms_eval
        found = read(text)
        last = len(question.options) or len(LETTERS)
        return found if found and found in LETTERS[:last] else None

    def upload(self, rows: Sequence[Answered], path: Path, every: Path | None) -> int:
        said = {row.question.id: self.letter(row.text or "", row.question, LLAVA) for row in rows}
        right = sum(said[row.question.id] == row.truth for row in rows if row.truth)
        results = {key: LETTERS.index(letter) if letter else -1 for key, letter in said.items()}
        outputs = {row.question.id: row.text or "" for row in rows}
        share = {"acc": 100 * right / len(rows), "correct": right, "count": len(rows)}
        write_json(path, {**share, "results": results, "outputs": outputs})
        return len(rows)


def _question(row: dict[str, Any], where: str, text: str, truth: Any) -> Question:
    name = identity(field(row, "id", where, "question_id"), where)
    stem = text.replace("<image>", "").strip().removesuffix(LETTER).strip()
    options = tuple(match[1] for match in _OPTION.findall(stem))
    image = row.get("image")
    shown = "<image>" in text or image is not None or bool(row.get("is_multimodal"))
    return Question(name, f"{stem}\n{LETTER}", stem, image, truth=truth, options=options, official={"image": shown})


def _read_letter(text: str) -> str | None:
    """The truth in LLaVA's own training turns: a letter, or the sentence after its reasoning."""
    return _llava(text.strip()) or _llava(text.strip().removesuffix(".") + ".")


def _llava(text: str) -> str | None:
    """As LLaVA's eval_science_qa.py: the letter alone, in front of its option, or in exactly one sentence."""
    if text in LETTERS and len(text) == 1:
        return text
    if len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        return text[0]
    found = _SENTENCE.findall(text)
    return found[0] if len(found) == 1 else None


def _lmms_eval(text: str) -> str | None:
    return text[0] if len(text) == 1 or (len(text) >= 2 and text[0].isupper() and text[1] == ".") else None
