"""SEED-Bench: 19,242 multiple-choice questions about pictures and about the middle frame of videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lavabeam.evaluation.answers import no_answer, write_jsonl
from lavabeam.evaluation.benchmarks.base import Benchmark, accuracy_table, add_truth
from lavabeam.evaluation.joining import Truth
from lavabeam.evaluation.layouts import field, identity, json_object, rows_in
from lavabeam.evaluation.question import LETTER, LLAVA, Answered, Question
from lavabeam.evaluation.table import Table, Total
from schemas.errors import InputError
from schemas.streams import plain_suffix

TOTALS = (Total("accuracy"), Total("image", "pooled", ("image",)), Total("video", "pooled", ("video",)))


class Seedbench(Benchmark):
    name = "seedbench"
    title = "SEED-Bench"
    source = "Li et al. 2023, arXiv:2307.16125; github.com/AILab-CVC/SEED-Bench"
    truth_file = "SEED-Bench.json"
    upload_file = "JSON lines of question_id and prediction"

    def questions(self, path: Path, protocol: str) -> list[Question]:
        """LLaVA's llava-seed-bench.jsonl, or the official SEED-Bench.json."""
        if plain_suffix(path.name) == ".jsonl":
            return super().questions(path, protocol)
        return [_official(row, where, names) for where, row, names in _rows(path)]

    def question(self, row: dict[str, Any], where: str, protocol: str) -> Question:
        text = field(row, "text", where)
        name = identity(field(row, "question_id", where), where)
        return Question(
            name, text, text.removesuffix(f"\n{LETTER}"), row.get("image"), str(row.get("category") or "all")
        )

    def truths(self, path: Path) -> dict[Any, Truth]:
        found: dict[Any, Truth] = {}
        for where, row, names in _rows(path):
            question = _official(row, where, names)
            add_truth(found, question.id, Truth(question.truth, field(row, "question", where)), where)
        return found

    def score(self, rows: Sequence[Answered], protocol: str) -> Table:
        """LLaVA's script takes the letter alone; lmms-eval the first character."""
        scores = []
        for row in rows:
            said = row.text if row.text is None or protocol == LLAVA else row.text.strip()[:1]
            scores.append(float(said == row.truth[0]))
        return accuracy_table(rows, scores, [row.truth[1:] for row in rows], TOTALS)

    def upload(self, rows: Sequence[Answered], path: Path, every: Path | None) -> int:
        write_jsonl(
            path, [{"question_id": row.question.id, "prediction": row.text or "", **no_answer(row)} for row in rows]
        )
        return len(rows)


def _rows(path: Path) -> list[tuple[str, dict[str, Any], dict[str, str]]]:
    """Each official question, with the names of its types by their ids."""
    whole = json_object(path)
    listed, types = whole.get("questions"), whole.get("question_type")
    if not isinstance(listed, list) or not isinstance(types, dict):
        raise InputError(f"{path}: has no questions and question_type. Give {Seedbench.truth_file}.")
    names = {str(number): name for name, number in types.items()}
    return [(where, row, names) for where, row in rows_in(listed, path)]


def _official(row: dict[str, Any], where: str, names: dict[str, str]) -> Question:
    """The picture's name as LLaVA's extraction script and question file have it."""
    kind, number = str(row.get("data_type") or "image"), str(row.get("question_type_id", ""))
    name = identity(field(row, "question_id", where), where)
    options = tuple(str(field(row, f"choice_{letter}", where)) for letter in "abcd")
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", options, strict=True))
    stem = f"{field(row, 'question', where)}\n{listed}"
    data = field(row, "data_id", where)
    image = f"SEED-Bench-image/{data}" if kind == "image" else f"SEED-Bench-video-image/{number}_{name}.png"
    truth = (str(field(row, "answer", where)), names.get(number, f"type {number}"), kind)
    return Question(name, f"{stem}\n{LETTER}", stem, image, truth[1], truth, options)
