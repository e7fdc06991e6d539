"""TextVQA: 5,000 validation questions about words in pictures, scored by ten people's answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from lavabeam.evaluation.benchmarks.base import Benchmark, accuracy_table, add_truth, first_row, people, write_json
from lavabeam.evaluation.joining import Truth
from lavabeam.evaluation.layouts import field, rows_of
from lavabeam.evaluation.normalise import evalai
from lavabeam.evaluation.question import LLAVA, ONE_WORD, Answered, Question
from lavabeam.evaluation.table import Table
from lavabeam.evaluation.vqa import soft_accuracy
from schemas.errors import InputError

_OCR = "\nReference OCR token:"


class Textvqa(Benchmark):
    """LLaVA's questions show the words that OCR found; lmms-eval's do not (48.7 instead of 61.3 for 13B)."""

    name = "textvqa"
    title = "TextVQA"
    source = "Singh et al. 2019, arXiv:1904.08920; textvqa.org"
    by_text: ClassVar = True
    truth_file = "TextVQA_0.5.1_val.json"
    upload_file = "a JSON list of question_id and answer (EvalAI)"

    def questions(self, path: Path, protocol: str) -> list[Question]:
        """LLaVA's llava_textvqa_val_v051_ocr.jsonl; for lmms-eval also the official TextVQA_0.5.1_*.json."""
        where, row = first_row(path)
        if protocol == LLAVA and "text" not in row:
            raise InputError(
                f"{where}: the official questions hold no OCR words. Give llava_textvqa_val_v051_ocr.jsonl as "
                "--questions and this file as --truth, or ask without them by --protocol lmms-eval."
            )
        return super().questions(path, protocol)

    def question(self, row: dict[str, Any], where: str, protocol: str) -> Question:
        if "text" in row:
            asked = super().question(row, where, LLAVA)
            stem = asked.stem.partition(_OCR)[0]
            text = asked.text if protocol == LLAVA else f"{stem.capitalize()}\n{ONE_WORD}"
            return Question(asked.id, text, stem, asked.image)
        stem, image = field(row, "question", where), str(field(row, "image_id", where))
        truth = people(row, where) if row.get("answers") else None
        official = {"question_id": row.get("question_id")}
        return Question(image, f"{stem.capitalize()}\n{ONE_WORD}", stem, f"{image}.jpg", truth=truth, official=official)

    def upload_id(self, question: Question) -> str:
        """The official number: ids are pictures here, as in LLaVA's file."""
        return str(question.official.get("question_id", question.id))

    def words(self, prompt: str) -> str:
        return super().words(prompt.partition(_OCR)[0])

    def truths(self, path: Path) -> dict[Any, Truth]:
        found: dict[Any, Truth] = {}
        for where, row in rows_of(path):
            key = (str(field(row, "image_id", where)), super().words(field(row, "question", where)))
            add_truth(found, key, Truth(people(row, where)), where)
        return found

    def truth_key(self, question: Question) -> Any:
        return (question.id, self.words(question.stem))

    def score(self, rows: Sequence[Answered], protocol: str) -> Table:
        scores = [
            0.0 if row.text is None else soft_accuracy(evalai(row.text), [evalai(one) for one in row.truth])
            for row in rows
        ]
        return accuracy_table(rows, scores, [()] * len(rows))

    def upload(self, rows: Sequence[Answered], path: Path, every: Path | None) -> int:
        lines = [{**row.question.official, "answer": evalai(row.text or "")} for row in rows]
        if any(line.get("question_id") is None for line in lines):
            raise InputError(
                "TextVQA's server names questions by numbers, which LLaVA's file does not have. Give the official "
                "TextVQA_0.5.1_*.json as --questions, with --protocol lmms-eval."
            )
        write_json(path, lines)
        return len(lines)
