"""MMBench and MMBench-CN: multiple choice asked with the options in every rotation (CircularEval)."""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lavabeam.evaluation.benchmarks.base import Benchmark, add_truth
from lavabeam.evaluation.joining import Truth
from lavabeam.evaluation.layouts import field, identity, is_table, table_rows, write_sheet
from lavabeam.evaluation.question import LETTER, LLAVA, Answered, Question
from lavabeam.evaluation.table import Metric, Table, Total, share
from schemas.errors import InputError

ROTATION = 1_000_000
"""Rows whose index has the same remainder are one question with its options rotated."""
_OPTIONS = "ABCD"
_DROPPED = ("hint", "category", "source", "image", "comment", "l2-category", "prediction")
_LONGEST_REFERENCE = 64
"""A shorter `image` is the index of the row that holds the picture."""


class Mmbench(Benchmark):
    name = "mmbench"
    title = "MMBench"
    source = "Liu et al. 2023, arXiv:2307.06281; github.com/open-compass/MMBench"
    tokens: ClassVar = {LLAVA: 1024}
    protocols: ClassVar = (LLAVA,)
    truth_file = "the dev split's TSV, or an xlsx with its answers"
    upload_file = "xlsx with index, question, A to D, prediction, answer, split"
    suffix: ClassVar[str] = LETTER

    def questions(self, path: Path, protocol: str) -> list[Question]:
        """The official TSV, or the xlsx of an upload, which has the questions without hints and pictures."""
        if not is_table(path):
            raise InputError(f"{path}: not a table. Give MMBench's TSV (mmbench_dev_20230712.tsv) or an upload's xlsx.")
        rows = list(table_rows(path))
        if rows and "index" not in rows[0][1]:
            listed = ", ".join(map(str, rows[0][1]))
            raise InputError(f"{path}: has no column index, by which MMBench's rows are joined; its columns: {listed}.")
        pictures = {identity(field(row, "index", where), where): row.get("image") for where, row in rows}
        return [self._question(row, where, pictures) for where, row in rows]

    def _question(self, row: dict[str, Any], where: str, pictures: Mapping[str, Any]) -> Question:
        options = []
        for letter in _OPTIONS:
            if _is_none(row.get(letter)):
                break
            options.append(str(row[letter]))
        if not options:
            raise InputError(f"{where}: has no option A. Give MMBench's TSV as it was published.")
        hint = "" if _is_none(row.get("hint")) else f"{row['hint']}\n"
        listed = "".join(f"\n{letter}. {text}" for letter, text in zip(_OPTIONS, options, strict=False))
        stem = f"{hint}{field(row, 'question', where)}{listed}"
        truth = None if _is_none(row.get("answer")) else str(row["answer"]).strip()
        return Question(
            identity(field(row, "index", where), where),
            f"{stem}\n{self.suffix}",
            stem,
            _picture(row.get("image"), pictures, where),
            str(row.get("category") or "all"),
            truth,
            tuple(options),
            {name: value for name, value in row.items() if name not in _DROPPED},
        )

    def truths(self, path: Path) -> dict[Any, Truth]:
        found: dict[Any, Truth] = {}
        for where, row in table_rows(path):
            key = identity(field(row, "index", where), where)
            add_truth(found, key, Truth(str(field(row, "answer", where)).strip(), row.get("question")), where)
        return found

    def score(self, rows: Sequence[Answered], protocol: str) -> Table:
        """A unit is a question with its rotations: [all right, number right, number of them]."""
        right = [float(row.text is not None and chosen(row.text, row.question) == row.truth) for row in rows]
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            groups[_index(row.question) % ROTATION].append(number)
        columns, labels = [], []
        for numbers in groups.values():
            scores = [right[number] for number in numbers]
            columns.append([min(scores), sum(scores), len(scores)])
            labels.append((rows[numbers[0]].question.category,))
        metrics: dict[str, Metric] = {
            "circular": share(),
            "single": lambda means: 100 * means[..., 1] / means[..., 2],
        }
        totals = (Total("circular"), Total("single", metric="single"))
        counts = np.array(columns, float)
        more = {
            "counts": {"groups": len(groups), "groups_right": int(counts[:, 0].sum()), "rows_right": int(sum(right))},
            "unreadable": sum(row.text is not None and chosen(row.text, row.question) is None for row in rows),
        }
        return Table(counts, labels, metrics, totals, right, unit="question with its rotations", more=more)

    def upload(self, rows: Sequence[Answered], path: Path, every: Path | None) -> int:
        """As LLaVA's convert_mmbench_for_submission.py: the TSV's columns but those that describe, with prediction."""
        official = [row.question.official for row in rows]
        columns = list(dict.fromkeys(name for one in official for name in one))
        columns.insert(min(6, len(columns)), "prediction")
        lines = [
            [{**row.question.official, "prediction": row.text or ""}.get(name) for name in columns] for row in rows
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in lines:
            line[columns.index("index")] = int(line[columns.index("index")] or 0)
        write_sheet(path, columns, lines)
        return len(rows)


class MmbenchCn(Mmbench):
    name = "mmbench-cn"
    title = "MMBench-CN"
    suffix = "请直接回答选项字母。"


def chosen(text: str, question: Question) -> str | None:
    """The option that an answer names: `B`, `B.`, `(B)`, `B. words`, or the words of one option; else None, as where
    MMBench's own evaluation would ask a model."""
    plain = text.strip()
    letters = _OPTIONS[: len(question.options)]
    head = plain.removeprefix("(")
    if head[:1] in letters and head[:1] and (len(head) == 1 or head[1] in ".):,\n" or head[1:] == ""):
        return head[0]
    words = plain.rstrip(".").lower()
    same = [
        letter for letter, option in zip(letters, question.options, strict=True) if option.rstrip(".").lower() == words
    ]
    return same[0] if len(same) == 1 else None


def _is_none(value: Any) -> bool:
    """A cell that LLaVA's model_vqa_mmbench.py takes for nothing; also ends the list of options."""
    return value is None or str(value).lower() in ("nan", "none")


def _index(question: Question) -> int:
    if not question.id.isdecimal():
        raise InputError(f"index {question.id!r} is not a number, which MMBench's rotations are told by.")
    return int(question.id)


def _picture(cell: Any, pictures: Mapping[str, Any], where: str) -> bytes | None:
    if cell is None:
        return None
    text = str(cell)
    if len(text) <= _LONGEST_REFERENCE and text in pictures:
        text = str(pictures[text])
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{where}: image is not base64 ({error}).") from error
